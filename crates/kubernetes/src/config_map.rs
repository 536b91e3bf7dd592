//! The operator's ConfigMap, with what only certificates can say: that every trust bundle is one.

use std::collections::BTreeMap;

use adit_config::cluster::{ClusterConfig, ClusterLink};
use adit_config::{ClusterReport, parse_cluster};
use adit_pki::TrustBundle;
use adit_pki::bundle::BundleError;

/// Reads all fragments, and the certificates in them. A trust bundle that is none is a warning: it keeps neither
/// other clusters' bundles nor anything else from being taken, and whoever uses it keeps the last good one.
///
/// # Errors
/// All that is wrong with them.
pub fn read_config(
    fragments: &BTreeMap<String, String>,
) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
    let (config, mut report) = parse_cluster(fragments)?;
    for (link, error) in bad_bundles(&config) {
        let stays = "the last good one stays in force";
        report.add_warning(format!("trust bundle of link {}: {error}; {stays}", link.cluster));
    }
    Ok((config, report))
}

/// Like [`read_config`], for those who write: nobody writes a document with a bundle that is none.
///
/// # Errors
/// All that is wrong with them.
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

/// The trust bundle of a link.
///
/// # Errors
/// Why it is none.
pub fn link_bundle(link: &ClusterLink) -> Result<TrustBundle, BundleError> {
    TrustBundle::parse(link.trust_domain.clone(), link.trust_bundle.as_bytes())
}

fn bad_bundles(config: &ClusterConfig) -> impl Iterator<Item = (&ClusterLink, BundleError)> {
    config.links.iter().filter_map(|link| Some((link, link_bundle(link).err()?)))
}
