//! Who this node is and whom it believes, read from files at the start and again when they change.
//!
//! At the start this node's own files have to be right. Beyond that each part stands for itself: a bad file of one
//! link keeps neither a renewed certificate nor another link's new bundle from being taken, and what it was
//! read as last stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_config::Config;
use adit_config::config::Link;
use adit_pki::files::{self, FileError};
use adit_pki::{
    Current, DenyList, Identity, PeerVerifier, Trust, TrustBundle, TrustBundles, UnixTime,
};

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
    /// Reads all files. A trust bundle that cannot be taken is told and leaves out its own link alone.
    ///
    /// # Errors
    /// What is wrong with this node's own files; then with all others as well.
    pub(super) fn load(config: &Config, now: UnixTime) -> Result<(Self, Vec<String>), Vec<String>> {
        let read = Read::new(config, now);
        let kept = read.kept(config);
        let (bundles, errors) = read.bundles(&kept, now);
        match read.identity {
            Ok((identity, _)) => {
                let verifier = PeerVerifier::new(believed(config, bundles));
                let identity = Arc::new(Current::new(identity));
                Ok((Self { identity, verifier: Arc::new(verifier) }, errors))
            }
            Err(error) => Err(std::iter::once(error).chain(errors).collect()),
        }
    }

    /// Reads all files again and takes what is good.
    pub(super) fn reload(&self, config: &Config, now: UnixTime) -> Reread {
        let read = Read::new(config, now);
        let trust = self.verifier.trust();
        let (bundles, mut errors) = read.bundles(&trust.bundles, now);
        let mut changed = false;
        match read.identity {
            Ok((identity, _)) if identity.chain() != self.identity.get().chain() => {
                self.identity.set(identity);
                changed = true;
            }
            Ok(_) => {}
            Err(error) => errors.insert(0, error),
        }
        let believed = believed(config, bundles);
        if !believed.bundles.is_same(&trust.bundles) || believed.denied != trust.denied {
            self.verifier.set_trust(believed);
            changed = true;
        }
        Reread { changed, errors }
    }
}

/// Who is believed: the nodes of all bundles and the controller of our own, but for those who are denied.
fn believed(config: &Config, bundles: TrustBundles) -> Trust {
    let own = (&config.cluster, &config.trust_domain);
    let links = config.links.iter().map(|link| (&link.cluster, &link.trust_domain));
    let domains: BTreeMap<_, _> = links.chain([own]).collect();
    let denied = DenyList::new(&config.denied, |cluster| domains.get(cluster).copied().cloned());
    Trust { bundles, nodes_by_id: [config.trust_domain.controller_id()].into(), denied }
}

/// What the files say.
struct Read<'a> {
    config: &'a Config,
    identity: Result<(Identity, TrustBundle), String>,
    links: Vec<Result<TrustBundle, FileError>>,
}

impl<'a> Read<'a> {
    fn new(config: &'a Config, now: UnixTime) -> Self {
        let bundle = |l: &Link| files::load_bundle(&l.trust_bundle, &l.trust_domain);
        Self {
            config,
            identity: own(config, now),
            links: config.links.iter().map(bundle).collect(),
        }
    }

    /// What is kept of bundles for a start, where they cannot be taken as they are.
    fn kept(&self, config: &Config) -> TrustBundles {
        let kept = |link: &Link| {
            let file = link.last_bundle.as_ref()?;
            files::load_bundle(file, &link.trust_domain).ok()
        };
        let mut all = TrustBundles::default();
        // They were in force together; one that is in the way now is done without.
        config.links.iter().filter_map(kept).for_each(|bundle| drop(all.insert(bundle)));
        all
    }

    /// All bundles together, what `last` has for those that cannot be taken, and why each cannot.
    fn bundles(&self, last: &TrustBundles, now: UnixTime) -> (TrustBundles, Vec<String>) {
        let own = self.identity.as_ref().ok().map(|(_, bundle)| bundle.clone());
        let mut all = vec![(self.config.trust_domain.clone(), own)];
        let mut errors = Vec::new();
        for (link, read) in self.config.links.iter().zip(&self.links) {
            if let Err(error) = read {
                errors.push(format!("trust bundle of link {}: {error}", link.cluster));
            }
            all.push((link.trust_domain.clone(), read.as_ref().ok().cloned()));
        }
        let (bundles, more) = last.renewed(all, now);
        errors.extend(more.iter().map(|e| format!("trust bundles: {e}")));
        (bundles, errors)
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

#[cfg(test)]
mod tests;
