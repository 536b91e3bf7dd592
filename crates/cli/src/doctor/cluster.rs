//! `adit doctor --context …`: one import of a cluster, or all, with the other cluster's side if its context is given; an
//! export or links.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_core::doctor::facts::{CallerNode, DoctorFacts};
use adit_core::doctor::{Diagnosis, diagnose_export, diagnose_link};
use adit_core::name::{ClusterName, ServiceName};
use adit_kubernetes::operator::doctor::ClusterSite;

use super::{Args, DoctorTarget, ImportTarget};
use crate::cluster_args::block_on;

/// Asks the clusters about one import or all of the first one's, or about an export or links.
///
/// # Errors
/// If a cluster cannot be asked.
pub(super) fn diagnose(args: &Args, target: &DoctorTarget) -> anyhow::Result<Vec<Diagnosis>> {
    if args.context.len() > 2 {
        anyhow::bail!(
            "two contexts at most: that of the importing cluster, and that of the exporting one"
        );
    }
    block_on(async {
        let mut sites = Vec::new();
        for name in &args.context {
            let context = args.kubeconfig.connect(Some(name.as_str())).await?;
            sites.push(Box::pin(ClusterSite::read(context)).await?);
        }
        let mut sites = sites.into_iter();
        let Some(first) = sites.next() else { anyhow::bail!("name a context: --context") };
        let second = sites.next();
        match (target, second) {
            (DoctorTarget::Import(target), second) => {
                let (here, there) = match second {
                    Some(second) => in_order(first, second, target.as_ref()),
                    None => (first, None),
                };
                Box::pin(of_imports(args, &here, there.as_ref(), target.as_ref())).await
            }
            (DoctorTarget::Export(target), Some(second)) => {
                Box::pin(of_imports(args, &second, Some(&first), Some(target))).await
            }
            (DoctorTarget::Export(target), None) => Box::pin(of_export(&first, target)).await,
            (DoctorTarget::Link(to), second) => {
                Box::pin(of_links(&first, second.as_ref(), to.as_ref())).await
            }
        }
    })
}

async fn of_imports(
    args: &Args,
    here: &ClusterSite,
    there: Option<&ClusterSite>,
    target: Option<&ImportTarget>,
) -> anyhow::Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    for target in targets(here, target)? {
        let facts = Box::pin(facts(args, here, there, &target)).await?;
        found.push(adit_core::doctor::diagnose(&facts));
    }
    Ok(found)
}

/// The export by itself, and this end of the links by which others reach it.
async fn of_export(there: &ClusterSite, target: &ImportTarget) -> anyhow::Result<Vec<Diagnosis>> {
    let side = Box::pin(there.export_side(&target.service, "")).await?;
    let grants = side.export.iter().flat_map(|export| &export.allow);
    let clusters: BTreeSet<String> = grants.map(|(cluster, _)| cluster.clone()).collect();
    let facts = DoctorFacts {
        service: target.service.to_string(),
        from: Some(there.cluster().unwrap_or("this cluster").to_owned()),
        there: Some(side),
        ..DoctorFacts::default()
    };
    let mut found = vec![diagnose_export(&facts)];
    for cluster in clusters {
        found.push(Box::pin(of_link(there, None, &cluster)).await);
    }
    Ok(found)
}

/// The link of two clusters from both ends, or those of one.
async fn of_links(
    first: &ClusterSite,
    second: Option<&ClusterSite>,
    to: Option<&ClusterName>,
) -> anyhow::Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    let name = |site: &ClusterSite, otherwise: &str| site.cluster().unwrap_or(otherwise).to_owned();
    if let Some(second) = second {
        let (a, b) = (name(first, "the first context"), name(second, "the second context"));
        if to.is_some_and(|to| ![&a, &b].contains(&&to.to_string())) {
            anyhow::bail!("the contexts are of clusters {a} and {b}");
        }
        found.push(Box::pin(of_link(first, Some(second), &b)).await);
        found.push(Box::pin(of_link(second, Some(first), &a)).await);
        return Ok(found);
    }
    let all = match to {
        Some(to) => vec![to.to_string()],
        None => first.links(),
    };
    if all.is_empty() {
        anyhow::bail!("nothing is linked there; name the cluster that should be: link CLUSTER");
    }
    for to in all {
        found.push(Box::pin(of_link(first, None, &to)).await);
    }
    Ok(found)
}

async fn of_link(here: &ClusterSite, there: Option<&ClusterSite>, to: &str) -> Diagnosis {
    let node = here.ask_link(to).await;
    let us = here.cluster().unwrap_or_default();
    let mut other = there.map(|there| there.other_end(us));
    if let (Some(other), Some(there)) = (&mut other, there)
        && let CallerNode::Answered(node) = there.ask_link(us).await
    {
        other.clock = Some((node.clock, node.asker_clock));
        other.installation.version = Some(node.version);
    }
    diagnose_link(&DoctorFacts {
        from: Some(to.to_owned()),
        here: Some(here.link_side(to)),
        node,
        there: other,
        ..DoctorFacts::default()
    })
}

/// The importing site first, in whichever order they were named.
fn in_order(
    first: ClusterSite,
    second: ClusterSite,
    target: Option<&ImportTarget>,
) -> (ClusterSite, Option<ClusterSite>) {
    let imports = |site: &ClusterSite| match target {
        Some(target) => site.does_import(&target.service),
        None => !site.imports().is_empty(),
    };
    if !imports(&first) && imports(&second) { (second, Some(first)) } else { (first, Some(second)) }
}

fn targets(here: &ClusterSite, target: Option<&ImportTarget>) -> anyhow::Result<Vec<ImportTarget>> {
    if let Some(target) = target {
        return Ok(vec![target.clone()]);
    }
    let all: Vec<ServiceName> = here.imports();
    if all.is_empty() {
        anyhow::bail!("nothing is imported there; name the Service that should be: NAMESPACE/NAME");
    }
    Ok(all.into_iter().map(|service| ImportTarget { service, port: None }).collect())
}

async fn facts(
    args: &Args,
    here: &ClusterSite,
    there: Option<&ClusterSite>,
    target: &ImportTarget,
) -> anyhow::Result<DoctorFacts> {
    let (service, port) = (&target.service, target.port.as_deref());
    let name = service.to_string();
    let side = Box::pin(here.import_side(service, there.and_then(ClusterSite::cluster))).await?;
    let mut other = match there {
        Some(there) => {
            let importer = here.cluster().unwrap_or_default();
            Some(Box::pin(there.export_side(service, importer)).await?)
        }
        None => None,
    };
    let granted: Vec<String> = other
        .iter()
        .filter_map(|other| other.export.as_ref())
        .flat_map(|export| &export.allow)
        .filter(|(cluster, _)| Some(&**cluster) == here.cluster())
        .map(|(_, pattern)| pattern.clone())
        .collect();
    let caller = Box::pin(here.caller(args.from.as_deref(), service, &side, &granted)).await?;
    let node = here.ask_node(&caller, &name, port).await;
    if let (Some(other), Some(there)) = (&mut other, there)
        && let Some((clock, asker_clock, version)) = there.clock(&name).await
    {
        other.clock = Some((clock, asker_clock));
        other.installation.version = Some(version);
    }
    let card = match there.filter(|_| args.card) {
        Some(there) => Some(there.card(service, port, Duration::MAX).await),
        None => None,
    };
    let from = side.import.as_ref().map(|import| import.from.clone());
    let from = from.or_else(|| there.and_then(ClusterSite::cluster).map(str::to_owned));
    Ok(DoctorFacts { service: name, from, here: Some(side), caller, node, there: other, card })
}
