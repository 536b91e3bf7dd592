//! `adit doctor --context …`: one import of a cluster, or all, with the other cluster's side if its context is given.

use adit_core::doctor::Diagnosis;
use adit_core::doctor::facts::DoctorFacts;
use adit_core::name::ServiceName;
use adit_kubernetes::operator::doctor::ClusterSite;

use super::{Args, ImportTarget};
use crate::cluster_args::block_on;

/// Asks the clusters about one import, or all of the first one's.
///
/// # Errors
/// If a cluster cannot be asked.
pub(super) fn diagnose(
    args: &Args,
    target: Option<&ImportTarget>,
) -> anyhow::Result<Vec<Diagnosis>> {
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
        let (here, there) = match second {
            Some(second) => in_order(first, second, target),
            None => (first, None),
        };
        let mut found = Vec::new();
        for target in targets(&here, target)? {
            let facts = Box::pin(facts(args, &here, there.as_ref(), &target)).await?;
            found.push(adit_core::doctor::diagnose(&facts));
        }
        Ok(found)
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
        Some(there) => Some(there.card(service, port).await),
        None => None,
    };
    let from = side.import.as_ref().map(|import| import.from.clone());
    let from = from.or_else(|| there.and_then(ClusterSite::cluster).map(str::to_owned));
    Ok(DoctorFacts { service: name, from, here: Some(side), caller, node, there: other, card })
}
