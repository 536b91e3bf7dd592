//! The operator's ConfigMap, checked further than its syntax: every trust bundle must be valid.

use std::collections::BTreeMap;

use adit_config::cluster::{ClusterConfig, ClusterLink, parse_fragment};
use adit_config::{ClusterReport, parse_cluster};
use adit_pki::TrustBundle;
use adit_pki::bundle::BundleError;

/// Reads all fragments, and the certificates in them. An invalid trust bundle, or one of another trust domain than
/// its link says, is only a warning: everything else is still used, and the last good trust of that link stays in force.
///
/// # Errors
/// All problems of the fragments.
pub fn read_config(
    fragments: &BTreeMap<String, String>,
) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
    let (config, mut report) = parse_cluster(fragments)?;
    for (link, error) in bad_bundles(&config) {
        let message = format!(
            "trust bundle of link {}: {error}; the last good one stays in force, with its trust domain: mend \
             trustDomain or trustBundle, or run adit link again",
            link.cluster
        );
        report.add_warning_in(key_of(link, fragments), message);
    }
    Ok((config, report))
}

/// Returns the key of the fragment that declares a link.
fn key_of<'a>(link: &ClusterLink, fragments: &'a BTreeMap<String, String>) -> &'a str {
    let declares = |(key, text): &(&'a String, &'a String)| {
        parse_fragment(key, text)
            .is_ok_and(|fragment| fragment.links.iter().any(|l| l.cluster == link.cluster))
    };
    fragments.iter().find(declares).map_or("ConfigMap", |(key, _)| key)
}

/// Like [`read_config`], but an invalid trust bundle is an error: for commands, which must not
/// write one.
///
/// # Errors
/// All problems of the fragments.
pub fn check_config(
    fragments: &BTreeMap<String, String>,
) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
    let (config, mut report) = parse_cluster(fragments)?;
    let mut bad = false;
    for (link, error) in bad_bundles(&config) {
        bad = true;
        report.add_error(format!("trust bundle of link {}: {error}", link.cluster));
    }
    if bad { Err(report) } else { Ok((config, report)) }
}

/// Returns the trust bundle of a link.
///
/// # Errors
/// The reason why it is not a valid bundle.
pub fn link_bundle(link: &ClusterLink) -> Result<TrustBundle, BundleError> {
    TrustBundle::parse(link.trust_domain.clone(), link.trust_bundle.as_bytes())
}

/// Returns the links whose trust bundle is not valid, and the reason.
pub(crate) fn bad_bundles(
    config: &ClusterConfig,
) -> impl Iterator<Item = (&ClusterLink, BundleError)> {
    config.links.iter().filter_map(|link| Some((link, link_bundle(link).err()?)))
}
