//! The hops of the exporting side, the answer of the probe, and the card.

use super::card::{CardFault, CardPlace, card_warnings};
use super::facts::{ExportObject, ExportSide, PodFacts, PortFacts, ProbeStage, ServiceFacts};
use super::here::{allows, unready};
use super::{DoctorHop, DoctorSubject, HopOutcome, Walk, list, port_names, short_name};
use crate::code::Code;

/// The most grants that a sentence names.
const MAX_SHOWN: usize = 5;

pub(super) fn export(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Export;
    match missing_export(walk) {
        Some((seen, mend)) => walk.fail(hop, seen, mend),
        None if walk.facts.there.is_some() || knows_export(walk) => {
            walk.good(
                hop,
                format!("{} exports {} to {}", walk.from(), walk.facts.service, walk.here()),
            );
        }
        None => walk.unknown(
            hop,
            "without the context of the exporting cluster only a probe can say",
            None,
        ),
    }
}

/// True if the probe got further than the question whether it is exported.
fn knows_export(walk: &Walk<'_>) -> bool {
    walk.probe().is_some_and(|probe| {
        probe.stage >= ProbeStage::Pick && probe.stage != ProbeStage::Unknown
            || probe.code == Code::Denied.name()
    })
}

pub(super) fn export_command(walk: &Walk<'_>) -> String {
    let account = walk.account().unwrap_or("NAMESPACE/SERVICEACCOUNT");
    if walk.facts.here.is_none() && walk.facts.there.is_none() {
        let (namespace, name) = account.split_once('/').unwrap_or(("", account));
        return format!(
            "`exports` in the files of {}, at {}: allow: [{{cluster: {}, namespace: {namespace}, serviceAccount: {name}}}]",
            walk.from(),
            walk.facts.service,
            walk.here()
        );
    }
    format!(
        "adit export {} --to {} --allow {account}{}",
        walk.facts.service,
        if walk.subject == DoctorSubject::Export { "CLUSTER" } else { walk.here() },
        walk.there_option()
    )
}

/// Why the other cluster does not export it to this one, and the mend.
pub(super) fn missing_export(walk: &Walk<'_>) -> Option<(String, String)> {
    let (from, service, us) = (walk.from(), &walk.facts.service, walk.here());
    let unknown = walk.probe_ended(Code::ExportUnknown);
    let port = walk.probe_ended(Code::PortUnknown).filter(|p| p.stage != ProbeStage::Resolve);
    let same_port_name =
        format!("name the port of Service {service} in {from} as here, or the other way round");
    let Some(there) = &walk.facts.there else {
        if let Some(probe) = unknown {
            return Some((probe.reason.clone(), export_command(walk)));
        }
        let probe = port?;
        return Some((probe.reason.clone(), same_port_name));
    };
    let behind = walk.behind();
    if there.service.is_none() {
        let seen = format!("there is no Service {behind} in {from}");
        let mend = format!(
            "make Service {behind} in {from}, or export one of another name as {service} (adit export --as): {} get services",
            walk.kubectl_there()
        );
        return Some((seen, mend));
    }
    let Some(export) = &there.export else {
        return Some((format!("{from} does not export {service}"), export_command(walk)));
    };
    if let Some(valid) = export.valid.as_ref().filter(|c| !c.is_true && c.reason != "NobodyAllowed")
    {
        let seen = format!("{from} cannot export {service}: {} ({})", valid.message, valid.reason);
        let mend = match &*valid.reason {
            "Imported" => format!("adit import {service} --remove{}", walk.there_option()),
            _ => format!("{} edit service {}", walk.kubectl_there(), walk.behind_name()),
        };
        return Some((seen, mend));
    }
    if walk.subject == DoctorSubject::Import
        && !export.allow.iter().any(|(cluster, _)| cluster == us)
    {
        let to = list(export.allow.iter().map(|(cluster, _)| &**cluster));
        return Some((
            format!("{from} exports {service} to {to}, and not to {us}"),
            export_command(walk),
        ));
    }
    let probe = port?;
    let ports = port_names(&export.ports);
    let seen = format!("{}; the export has {ports}", probe.reason);
    Some((seen, same_port_name))
}

pub(super) fn grant(walk: &mut Walk<'_>) {
    let hop = DoctorHop::ExportGrant;
    let (from, us) = (walk.from(), walk.here());
    let export = walk.facts.there.as_ref().and_then(|there| there.export.as_ref());
    let patterns_for_us = |export: &ExportObject| -> Vec<String> {
        let all = export.allow.iter().filter(|(cluster, _)| cluster == us);
        all.map(|(_, pattern)| pattern.clone()).collect()
    };
    let granted = export.map(patterns_for_us);
    let by_export = granted
        .as_ref()
        .filter(|granted| !granted.is_empty())
        .and_then(|granted| allows(granted.iter().map(|pattern| &**pattern), walk.account()));
    // The import's own rule was asked before.
    let own = walk
        .findings
        .iter()
        .any(|f| f.hop == DoctorHop::ImportGrant && f.outcome == HopOutcome::Failed);
    let denied = walk.probe_ended(Code::Denied).filter(|_| !own);
    if denied.is_none() && by_export != Some(false) {
        if let Some(granted) = granted.filter(|granted| !granted.is_empty()) {
            walk.good(
                hop,
                format!(
                    "the export is for {} of {us}",
                    list(granted.iter().take(MAX_SHOWN).map(|p| &**p))
                ),
            );
        } else if walk.is_answered() {
            walk.good(hop, format!("{from} lets the caller use it"));
        }
        return;
    }
    let account = walk.account().unwrap_or("the caller");
    let seen = match (&granted, denied) {
        (Some(granted), _) => format!(
            "the export in {from} is for {} of {us}, and not for {account}",
            list(granted.iter().take(MAX_SHOWN).map(|p| &**p))
        ),
        (None, Some(probe)) => probe.reason.clone(),
        (None, None) => format!("the export in {from} is not for {account}"),
    };
    let mend = export_command(walk);
    walk.fail(hop, seen, mend);
}

pub(super) fn backend(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Backend;
    let answered = walk.is_answered();
    let probe =
        walk.probe().filter(|probe| Code::from_name(&probe.code).is_some_and(is_of_backend));
    let condition =
        walk.facts.there.as_ref().and_then(|there| there.export.as_ref()?.ready.as_ref());
    let bad = condition.filter(|ready| !ready.is_true && ready.reason != "NodesDiffer");
    if answered {
        let peer = walk.probe().and_then(|probe| probe.peer.as_deref()).unwrap_or("a node");
        return walk.good(hop, format!("a backend accepted a connection from {peer}"));
    }
    let Some((code, sentence)) = probe
        .map(|probe| (probe.code.clone(), probe.reason.clone()))
        .or_else(|| bad.map(|c| (c.reason.clone(), c.message.clone())))
    else {
        if let Some(ready) = condition.filter(|ready| ready.is_true) {
            walk.good(hop, ready.message.clone());
        }
        return;
    };
    let Some(there) = &walk.facts.there else {
        let mend = format!(
            "on {}: adit status{}    # then the agent itself",
            walk.from(),
            walk.there_option()
        );
        return walk.fail(hop, format!("{sentence} ({code})"), mend);
    };
    let (seen, mend) = explain(walk, there, &code, &sentence);
    walk.fail(hop, seen, mend);
}

/// True if a stream that ended with this code found no backend that answers.
fn is_of_backend(code: Code) -> bool {
    [
        Code::NoBackend,
        Code::BackendRefused,
        Code::BackendTimeout,
        Code::BackendUnreachable,
        Code::BackendForbidden,
        Code::HopRefused,
    ]
    .contains(&code)
}

/// Why no backend answers, and the mend.
fn explain(walk: &Walk<'_>, there: &ExportSide, code: &str, sentence: &str) -> (String, String) {
    let kubectl = walk.kubectl_there();
    let name = walk.behind_name();
    let reason = format!("{sentence} ({code})");
    let service = there.service.clone().unwrap_or_default();
    let describe = format!("{kubectl} describe service {name}");
    match Code::from_name(code).or_else(|| Code::from_condition_reason(code)) {
        Some(Code::NoBackend) => no_backend(walk, &service, &kubectl, reason),
        Some(Code::BackendRefused) => (
            format!("nobody listens where the Service leads to: {reason}"),
            listens(walk, &service, &kubectl),
        ),
        Some(Code::BackendTimeout) if !there.ingress_policies.is_empty() => {
            let policy = &there.ingress_policies[0];
            let seen = format!(
                "NetworkPolicy {policy} selects the backend, and nothing in it lets the nodes in: {reason}"
            );
            let name = short_name(policy);
            let mend = format!(
                "{kubectl} edit networkpolicy {name}    # add to spec.ingress: {{from: [{{ipBlock: {{cidr: ADDRESSES-OF-THE-NODES}}}}]}}"
            );
            (seen, mend)
        }
        Some(Code::BackendTimeout) => (
            format!("the backend does not accept connections: {reason}"),
            pod_command(&service, &kubectl).unwrap_or(describe),
        ),
        Some(Code::BackendForbidden) => {
            let seen = format!(
                "the Service leads to an address that no node dials (a node's, a Service's or an import's): {reason}"
            );
            (
                seen,
                format!(
                    "{kubectl} get endpointslices -l kubernetes.io/service-name={name} -o yaml    # it must name addresses of pods"
                ),
            )
        }
        _ => (reason, describe),
    }
}

fn pod_command(service: &ServiceFacts, kubectl: &str) -> Option<String> {
    let pod = service.pods.first()?;
    let name = short_name(&pod.name);
    Some(format!("{kubectl} logs {name}    # is the process alive?"))
}

/// No endpoint of the Service is ready: it has no pods, or those are not ready, or the port is not theirs.
fn no_backend(
    walk: &Walk<'_>,
    service: &ServiceFacts,
    kubectl: &str,
    reason: String,
) -> (String, String) {
    let (name, from) = (walk.behind_name(), walk.from());
    if service.selector.is_empty() {
        let seen = format!(
            "Service {} in {from} has no selector, and no endpoint that is ready: {reason}",
            walk.behind()
        );
        return (
            seen,
            format!(
                "{kubectl} get endpointslices -l kubernetes.io/service-name={name}    # whoever writes them"
            ),
        );
    }
    if service.pods.is_empty() {
        let seen = format!("no pod in {from} fits the selector {}: {reason}", service.selector);
        let mend = match service.workloads.first() {
            Some((workload, 0)) => format!("{kubectl} scale {workload} --replicas=1"),
            Some((workload, _)) => format!("{kubectl} describe {workload}"),
            None => format!(
                "{kubectl} get pods --show-labels    # and set the selector of Service {name} by them"
            ),
        };
        return (seen, mend);
    }
    if let Some((pod, why)) =
        unready(&service.pods).filter(|_| service.pods.iter().all(|pod| !pod.ready))
    {
        let pod_name = short_name(&pod.name);
        let seen = format!(
            "no pod of {} in {from} is ready; {}: {why}; {reason}",
            walk.facts.service, pod.name
        );
        return (
            seen,
            format!("{kubectl} describe pod {pod_name}    # mend what keeps it from being ready"),
        );
    }
    let named = service.ports.iter().find(|port| {
        let is_name = !port.target.is_empty() && port.target.parse::<u16>().is_err();
        is_name && !declares(&service.pods, &port.target)
    });
    match named {
        Some(port) => {
            let seen = format!(
                "Service {} leads to port {:?} of its pods, which none of them has: {reason}",
                walk.facts.service, port.target
            );
            (seen, listens(walk, service, kubectl))
        }
        None => (reason, format!("{kubectl} describe service {name}")),
    }
}

fn declares(pods: &[PodFacts], name: &str) -> bool {
    pods.iter().flat_map(|pod| &pod.ports).any(|port| port.name == name)
}

/// The command that leads the Service to a port that its pods declare.
fn listens(walk: &Walk<'_>, service: &ServiceFacts, kubectl: &str) -> String {
    let name = walk.behind_name();
    let declared: Vec<&PortFacts> = service.pods.iter().flat_map(|pod| &pod.ports).collect();
    let Some(port) = service.ports.first() else {
        return format!("{kubectl} edit service {name}");
    };
    let is_declared =
        |p: &&&PortFacts| p.name == port.target || p.number.to_string() == port.target;
    let other = declared.iter().find(|p| p.number == port.number).or_else(|| declared.first());
    match other.filter(|_| !declared.iter().any(|p| is_declared(&p))) {
        Some(right) => format!(
            "{kubectl} patch service {name} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/ports/0/targetPort\",\"value\":{}}}]'",
            right.number
        ),
        None => match service.pods.first() {
            Some(pod) => {
                let pod_name = short_name(&pod.name);
                format!(
                    "{kubectl} logs {pod_name}    # at which port does it listen? then: {kubectl} edit service {name}"
                )
            }
            None => format!("{kubectl} edit service {name}"),
        },
    }
}

pub(super) fn answer(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Answer;
    let Some(probe) = walk.probe() else {
        return match walk.has_failed() {
            true => {}
            false => walk.unknown(hop, "no node could be asked to try it", None),
        };
    };
    if walk.is_answered() {
        let peer = probe.peer.as_deref().unwrap_or("a node there");
        let (ms, account) = (probe.milliseconds, walk.account().unwrap_or("the caller"));
        return walk
            .good(hop, format!("a probe of {account} was answered through {peer} in {ms} ms"));
    }
    if walk.has_failed() {
        return;
    }
    let reason = format!("{} ({})", probe.reason, probe.code);
    if probe.code == Code::HeaderInvalid.name() {
        let seen =
            format!("{} does not know probes, so nothing can be tried: {reason}", walk.from());
        let mend = format!("install this version of Adit in {}, too", walk.from());
        return walk.unknown(hop, seen, Some(mend));
    }
    if probe.code == Code::OverLimit.name() {
        return walk.unknown(
            hop,
            format!("asked too often: {reason}"),
            Some("ask again in ten seconds".to_owned()),
        );
    }
    let mend = format!(
        "kubectl{} -n adit-system logs -l app.kubernetes.io/name=adit-node    # the line of that probe, on both sides",
        walk.there_option()
    );
    walk.fail(hop, reason, mend);
}

pub(super) fn card(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Card;
    let Some(card) = &walk.facts.card else { return };
    if let Some(error) = &card.error {
        return walk.note(hop, format!("no card: {error}"), None);
    }
    let back =
        walk.facts.there.as_ref().is_some_and(|t| t.imports_from.iter().any(|c| c == walk.here()));
    let (here_option, there_option) = (walk.here_option(), walk.there_option());
    let place = CardPlace {
        namespace: walk.namespace(),
        name: walk.name(),
        here: (walk.here(), &here_option),
        there: (walk.from(), &there_option),
        has_way_back: back,
    };
    let warnings = card_warnings(card, &place);
    if !warnings.iter().any(|warning| warning.fault == CardFault::Url) {
        let url = list(card.urls.iter().take(1).map(|u| &**u));
        walk.good(hop, format!("the card's URL is valid here, too: {url}"));
    }
    for warning in warnings {
        walk.note(hop, warning.seen, warning.mend);
    }
}
