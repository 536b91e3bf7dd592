//! `adit doctor` of one daemon, by its admin socket: without Kubernetes, and in the pod of a node.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::SystemTime;

use adit_core::doctor::facts::{CallerFacts, CallerNode, DaemonFacts, DoctorFacts};
use adit_core::doctor::{Diagnosis, diagnose_link};
use adit_core::name::ClusterName;
use adit_daemon::admin::client::{self, AdminAddress};
use adit_daemon::admin::probe::ProbeRequest;
use adit_daemon::status::StatusDocument;
use adit_daemon::status::testimony::{testimony, testimony_of_link};

use super::{Args, DoctorTarget, ImportTarget};
use crate::cluster_args::block_on;
use crate::output::print;
use crate::status::admin_address;

/// Asks the daemon about one import or link, or all.
///
/// # Errors
/// If it cannot be asked, or the configuration file does not say where it is.
pub(super) fn diagnose(args: &Args, target: &DoctorTarget) -> anyhow::Result<Vec<Diagnosis>> {
    let address = address(args)?;
    block_on(async {
        let status = client::status(&address).await?;
        let mut found = Vec::new();
        let target = match target {
            DoctorTarget::Import(target) => target.as_ref(),
            DoctorTarget::Link(to) => return of_links(&status, to.as_ref()),
            DoctorTarget::Export(_) => anyhow::bail!("an export is asked of clusters: --context"),
        };
        for target in targets(&status, target)? {
            found
                .push(adit_core::doctor::diagnose(&facts(args, &address, &status, &target).await?));
        }
        Ok(found)
    })
}

/// Prints what this daemon says of an import, and of a probe if a caller is named, or of a link.
///
/// # Errors
/// If it cannot be asked.
pub(super) fn print_facts(args: &Args, target: &DoctorTarget) -> anyhow::Result<ExitCode> {
    let address = address(args)?;
    let node = block_on(async {
        let status = client::status(&address).await?;
        match target {
            DoctorTarget::Import(Some(target)) => {
                ask(&address, &status, target, args.from.as_deref()).await
            }
            DoctorTarget::Link(Some(to)) => Ok(testimony_of_link(&status, to.as_str(), now())),
            DoctorTarget::Import(None) | DoctorTarget::Link(None) | DoctorTarget::Export(_) => {
                anyhow::bail!("which import or link? name NAMESPACE/NAME, or link CLUSTER")
            }
        }
    })?;
    print(&serde_json::to_string(&node)?)?;
    Ok(ExitCode::SUCCESS)
}

fn of_links(status: &StatusDocument, to: Option<&ClusterName>) -> anyhow::Result<Vec<Diagnosis>> {
    let all: Vec<_> = match to {
        Some(to) => vec![to.as_str()],
        None => status.links.iter().map(|link| &*link.cluster).collect(),
    };
    if all.is_empty() {
        anyhow::bail!("this node has no link");
    }
    let diagnose = |to: &str| {
        let node = testimony_of_link(status, to, now());
        diagnose_link(&DoctorFacts {
            from: Some(to.to_owned()),
            node: CallerNode::Answered(Box::new(node)),
            ..DoctorFacts::default()
        })
    };
    Ok(all.into_iter().map(diagnose).collect())
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn address(args: &Args) -> anyhow::Result<AdminAddress> {
    match admin_address(args.admin.as_deref(), args.config.as_deref()) {
        Ok((address, _)) => Ok(address),
        Err(report) => {
            anyhow::bail!("the configuration does not say where the daemon is\n{report}")
        }
    }
}

fn targets(
    status: &StatusDocument,
    target: Option<&ImportTarget>,
) -> anyhow::Result<Vec<ImportTarget>> {
    if let Some(target) = target {
        return Ok(vec![target.clone()]);
    }
    if status.imports.is_empty() {
        anyhow::bail!("this node imports nothing");
    }
    status.imports.iter().map(|import| super::parse_target(&import.service)).collect()
}

async fn ask(
    address: &AdminAddress,
    status: &StatusDocument,
    target: &ImportTarget,
    from: Option<&str>,
) -> anyhow::Result<DaemonFacts> {
    let service = target.service.to_string();
    let probe = match from {
        Some(from) => {
            let (port, from) = (target.port.clone(), from.to_owned());
            let request = ProbeRequest { service: service.clone(), port, from, only_ask: false };
            Some(client::probe(address, &request).await?)
        }
        None => None,
    };
    Ok(testimony(status, &service, probe, now()))
}

async fn facts(
    args: &Args,
    address: &AdminAddress,
    status: &StatusDocument,
    target: &ImportTarget,
) -> anyhow::Result<DoctorFacts> {
    let import = status.imports.iter().find(|import| import.service == target.service.to_string());
    let chosen =
        || import.and_then(|import| import.allow.iter().find(|p| !p.contains('*')).cloned());
    let from = args.from.clone().or_else(chosen);
    let account = from.clone().filter(|from| from.parse::<IpAddr>().is_err());
    let missing =
        from.is_none().then(|| "no caller is named, and the import names none".to_owned());
    let node = match from.as_deref() {
        Some(from) => ask(address, status, target, Some(from)).await?,
        None => ask(address, status, target, None).await?,
    };
    Ok(DoctorFacts {
        service: target.service.to_string(),
        from: import.map(|import| import.from.clone()),
        caller: CallerFacts {
            asked: args.from.clone().unwrap_or_default(),
            missing,
            account,
            ..CallerFacts::default()
        },
        node: CallerNode::Answered(Box::new(node)),
        ..DoctorFacts::default()
    })
}
