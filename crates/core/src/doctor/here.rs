//! The hops of the importing side: from the installation to the grant of the import.

use super::facts::{
    CallerNode, ConditionFacts, DaemonFacts, ImportSide, InstallationFacts, PodFacts, PortFacts,
    ProbeStage, ServiceFacts, SliceFacts,
};
use super::{DoctorHop, DoctorSubject, Walk, list, or_nowhere, port_names};
use crate::code::Code;
use crate::grant::WorkloadPattern;
use crate::spiffe::Workload;
use crate::text::count_noun;

/// The command that does the rest of an installation where no nodes are installed.
fn install(option: &str) -> String {
    format!("adit install{option}")
}

/// The command that brings an installation back to the manifests, with the image that its nodes have.
fn upgrade(option: &str) -> String {
    format!("adit upgrade{option}")
}

/// A fault of an installation, and the mend; `is_hard` if nothing works without it.
pub(super) struct Trouble {
    pub(super) seen: String,
    pub(super) mend: String,
    pub(super) is_hard: bool,
}

/// The first trouble of an installation, by what depends on what.
pub(super) fn trouble(of: &InstallationFacts) -> Option<Trouble> {
    let option = format!(" --context {}", of.context);
    let system = format!("kubectl{option} -n adit-system");
    let soft = |seen: String, mend: String| Some(Trouble { seen, mend, is_hard: false });
    if !of.missing.is_empty() {
        let seen = format!("not installed: {}", list(of.missing.iter().map(|m| &**m)));
        let has_nodes = of.missing.iter().all(|part| part.starts_with("CustomResourceDefinition"));
        let mend = if has_nodes { upgrade(&option) } else { install(&option) };
        return Some(Trouble { seen, mend, is_hard: true });
    }
    if of.node_pods.is_empty() {
        let (why, mend) = match &of.node_pods_away {
            Some(why) => (format!(": {why}"), remove_selector(&system)),
            None => (String::new(), format!("{system} describe daemonset adit-node")),
        };
        let seen = format!("DaemonSet adit-node has no pods{why}");
        return Some(Trouble { seen, mend, is_hard: true });
    }
    if let Some(error) = of.configuration.first() {
        let seen = format!("ConfigMap adit-system/adit is not in force: {error}");
        return soft(seen, format!("{system} edit configmap adit    # at that place"));
    }
    if let Some(why) = &of.controller {
        let mend = if why.contains("no pods") || why.contains("not installed") {
            upgrade(&option)
        } else {
            format!(
                "{system} describe pods -l app.kubernetes.io/name=adit-controller    # why they do not run"
            )
        };
        return soft(why.clone(), mend);
    }
    if let Some(why) = of.certificates.first() {
        let mend = format!(
            "{system} logs -l app.kubernetes.io/name=adit-controller --prefix    # it signs, unless it says why not"
        );
        return soft(why.clone(), mend);
    }
    None
}

fn remove_selector(system: &str) -> String {
    format!(
        "{system} patch daemonset adit-node --type=json -p '[{{\"op\":\"remove\",\"path\":\"/spec/template/spec/nodeSelector\"}}]'"
    )
}

pub(super) fn installation(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Installation;
    let Some(here) = &walk.facts.here else { return };
    // What stands goes on without a controller, and the last good configuration stays in force.
    let works = walk.works() && (walk.subject == DoctorSubject::Link || is_ready(here));
    match trouble(&here.installation) {
        Some(Trouble { seen, mend, is_hard }) if is_hard || !works => walk.fail(hop, seen, mend),
        Some(Trouble { seen, mend, .. }) => walk.note(hop, seen, Some(mend)),
        None => {
            let pods = here.installation.node_pods.len();
            let cluster = here.installation.cluster.as_deref().unwrap_or("(no name)");
            walk.good(
                hop,
                format!(
                    "{cluster}: a controller is active, a daemon on {}",
                    count_noun(pods as u64, "node")
                ),
            );
        }
    }
}

fn is_ready(here: &ImportSide) -> bool {
    let ready = here.import.as_ref().and_then(|import| import.ready.as_ref());
    ready.is_some_and(|ready| ready.is_true)
}

pub(super) fn caller(walk: &mut Walk<'_>) {
    let (hop, caller) = (DoctorHop::Caller, &walk.facts.caller);
    if is_made_too_early(walk) {
        return;
    }
    if let Some(why) = &caller.missing {
        let mend = format!(
            "name a caller: --from NAMESPACE/POD or NAMESPACE/SERVICEACCOUNT{}",
            walk.here_option()
        );
        return walk.fail(hop, why.clone(), mend);
    }
    if let Some(pod) = caller.pod.as_ref().filter(|pod| pod.host_network) {
        let seen = format!(
            "pod {} is on the network of its node {} (hostNetwork: true): it has the node's address and no identity, so \
             nothing can be allowed to it",
            pod.name, pod.node
        );
        return walk.fail(
            hop,
            seen,
            "set `hostNetwork: false` in the template of that pod".to_owned(),
        );
    }
    if let Some(pod) = caller.pod.as_ref().filter(|pod| pod.ip.is_none()) {
        let why = pod.waiting.as_deref().unwrap_or("it has no address");
        let seen = format!("pod {} does not run: {why}", pod.name);
        let (namespace, name) = pod.name.split_once('/').unwrap_or(("", &pod.name));
        let mend = format!("kubectl{} -n {namespace} describe pod {name}", walk.here_option());
        return walk.fail(hop, seen, mend);
    }
    if let Some(policy) = &caller.kept_in_by {
        let seen = format!(
            "NetworkPolicy {policy} selects the caller's pod and lets it reach neither the Service nor the addresses of imports"
        );
        let (namespace, name) = policy.split_once('/').unwrap_or(("", policy));
        let mend = format!(
            "kubectl{} -n {namespace} edit networkpolicy {name}    # add to spec.egress: {{to: [{{ipBlock: {{cidr: {}}}}}]}}",
            walk.here_option(),
            import_range(walk)
        );
        return walk.fail(hop, seen, mend);
    }
    if let Some(seen) = unknown_to_node(walk) {
        let mend = "keep the CNI from rewriting (SNAT, masquerade) what pods send to the addresses of imports: to the \
                    node they must come from the pod's own address";
        return walk.fail(hop, seen, mend);
    }
    let from = caller.pod.as_ref().map_or_else(String::new, |pod| {
        format!(
            "pod {} at {} on {}: ",
            pod.name,
            pod.ip.as_deref().unwrap_or("?"),
            or_nowhere(&pod.node)
        )
    });
    let who = walk.account().unwrap_or("nobody that is known");
    let chosen = if caller.asked.is_empty() { " (chosen; --from names another)" } else { "" };
    walk.good(hop, format!("{from}{who}{chosen}"));
}

/// True, and the walk has failed, if the caller is an Agent of kagent that was made before the import's. Another Agent of that
/// kind is only noted.
fn is_made_too_early(walk: &mut Walk<'_>) -> bool {
    let Some((seen, mend, is_caller)) = made_too_early(walk) else { return false };
    match is_caller {
        true => walk.fail(DoctorHop::Caller, seen, mend),
        false => walk.note(DoctorHop::Caller, seen, Some(mend)),
    }
    is_caller
}

/// An Agent of kagent that was made before the import's, its mend, and whether it is the caller.
fn made_too_early(walk: &Walk<'_>) -> Option<(String, String, bool)> {
    let caller = &walk.facts.caller;
    let early = caller.early.as_ref()?;
    let (namespace, name) = early.name.split_once('/')?;
    let seen = format!(
        "Agent {} names {} as a tool, was made before there was such an Agent, and kagent does not look again: {}",
        early.name, walk.facts.service, early.message
    );
    let mend = format!(
        "kubectl{} -n {namespace} label agents.kagent.dev {name} adit.dev/touched=v{} --overwrite",
        walk.here_option(),
        early.version
    );
    // kagent names an Agent's account after it, unless told otherwise.
    let is_caller = caller.missing.is_some() || caller.account.as_ref() == Some(&early.name);
    Some((seen, mend, is_caller))
}

/// The addresses of the import as a range that a NetworkPolicy can name.
fn import_range(walk: &Walk<'_>) -> String {
    let slices = walk.facts.here.iter().flat_map(|here| &here.slices);
    let own_slices = slices.filter(|slice| slice.is_ours).flat_map(|slice| &slice.addresses);
    let ip = own_slices.filter_map(|address| address.rsplit_once(':')).map(|(ip, _)| ip).next();
    match ip {
        Some(ip) if ip.contains(':') => format!("{}/128", ip.trim_matches(['[', ']'])),
        Some(ip) => format!("{ip}/32"),
        None => "ADDRESS-OF-THE-IMPORT/32".to_owned(),
    }
}

/// Why the node does not know the caller: its address, or that with which its connections arrive.
fn unknown_to_node(walk: &Walk<'_>) -> Option<String> {
    if let Some(probe) = walk.probe_ended(Code::SourceUnknown) {
        let hint = if walk.facts.here.is_some() {
            "; a pod that has just begun is known a moment later"
        } else {
            " (`workloads` in its file names who is at which address)"
        };
        return Some(format!("the node does not know the caller: {}{hint}", probe.reason));
    }
    // The pod is known, and yet the last callers came from an address of nobody.
    let is_pod = walk.facts.caller.pod.is_some() && !walk.facts.caller.asked.is_empty();
    let unknown = |r: &&super::facts::RefusedCaller| r.code == Code::SourceUnknown.name();
    let refused = walk.node()?.refused.iter().find(unknown).filter(|_| is_pod)?;
    Some(format!(
        "the pod is known by its address, but {} on its node of late came from an address of nobody: {}",
        count_noun(refused.count, "connection"),
        refused.sentence
    ))
}

pub(super) fn service(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Service;
    let Some(here) = &walk.facts.here else { return };
    if walk.has_failed() && !here.installation.missing.is_empty() {
        return walk.unknown(hop, "nothing can be said before Adit is installed", None);
    }
    let import =
        format!("adit import {} --from {}{}", walk.facts.service, walk.from(), walk.here_option());
    if !here.has_namespace {
        let namespace = walk.namespace();
        let mend = format!("kubectl{} create namespace {namespace}", walk.here_option());
        return walk.fail(hop, format!("there is no namespace {namespace}"), mend);
    }
    let Some(service) = &here.service else {
        let seen = format!("there is no Service {}", walk.facts.service);
        return walk.fail(hop, seen, import);
    };
    if let Some((seen, mend)) = unfit(walk, service) {
        return walk.fail(hop, seen, mend);
    }
    if here.import.is_none() && here.link.is_none() {
        // What a link imports by itself goes with it.
        return unlinked(walk);
    }
    if here.import.is_none() {
        let seen = format!("nothing imports {} here", walk.facts.service);
        return walk.fail(hop, seen, import);
    }
    if let Some((seen, mend)) = wrong_port(walk, here, service) {
        return walk.fail(hop, seen, mend);
    }
    walk.good(hop, format!("Service {} with {}", walk.facts.service, port_names(&service.ports)));
    for mesh in &service.meshes {
        let seen = format!(
            "{mesh}: Adit neither needs nor disturbs it, as long as it does not fill the same Service"
        );
        walk.note(hop, seen, None);
    }
}

/// Why a Service cannot stand for an import, and the mend.
fn unfit(walk: &Walk<'_>, service: &ServiceFacts) -> Option<(String, String)> {
    let (kubectl, name) = (walk.kubectl_here(), walk.name());
    if service.kind == "ExternalName" {
        let seen = format!(
            "Service {} is of type ExternalName, which has no endpoints",
            walk.facts.service
        );
        let mend = format!(
            "kubectl{} -n {} delete service {name} && adit import {} --from {}{}",
            walk.here_option(),
            walk.namespace(),
            walk.facts.service,
            walk.from(),
            walk.here_option()
        );
        return Some((seen, mend));
    }
    if service.selector.is_empty() || service.pods.is_empty() {
        return None;
    }
    let seen = format!(
        "the selector of Service {} ({}) finds pods of this cluster: {}; callers are led to them",
        walk.facts.service,
        service.selector,
        list(service.pods.iter().take(3).map(|pod| &*pod.name))
    );
    let scale = service.workloads.iter().find(|(_, replicas)| *replicas > 0);
    let mend = match scale {
        Some((workload, _)) => format!("{kubectl} scale {workload} --replicas=0"),
        None => format!(
            "{kubectl} patch service {name} --type=json -p '[{{\"op\":\"remove\",\"path\":\"/spec/selector\"}}]'"
        ),
    };
    Some((seen, mend))
}

/// Why no port of the Service leads to one of the export, and the mend.
fn wrong_port(
    walk: &Walk<'_>,
    here: &ImportSide,
    service: &ServiceFacts,
) -> Option<(String, String)> {
    let import = here.import.as_ref()?;
    let reported = import.ready.as_ref().is_some_and(|c| c.reason == "NoMatchingPort");
    let exported = walk.facts.there.as_ref().and_then(|there| there.export.as_ref());
    let offered: &[PortFacts] = exported.map_or(&import.ports, |export| &export.ports);
    let fits = |p: &PortFacts| {
        offered.iter().any(|o| o.number == p.number || (o.name == p.name && !p.name.is_empty()))
    };
    let none_fits = !offered.is_empty() && !service.ports.iter().any(fits);
    if !(reported || none_fits) {
        return None;
    }
    let seen = format!(
        "Service {} has the ports {}, and {} exports {}: none is the same by name or number",
        walk.facts.service,
        port_names(&service.ports),
        walk.from(),
        if offered.is_empty() { "others".to_owned() } else { port_names(offered) }
    );
    let first = offered.first().map_or((String::new(), 8080), |p| (p.name.clone(), p.number));
    let (name, number) = first;
    let named = if name.is_empty() { String::new() } else { format!("\"name\":\"{name}\",") };
    let mend = format!(
        "{} patch service {} --type=merge -p '{{\"spec\":{{\"ports\":[{{{named}\"port\":{number},\"protocol\":\"TCP\"}}]}}}}'",
        walk.kubectl_here(),
        walk.name()
    );
    Some((seen, mend))
}

pub(super) fn endpoints(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Endpoints;
    let Some(here) = &walk.facts.here else { return };
    let (Some(import), Some(_)) = (&here.import, &here.service) else { return };
    let foreign = here.slices.iter().find(|slice| !slice.is_ours && has_endpoints(slice));
    if let Some(slice) = foreign {
        let writer = if slice.writer.is_empty() {
            "by hand".to_owned()
        } else {
            format!("by {}", slice.writer)
        };
        let mut seen = format!(
            "EndpointSlice {} (written {writer}) fills the Service, so callers are led to {}",
            slice.name,
            list(slice.addresses.iter().take(3).map(|address| &**address))
        );
        let meshes = here.service.iter().flat_map(|service| &service.meshes);
        if let Some(mesh) = meshes.map(|mesh| &**mesh).next() {
            seen += &format!("; {mesh}");
        }
        let mend = format!("{} delete endpointslice {}", walk.kubectl_here(), slice.name);
        return walk.fail(hop, seen, mend);
    }
    let own_slices: Vec<&SliceFacts> = here.slices.iter().filter(|slice| slice.is_ours).collect();
    let reason = import.ready.as_ref().map_or("", |ready| &*ready.reason);
    if let Some((seen, mend)) = obstacle(walk, import.ready.as_ref()) {
        return walk.fail(hop, seen, mend);
    }
    if own_slices.iter().all(|slice| slice.addresses.is_empty()) {
        let why = import
            .ready
            .as_ref()
            .map_or_else(String::new, |c| format!(": {} ({reason})", c.message));
        let seen = format!("Service {} has no endpoint of the import{why}", walk.facts.service);
        // What is wrong beyond it shows further down, unless nothing is.
        if walk.is_answered() || import.ready.is_none() {
            let mend = format!(
                "kubectl{} -n adit-system logs -l app.kubernetes.io/name=adit-controller --prefix",
                walk.here_option()
            );
            return walk.fail(hop, seen, mend);
        }
        return walk.note(hop, seen, None);
    }
    let at = list(own_slices.iter().flat_map(|slice| &slice.addresses).map(|address| &**address));
    walk.good(hop, format!("the import's slice leads to {at}, and nobody else fills the Service"));
}

fn has_endpoints(slice: &SliceFacts) -> bool {
    slice.ready + slice.not_ready > 0
}

/// The obstacle that keeps the controller from filling the Service, and the mend.
fn obstacle(walk: &Walk<'_>, ready: Option<&ConditionFacts>) -> Option<(String, String)> {
    let ready = ready.filter(|ready| !ready.is_true)?;
    let option = walk.here_option();
    let import = format!("adit import {} --from {}{option}", walk.facts.service, walk.from());
    let mend = match &*ready.reason {
        "NoService" | "NoNamespace" | "Released" | "HasSelector" | "ServedHere" => import,
        "UnsupportedService" => {
            let delete = format!("{} delete service {}", walk.kubectl_here(), walk.name());
            format!("{delete} && {import}")
        }
        "ServiceHasOwnEndpoints" => {
            format!(
                "{} get endpointslices -l kubernetes.io/service-name={}    # delete the one that is not Adit's",
                walk.kubectl_here(),
                walk.name()
            )
        }
        "AddressesExhausted" => "widen `network.range` in ConfigMap adit-system/adit".to_owned(),
        "PortsExhausted" => "lower `network.listenerPort` in ConfigMap adit-system/adit".to_owned(),
        "SliceNotWritten" => format!("{}    # the controller's rights", upgrade(&option)),
        _ => return None,
    };
    Some((format!("{} ({})", ready.message, ready.reason), mend))
}

pub(super) fn node(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Node;
    let node = match &walk.facts.node {
        CallerNode::Answered(node) => node,
        CallerNode::NoDaemon { node } => {
            let (seen, mend) = no_daemon(walk, node);
            return walk.fail(hop, seen, mend);
        }
        CallerNode::Unreachable { at, error } => {
            let seen = format!("the daemon at {at} cannot be asked: {error}");
            return walk.unknown(hop, seen, None);
        }
        CallerNode::NotAsked => {
            return walk.unknown(hop, "no node was asked", None);
        }
    };
    match fault_of_node(walk, node) {
        Some((seen, mend)) => walk.fail(hop, seen, mend),
        None => {
            let listen = node.import.as_ref().map_or_else(String::new, |import| {
                format!(" and listens at {}", list(import.listen.iter().map(|l| &**l)))
            });
            walk.good(
                hop,
                format!("daemon {} of {} knows the import{listen}", node.version, node.node),
            );
        }
    }
    if node.certificate_seconds_left < 0 && walk.is_answered() {
        walk.note(hop, "its certificate has ended", None);
    }
}

fn no_daemon(walk: &Walk<'_>, node: &str) -> (String, String) {
    let here = walk.facts.here.as_ref();
    let why = here.and_then(|here| here.installation.node_pods_away.as_deref());
    let seen = match why {
        Some(why) => format!("no daemon of Adit runs on the caller's node {node}: {why}"),
        None => format!("no daemon of Adit runs on the caller's node {node}"),
    };
    let system = format!("kubectl{} -n adit-system", walk.here_option());
    let mend = match why {
        Some(why) if why.contains("nodeSelector") => remove_selector(&system),
        Some(_) | None => {
            format!("{system} describe daemonset adit-node    # what keeps it from {node}")
        }
    };
    (seen, mend)
}

/// Why the caller's node does not take its connections, and the mend.
fn fault_of_node(walk: &Walk<'_>, node: &DaemonFacts) -> Option<(String, String)> {
    let restart = restart(walk, node);
    let Some(import) = &node.import else {
        let has = list(node.imports.iter().take(5).map(|name| &**name));
        let why = match (&node.configuration_error, &node.waiting_for[..]) {
            (Some(error), _) => format!("; its newest configuration is not in force: {error}"),
            (None, [first, ..]) => format!("; it waits for {first}"),
            (None, []) => String::new(),
        };
        let seen = format!("{} imports no {} (it has {has}){why}", node.node, walk.facts.service);
        let mend = if walk.facts.here.is_some() {
            restart
        } else {
            let (from, service) = (walk.from(), &walk.facts.service);
            format!(
                "`imports` in its file: {{service: {service}, from: {from}, ports: [{{name: http, port: 8080, listen: \"ADDRESS:PORT\"}}]}}"
            )
        };
        return Some((seen, mend));
    };
    if let Some((code, sentence)) =
        import.reason.as_ref().filter(|(code, _)| code == Code::LocalError.name())
    {
        return Some((format!("{}: {sentence} ({code})", node.node), restart));
    }
    let resolve = walk.probe().filter(|probe| probe.stage == ProbeStage::Resolve);
    if let Some(probe) = resolve.filter(|probe| probe.code == Code::PortUnknown.name()) {
        return Some((probe.reason.clone(), "name one of these with SERVICE:PORT".to_owned()));
    }
    let over_limit = walk.probe_ended(Code::OverLimit).filter(|p| p.stage != ProbeStage::Open);
    if let Some(probe) = over_limit {
        let mend =
            "wait until the namespace of the caller asks for what it may have, or raise `limits`"
                .to_owned();
        return Some((probe.reason.clone(), mend));
    }
    None
}

fn restart(walk: &Walk<'_>, node: &DaemonFacts) -> String {
    match &walk.facts.here {
        Some(here) => format!(
            "kubectl --context {} -n adit-system delete pod -l app.kubernetes.io/name=adit-node --field-selector spec.nodeName={}",
            here.installation.context, node.node
        ),
        None => "restart `adit node`, or see its log".to_owned(),
    }
}

/// True if one of the patterns (`NAMESPACE/ACCOUNT`) is for the account; absent if that cannot be said.
pub(super) fn allows<'p>(
    patterns: impl IntoIterator<Item = &'p str>,
    account: Option<&str>,
) -> Option<bool> {
    let workload = Workload::from_account(account?)?;
    let mut patterns = patterns.into_iter().filter_map(|text| text.parse::<WorkloadPattern>().ok());
    Some(patterns.any(|pattern| pattern.matches(&workload)))
}

pub(super) fn grant(walk: &mut Walk<'_>) {
    let hop = DoctorHop::ImportGrant;
    let of_node = walk.node().and_then(|node| node.import.as_ref()).map(|import| &import.allow);
    let of_object = || walk.facts.here.as_ref()?.import.as_ref().map(|import| &import.allow);
    let Some(allow) = of_node.or_else(of_object) else { return };
    let Some(account) = walk.account() else { return };
    if allows(allow.iter().map(|pattern| &**pattern), Some(account)) != Some(false) {
        return walk.good(hop, format!("the import is for {}", list(allow.iter().map(|p| &**p))));
    }
    let seen = format!(
        "the import is for {}, and not for {account}",
        list(allow.iter().take(5).map(|pattern| &**pattern))
    );
    let (service, from) = (&walk.facts.service, walk.from());
    let import = walk.facts.here.as_ref().and_then(|here| here.import.as_ref());
    let mend = match import {
        Some(_) => {
            // A declaration by name takes the place of what the link says: it must name those, too.
            let others: Vec<String> =
                allow.iter().map(|pattern| format!(" --allow '{pattern}'")).collect();
            format!(
                "adit import {service} --from {from} --allow {account}{}{}",
                others.concat(),
                walk.here_option()
            )
        }
        None => {
            let (namespace, name) = account.split_once('/').unwrap_or(("", account));
            format!(
                "`imports` of the node's file, at {service}: allow: [{{namespace: {namespace}, serviceAccount: {name}}}]"
            )
        }
    };
    walk.fail(hop, seen, mend);
}

/// The pods that are not ready, with the reason of the first.
pub(super) fn unready(pods: &[PodFacts]) -> Option<(&PodFacts, String)> {
    let pod = pods.iter().find(|pod| !pod.ready)?;
    let why = pod.waiting.clone().unwrap_or_else(|| "it is not ready".to_owned());
    Some((pod, why))
}

/// Fails the walk at the link: this cluster has none to the other.
pub(super) fn unlinked(walk: &mut Walk<'_>) {
    // What the link said of namespaces is gone with it.
    let mend = match &walk.facts.here {
        Some(_) if walk.subject == DoctorSubject::Import => {
            format!("{} --import {}", link_command(walk), walk.namespace())
        }
        Some(_) | None => link_command(walk),
    };
    let seen = format!("{} has no link to {}", walk.here(), walk.from());
    walk.fail(DoctorHop::Link, seen, mend);
}

pub(super) fn link_command(walk: &Walk<'_>) -> String {
    let here = walk.facts.here.as_ref().map(|here| here.installation.context.clone());
    let there = walk.facts.there.as_ref().map(|there| there.installation.context.clone());
    match (here, there) {
        (Some(here), Some(there)) => format!("adit link {here} {there}"),
        (Some(here), None) => format!("adit link {here} {}'S-CONTEXT", walk.from().to_uppercase()),
        (None, _) => "`links` in the node's file: {cluster: …, trustDomain: …, trustBundle: …, addresses: [\"IP:7843\"]}".to_owned(),
    }
}
