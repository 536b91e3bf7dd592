//! Who this node is and whom it believes, read from files at the start and again when they change.
//!
//! At the start everything has to be right. Later each part stands for itself: a bad file of one link keeps
//! neither a renewed certificate nor another link's new bundle from being taken, and what it was read as
//! last stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_config::Config;
use adit_pki::files::{self, FileError};
use adit_pki::{Current, Identity, PeerVerifier, Trust, TrustBundle, TrustBundles, UnixTime};

/// What handshakes present and believe, replaced in place.
#[derive(Debug)]
pub(super) struct Credentials {
    /// What is presented.
    pub(super) identity: Arc<Current<Identity>>,
    /// Who is believed.
    pub(super) verifier: Arc<PeerVerifier>,
}

/// How reading the files again went.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reread {
    /// Whether anything is different now.
    pub(super) changed: bool,
    /// What could not be taken; the last good one stays.
    pub(super) errors: Vec<String>,
}

impl Credentials {
    /// Reads all files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn load(config: &Config, now: UnixTime) -> Result<Self, Vec<String>> {
        let read = Read::new(config, now);
        let bundles = read.bundles(|_| None);
        match (read.identity, bundles) {
            (Ok((identity, _)), Ok((bundles, errors))) if errors.is_empty() => Ok(Self {
                identity: Arc::new(Current::new(identity)),
                verifier: Arc::new(PeerVerifier::new(believed(config, bundles))),
            }),
            (identity, bundles) => {
                let mut errors: Vec<String> = identity.err().into_iter().collect();
                match bundles {
                    Ok((_, more)) => errors.extend(more),
                    Err(error) => errors.push(error),
                }
                Err(errors)
            }
        }
    }

    /// Reads all files again and takes what is good.
    pub(super) fn reload(&self, config: &Config, now: UnixTime) -> Reread {
        let read = Read::new(config, now);
        let trust = self.verifier.trust();
        let bundles = read.bundles(|domain| trust.bundles.get(domain).cloned());
        let mut changed = false;
        let mut errors = Vec::new();
        match read.identity {
            Ok((identity, _)) if identity.chain() != self.identity.get().chain() => {
                self.identity.set(identity);
                changed = true;
            }
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
        match bundles {
            Ok((bundles, more)) => {
                errors.extend(more);
                if !same(&bundles, &trust.bundles) {
                    self.verifier.set_trust(believed(config, bundles));
                    changed = true;
                }
            }
            Err(error) => errors.push(error),
        }
        Reread { changed, errors }
    }
}

/// Who is believed: the nodes of all bundles, and the controller of our own.
fn believed(config: &Config, bundles: TrustBundles) -> Trust {
    Trust { bundles, nodes_by_id: [config.trust_domain.controller_id()].into() }
}

/// What the files say.
struct Read<'a> {
    config: &'a Config,
    identity: Result<(Identity, TrustBundle), String>,
    links: Vec<Result<TrustBundle, FileError>>,
}

impl<'a> Read<'a> {
    fn new(config: &'a Config, now: UnixTime) -> Self {
        let bundle =
            |l: &adit_config::config::Link| files::load_bundle(&l.trust_bundle, &l.trust_domain);
        Self {
            config,
            identity: own(config, now),
            links: config.links.iter().map(bundle).collect(),
        }
    }

    /// All bundles together, `last` for what could not be read, and what that was.
    fn bundles(
        &self,
        last: impl Fn(&adit_core::spiffe::TrustDomain) -> Option<TrustBundle>,
    ) -> Result<(TrustBundles, Vec<String>), String> {
        let own = match &self.identity {
            Ok((_, bundle)) => Some(bundle.clone()),
            Err(_) => last(&self.config.trust_domain),
        };
        let mut all: Vec<TrustBundle> = own.into_iter().collect();
        let mut errors = Vec::new();
        for (link, read) in self.config.links.iter().zip(&self.links) {
            match read {
                Ok(bundle) => all.push(bundle.clone()),
                Err(error) => {
                    errors.push(format!("trust bundle of link {}: {error}", link.cluster));
                    all.extend(last(&link.trust_domain));
                }
            }
        }
        Ok((TrustBundles::new(all).map_err(|e| format!("trust bundles: {e}"))?, errors))
    }
}

/// The node's own files, and whether they are this node's.
fn own(config: &Config, now: UnixTime) -> Result<(Identity, TrustBundle), String> {
    let (folder, domain) = (&config.node.identity, &config.trust_domain);
    let (identity, bundle) = files::load_node(folder, domain, &BTreeSet::new(), now)
        .map_err(|e| format!("identity: {e}; adit pki issue makes one"))?;
    belongs(config, &identity).map_err(|e| format!("identity: {e}"))?;
    Ok((identity, bundle))
}

/// Whether an identity is the one that the configuration wants.
pub(super) fn belongs(config: &Config, identity: &Identity) -> Result<(), String> {
    let expected = config.trust_domain.node_id(&config.node.name);
    if *identity.id() == expected {
        return Ok(());
    }
    Err(format!(
        "{} holds the certificate of {}, and the configuration says that this node is {expected}",
        config.node.identity.display(),
        identity.id()
    ))
}

fn same(a: &TrustBundles, b: &TrustBundles) -> bool {
    let flat = |all: &TrustBundles| -> Vec<_> {
        let one = |b: &TrustBundle| -> Vec<_> {
            b.authorities().iter().map(|a| (b.domain().clone(), a.certificate().clone())).collect()
        };
        all.iter().flat_map(one).collect()
    };
    flat(a) == flat(b)
}

#[cfg(test)]
mod tests;
