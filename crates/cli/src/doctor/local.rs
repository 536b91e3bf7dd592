//! `adit doctor` of one daemon, by its admin socket: without Kubernetes, and in the pod of a node.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::SystemTime;

use adit_core::doctor::Diagnosis;
use adit_core::doctor::facts::{CallerFacts, CallerNode, DaemonFacts, DoctorFacts};
use adit_daemon::admin::client::{self, AdminAddress};
use adit_daemon::admin::probe::ProbeRequest;
use adit_daemon::status::StatusDocument;
use adit_daemon::status::testimony::testimony;

use super::{Args, ImportTarget};
use crate::cluster_args::block_on;
use crate::output::print;
use crate::status::admin_address;

/// Asks the daemon about one import, or all.
///
/// # Errors
/// If it cannot be asked, or the configuration file does not say where it is.
pub(super) fn diagnose(
    args: &Args,
    target: Option<&ImportTarget>,
) -> anyhow::Result<Vec<Diagnosis>> {
    let address = address(args)?;
    block_on(async {
        let status = client::status(&address).await?;
        let mut found = Vec::new();
        for target in targets(&status, target)? {
            found
                .push(adit_core::doctor::diagnose(&facts(args, &address, &status, &target).await?));
        }
        Ok(found)
    })
}

/// Prints what this daemon says of an import, and of a probe if a caller is named.
///
/// # Errors
/// If it cannot be asked.
pub(super) fn print_facts(args: &Args, target: Option<&ImportTarget>) -> anyhow::Result<ExitCode> {
    let Some(target) = target else { anyhow::bail!("which import? name NAMESPACE/NAME") };
    let address = address(args)?;
    let node = block_on(async {
        let status = client::status(&address).await?;
        ask(&address, &status, target, args.from.as_deref()).await
    })?;
    print(&serde_json::to_string(&node)?)?;
    Ok(ExitCode::SUCCESS)
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
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(testimony(status, &service, probe, clock.map_or(0, |since| since.as_secs())))
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
