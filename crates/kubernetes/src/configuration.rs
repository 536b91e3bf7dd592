//! The operator's ConfigMap, with what only certificates can say: that every trust bundle is one.

use std::collections::BTreeMap;

use adit_config::cluster::ClusterConfig;
use adit_config::{ClusterReport, parse_cluster};
use adit_pki::TrustBundle;

/// Reads all fragments, and the certificates in them.
///
/// # Errors
/// All that is wrong with them.
pub fn read(
    fragments: &BTreeMap<String, String>,
) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
    let (config, mut report) = parse_cluster(fragments)?;
    let mut bad = false;
    for link in &config.links {
        let parsed = TrustBundle::parse(link.trust_domain.clone(), link.trust_bundle.as_bytes());
        if let Err(error) = parsed {
            bad = true;
            report.refuse(format!("trust bundle of link {}: {error}", link.cluster));
        }
    }
    if bad { Err(report) } else { Ok((config, report)) }
}
