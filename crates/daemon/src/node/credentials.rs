//! The identity and the trust of this node, read from files at the start and again when they change.
//!
//! At the start this node's own files have to be right. Beyond that each part stands for itself: a bad file of one
//! link keeps neither a renewed certificate nor another link's new bundle from being taken, and what it was
//! read as last stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use adit_config::config::LinkConfig;
use adit_config::{Config, ConfigReport, FileFinding};
use adit_pki::files::{self, FileError};
use adit_pki::trust::TrustError;
use adit_pki::{
    Current, DenyList, Identity, PeerVerifier, Trust, TrustBundle, TrustBundles, UnixTime,
};

/// A file that a configuration refers to and that is of no use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CredentialFault(FileFinding);

impl fmt::Display for CredentialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileFinding { path, message, hint, is_unreadable: _ } = &self.0;
        write!(f, "{path}: {message}")?;
        hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl CredentialFault {
    /// `maker` says what makes a file that is not there.
    fn new(path: &str, error: &FileError, maker: &str) -> Self {
        let unreadable = if let FileError::Io { error, .. } = error { Some(error) } else { None };
        let hint = unreadable.map(|error| adit_config::unreadable_hint(error.kind(), maker));
        let is_unreadable = unreadable.is_some();
        let (path, message) = (path.to_owned(), error.to_string());
        Self(FileFinding { path, message, hint, is_unreadable })
    }

    /// A fault whose message says what to do as well.
    fn plain(path: String, message: String) -> Self {
        Self(FileFinding { path, message, hint: None, is_unreadable: false })
    }

    /// The same for `adit check`.
    pub(super) fn into_finding(self) -> FileFinding {
        self.0
    }
}

/// All that is wrong with a node's file and the files that it refers to, as the node would say it.
#[must_use]
pub fn check(file: &Path) -> ConfigReport {
    adit_config::check_with(file, |config| {
        let loaded = Credentials::load(config, UnixTime::now());
        let faults = loaded.map_or_else(|faults| faults, |(_, faults)| faults);
        faults.into_iter().map(CredentialFault::into_finding).collect()
    })
}

/// The identity that handshakes present and the trust that they verify against, replaced in place.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The identity presented.
    pub(super) identity: Arc<Current<Identity>>,
    /// The verifier of peers' certificates.
    pub(super) verifier: Arc<PeerVerifier>,
}

/// The result of reading the files again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CredentialsReload {
    /// True if identity or trust is another one now.
    pub(super) changed: bool,
    /// Faults of files that could not be taken; the last good ones stay in use.
    pub(super) errors: Vec<String>,
}

impl Credentials {
    /// Reads all files. A trust bundle that cannot be taken is told and leaves out its own link alone.
    ///
    /// # Errors
    /// What is wrong with this node's own files; then with all others as well.
    pub(super) fn load(
        config: &Config,
        now: UnixTime,
    ) -> Result<(Self, Vec<CredentialFault>), Vec<CredentialFault>> {
        let read = CredentialFiles::new(config, now);
        let kept = read.stored_bundles(config);
        let (bundles, errors) = read.bundles(&kept, now);
        match read.identity {
            Ok((identity, _)) => {
                let verifier = PeerVerifier::new(build_trust(config, bundles));
                let identity = Arc::new(Current::new(identity));
                Ok((Self { identity, verifier: Arc::new(verifier) }, errors))
            }
            Err(own) => Err(own.into_iter().chain(errors).collect()),
        }
    }

    /// Reads all files again and takes what is good.
    pub(super) fn reload(&self, config: &Config, now: UnixTime) -> CredentialsReload {
        let read = CredentialFiles::new(config, now);
        let trust = self.verifier.trust();
        let (bundles, others) = read.bundles(&trust.bundles, now);
        let mut errors: Vec<_> = others.iter().map(ToString::to_string).collect();
        let mut changed = false;
        match read.identity {
            Ok((identity, _)) if identity.chain() != self.identity.get().chain() => {
                self.identity.set(identity);
                changed = true;
            }
            Ok(_) => {}
            Err(own) => drop(errors.splice(0..0, own.iter().map(ToString::to_string))),
        }
        let believed = build_trust(config, bundles);
        if !believed.bundles.is_same(&trust.bundles) || believed.denied != trust.denied {
            self.verifier.set_trust(believed);
            changed = true;
        }
        CredentialsReload { changed, errors }
    }
}

/// The trust of this node: the nodes of all bundles and the controller of its own cluster, except those denied.
fn build_trust(config: &Config, bundles: TrustBundles) -> Trust {
    let own = (&config.cluster, &config.trust_domain);
    let links = config.links.iter().map(|link| (&link.cluster, &link.trust_domain));
    let domains: BTreeMap<_, _> = links.chain([own]).collect();
    let denied = DenyList::new(&config.denied, |cluster| domains.get(cluster).copied().cloned());
    Trust { bundles, nodes_by_id: [config.trust_domain.controller_id()].into(), denied }
}

/// The contents of all files.
struct CredentialFiles<'a> {
    config: &'a Config,
    identity: Result<(Identity, TrustBundle), Vec<CredentialFault>>,
    links: Vec<Result<TrustBundle, FileError>>,
}

impl<'a> CredentialFiles<'a> {
    fn new(config: &'a Config, now: UnixTime) -> Self {
        let bundle = |l: &LinkConfig| files::load_bundle(&l.trust_bundle, &l.trust_domain);
        Self {
            config,
            identity: load_own(config, now),
            links: config.links.iter().map(bundle).collect(),
        }
    }

    /// The last good bundles kept on disk, for a start with ones that cannot be taken.
    fn stored_bundles(&self, config: &Config) -> TrustBundles {
        let kept = |link: &LinkConfig| {
            let file = link.last_bundle.as_ref()?;
            files::load_bundle(file, &link.trust_domain).ok()
        };
        let mut all = TrustBundles::default();
        // They were in force together; one that is in the way now is done without.
        config.links.iter().filter_map(kept).for_each(|bundle| drop(all.insert(bundle)));
        all
    }

    /// All bundles together, what `last` has for those that cannot be taken, and why each cannot.
    fn bundles(&self, last: &TrustBundles, now: UnixTime) -> (TrustBundles, Vec<CredentialFault>) {
        let own = self.identity.as_ref().ok().map(|(_, bundle)| bundle.clone());
        let mut all = vec![(self.config.trust_domain.clone(), own)];
        let mut errors = Vec::new();
        for (nth, (link, read)) in self.config.links.iter().zip(&self.links).enumerate() {
            if let Err(error) = read {
                let maker = "`adit pki bundle` on the other cluster writes it";
                let mut fault = CredentialFault::new(&bundle_path(nth), error, maker);
                fault.0.message += &format!(" (link {})", link.cluster);
                errors.push(fault);
            }
            all.push((link.trust_domain.clone(), read.as_ref().ok().cloned()));
        }
        let (bundles, more) = last.renewed(all, now);
        errors.extend(more.iter().map(|error| self.rejected_bundle(error)));
        (bundles, errors)
    }

    /// A bundle that is one and is not believed, with its file.
    fn rejected_bundle(&self, error: &TrustError) -> CredentialFault {
        let links = self.config.links.iter().enumerate();
        let of_link = links.rev().find(|(_, link)| link.trust_domain == *error.domain());
        let (path, file, link) = match of_link {
            Some((nth, link)) => {
                (bundle_path(nth), link.trust_bundle.clone(), format!(" (link {})", link.cluster))
            }
            None => {
                let own = self.config.node.identity.join(files::BUNDLE);
                (OWN_PATH.to_owned(), own, String::new())
            }
        };
        CredentialFault::plain(path, format!("{}: {error}{link}", file.display()))
    }
}

/// The key of this node's own files.
const OWN_PATH: &str = "node.identity";

/// The key of a link's bundle.
fn bundle_path(nth: usize) -> String {
    format!("links[{nth}].trustBundle")
}

/// The node's own files, and whether they are this node's.
fn load_own(
    config: &Config,
    now: UnixTime,
) -> Result<(Identity, TrustBundle), Vec<CredentialFault>> {
    let (folder, domain) = (&config.node.identity, &config.trust_domain);
    let maker = "`adit pki issue` writes it";
    let fault = |error: &FileError| CredentialFault::new(OWN_PATH, error, maker);
    let (identity, bundle) = files::load_node(folder, domain, &BTreeSet::new(), now)
        .map_err(|all| all.iter().map(fault).collect::<Vec<_>>())?;
    check_belongs(config, &identity)
        .map_err(|e| vec![CredentialFault::plain(OWN_PATH.into(), e)])?;
    Ok((identity, bundle))
}

/// Checks that an identity is the one that the configuration wants.
pub(super) fn check_belongs(config: &Config, identity: &Identity) -> Result<(), String> {
    let expected = config.trust_domain.node_id(&config.node.name);
    if *identity.id() == expected {
        return Ok(());
    }
    Err(format!(
        "{} is the certificate of {}, and the configuration says that this node is {expected}",
        config.node.identity.join(files::NODE_CHAIN).display(),
        identity.id()
    ))
}

#[cfg(test)]
mod tests;
