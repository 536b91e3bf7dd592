//! Faults, seeded one by one and in pairs: the first hop that fails, what is said of it and what mends it.

use super::facts::*;
use super::*;

/// Changes the facts as a fault does.
type SeedFault = fn(&mut DoctorFacts);

/// A fault, the hop at which it must be found, words of what was seen, and words of the mend.
type FaultRow = (&'static str, SeedFault, DoctorHop, &'static str, &'static str);

fn condition(is_true: bool, reason: &str, message: &str) -> Option<ConditionFacts> {
    Some(ConditionFacts { is_true, reason: reason.to_owned(), message: message.to_owned() })
}

fn port(name: &str, number: u16, target: &str) -> PortFacts {
    PortFacts { name: name.to_owned(), number, target: target.to_owned() }
}

fn installed(context: &str, cluster: &str, node: &str) -> InstallationFacts {
    InstallationFacts {
        context: context.to_owned(),
        cluster: Some(cluster.to_owned()),
        node_pods: [(node.to_owned(), true)].into(),
        version: Some("0.1.0".to_owned()),
        ..InstallationFacts::default()
    }
}

fn pod(name: &str, account: &str, node: &str, ip: &str) -> PodFacts {
    PodFacts {
        name: format!("agents/{name}"),
        service_account: account.to_owned(),
        node: node.to_owned(),
        ip: Some(ip.to_owned()),
        ready: true,
        ports: vec![port("http", 8080, "")],
        ..PodFacts::default()
    }
}

fn slice(name: &str, writer: &str, is_ours: bool, address: &str) -> SliceFacts {
    SliceFacts {
        name: name.to_owned(),
        writer: writer.to_owned(),
        is_ours,
        ready: 1,
        not_ready: 0,
        addresses: vec![address.to_owned()],
    }
}

fn here() -> ImportSide {
    ImportSide {
        installation: installed("kind-edge", "edge", "e1"),
        has_namespace: true,
        service: Some(ServiceFacts {
            kind: "ClusterIP".to_owned(),
            ports: vec![port("http", 8080, "")],
            ..ServiceFacts::default()
        }),
        slices: vec![slice(
            "fraud-bot-adit-ipv4",
            "adit-controller.adit.dev",
            true,
            "198.18.0.1:15080",
        )],
        import: Some(ImportObject {
            from: "bank".to_owned(),
            allow: vec!["agents/*".to_owned()],
            ports: vec![port("http", 8080, "15080")],
            ready: condition(true, "Ready", "bank serves agents/fraud-bot"),
        }),
        link: condition(true, "LinkUp", "bank is heard"),
    }
}

fn there() -> ExportSide {
    ExportSide {
        installation: installed("kind-bank", "bank", "b1"),
        service: Some(ServiceFacts {
            kind: "ClusterIP".to_owned(),
            ports: vec![port("http", 8080, "8080")],
            selector: "kagent=fraud-bot".to_owned(),
            pods: vec![pod("fraud-bot-1", "fraud-bot", "b1", "10.244.2.1")],
            workloads: vec![("deployment/fraud-bot".to_owned(), 1)],
            meshes: Vec::new(),
        }),
        slices: vec![slice(
            "fraud-bot-x1",
            "endpointslice-controller.k8s.io",
            false,
            "10.244.2.1:8080",
        )],
        export: Some(ExportObject {
            allow: vec![("edge".to_owned(), "agents/support-bot".to_owned())],
            ports: vec![port("http", 8080, "")],
            valid: condition(true, "Exported", ""),
            ready: condition(true, "Ready", "1 backend answers"),
        }),
        link: condition(true, "LinkUp", "edge is heard"),
        clock: Some((1_000_000, 1_000_000)),
        ..ExportSide::default()
    }
}

fn daemon() -> DaemonFacts {
    DaemonFacts {
        cluster: "edge".to_owned(),
        node: "e1".to_owned(),
        version: "0.1.0".to_owned(),
        clock: 1_000_000,
        asker_clock: 1_000_000,
        certificate_seconds_left: 80_000,
        import: Some(NodeImport {
            from: "bank".to_owned(),
            allow: vec!["agents/*".to_owned()],
            listen: vec!["198.18.0.1:15080".to_owned()],
            reason: None,
        }),
        link: Some(NodeLink { is_up: true, connected: 2, mtu: 1452, ..NodeLink::default() }),
        probe: Some(ProbeFacts {
            stage: ProbeStage::Answered,
            code: "finished".to_owned(),
            source: Some("agents/support-bot".to_owned()),
            port: Some("http".to_owned()),
            peer: Some("bank/b1".to_owned()),
            milliseconds: 4,
            ..ProbeFacts::default()
        }),
        ..DaemonFacts::default()
    }
}

/// All is well.
fn well() -> DoctorFacts {
    DoctorFacts {
        service: "agents/fraud-bot".to_owned(),
        from: Some("bank".to_owned()),
        here: Some(here()),
        caller: CallerFacts {
            asked: "agents/support-bot-1".to_owned(),
            account: Some("agents/support-bot".to_owned()),
            pod: Some(pod("support-bot-1", "support-bot", "e1", "10.244.1.10")),
            ..CallerFacts::default()
        },
        node: CallerNode::Answered(Box::new(daemon())),
        there: Some(there()),
        card: None,
    }
}

fn of_here(facts: &mut DoctorFacts) -> &mut ImportSide {
    facts.here.as_mut().unwrap()
}

fn of_there(facts: &mut DoctorFacts) -> &mut ExportSide {
    facts.there.as_mut().unwrap()
}

fn of_node(facts: &mut DoctorFacts) -> &mut DaemonFacts {
    match &mut facts.node {
        CallerNode::Answered(node) => node,
        // Another fault of a pair has taken it away.
        CallerNode::NotAsked | CallerNode::NoDaemon { .. } | CallerNode::Unreachable { .. } => {
            Box::leak(Box::default())
        }
    }
}

fn first_pod(facts: &mut DoctorFacts) -> &mut PodFacts {
    let pods = &mut of_there(facts).service.get_or_insert_default().pods;
    if pods.is_empty() {
        pods.push(PodFacts::default());
    }
    &mut pods[0]
}

fn first_port(facts: &mut DoctorFacts) -> &mut PortFacts {
    let ports = &mut of_there(facts).service.get_or_insert_default().ports;
    if ports.is_empty() {
        ports.push(PortFacts::default());
    }
    &mut ports[0]
}

/// The probe ends so.
fn ends(facts: &mut DoctorFacts, stage: ProbeStage, code: &str, reason: &str) {
    let probe = of_node(facts).probe.get_or_insert_default();
    (probe.stage, probe.code, probe.reason) = (stage, code.to_owned(), reason.to_owned());
    if stage < ProbeStage::Authorize {
        probe.source = None;
    }
}

fn not_ready(facts: &mut DoctorFacts, reason: &str, message: &str) {
    of_here(facts).import.get_or_insert_default().ready = condition(false, reason, message);
}

/// The link is down as its node says; `theirs` is what the other side's Link says.
fn link_down(facts: &mut DoctorFacts, code: &str, sentence: &str, theirs: &str) {
    ends(facts, ProbeStage::Open, code, sentence);
    let link = of_node(facts).link.get_or_insert_default();
    (link.is_up, link.connected, link.mtu) = (false, 0, 0);
    link.reason = Some((code.to_owned(), sentence.to_owned()));
    not_ready(facts, "LinkDown", "no node of ours hears bank");
    of_there(facts).link = (!theirs.is_empty())
        .then(|| condition(theirs == "LinkUp", theirs, "as its nodes say"))
        .flatten();
}

fn no_backend(facts: &mut DoctorFacts, code: &str, word: &str) {
    ends(facts, ProbeStage::Pick, code, "bank has no ready backend");
    not_ready(facts, word, "bank has no ready backend");
    of_there(facts).export.get_or_insert_default().ready =
        condition(false, word, "no backend answers");
}

/// Faults of the importing side.
const HERE: &[FaultRow] = &[
    (
        "Adit is not installed",
        |f| of_here(f).installation.missing = vec!["namespace adit-system".to_owned()],
        DoctorHop::Installation,
        "namespace adit-system",
        "adit install --context kind-edge",
    ),
    (
        "a CRD is missing",
        |f| {
            of_here(f).installation.missing =
                vec!["CustomResourceDefinition imports.adit.dev".to_owned()]
        },
        DoctorHop::Installation,
        "imports.adit.dev",
        "adit upgrade --context kind-edge",
    ),
    (
        "the caller's Agent was made before the import's",
        |f| {
            let message = "Agent.kagent.dev \"fraud-bot\" not found".to_owned();
            let (name, version) = ("agents/support-bot".to_owned(), "12".to_owned());
            f.caller.early = Some(EarlyAgent { name, message, version });
            f.caller.pod = None;
            f.caller.missing = Some("there is no pod agents/support-bot".to_owned());
        },
        DoctorHop::Caller,
        "does not look again",
        "kubectl --context kind-edge -n agents label agents.kagent.dev support-bot adit.dev/touched=v12 --overwrite",
    ),
    (
        "no controller, before the import was taken up",
        |f| {
            of_here(f).installation.controller =
                Some("no controller is active (nobody holds Lease adit-controller)".to_owned());
            of_here(f).import = None;
            of_node(f).import = None;
            ends(f, ProbeStage::Resolve, "import-unknown", "this node imports no agents/fraud-bot");
        },
        DoctorHop::Installation,
        "no controller is active",
        "app.kubernetes.io/name=adit-controller",
    ),
    (
        "an error in the ConfigMap that declares it",
        |f| {
            of_here(f).installation.configuration =
                vec!["import-agents.fraud-bot.yaml:2:5: unknown key".to_owned()];
            of_here(f).import = None;
            ends(f, ProbeStage::Resolve, "import-unknown", "this node imports no agents/fraud-bot");
        },
        DoctorHop::Installation,
        "import-agents.fraud-bot.yaml:2:5",
        "edit configmap adit",
    ),
    (
        "nobody signs certificates",
        |f| {
            of_here(f).installation.certificates =
                vec!["node e1 waits for a certificate since noon".to_owned()];
            f.node = CallerNode::NoDaemon { node: "e1".to_owned() };
        },
        DoctorHop::Installation,
        "waits for a certificate",
        "logs -l app.kubernetes.io/name=adit-controller",
    ),
    (
        "no daemon anywhere",
        |f| {
            of_here(f).installation.node_pods.clear();
            of_here(f).installation.node_pods_away =
                Some("its nodeSelector adit-test=yes fits no node".to_owned());
            f.node = CallerNode::NoDaemon { node: "e1".to_owned() };
        },
        DoctorHop::Installation,
        "nodeSelector adit-test=yes",
        "\"op\":\"remove\",\"path\":\"/spec/template/spec/nodeSelector\"",
    ),
    (
        "the caller is on the host's network",
        |f| {
            f.caller.pod.get_or_insert_default().host_network = true;
            ends(f, ProbeStage::Identify, "source-unknown", "172.18.1.2 is an address of a node");
        },
        DoctorHop::Caller,
        "hostNetwork: true",
        "`hostNetwork: false`",
    ),
    (
        "there is no such pod",
        |f| f.caller.missing = Some("there is no pod agents/typo".to_owned()),
        DoctorHop::Caller,
        "agents/typo",
        "--from NAMESPACE/POD",
    ),
    (
        "the caller's pod does not run",
        |f| {
            let pod = f.caller.pod.get_or_insert_default();
            (pod.ip, pod.waiting) = (None, Some("ImagePullBackOff".to_owned()));
        },
        DoctorHop::Caller,
        "ImagePullBackOff",
        "describe pod support-bot-1",
    ),
    (
        "a NetworkPolicy keeps the caller in",
        |f| f.caller.kept_in_by = Some("agents/only-dns".to_owned()),
        DoctorHop::Caller,
        "NetworkPolicy agents/only-dns",
        "cidr: 198.18.0.1/32",
    ),
    (
        "the CNI rewrites the caller's address",
        |f| {
            of_node(f).refused = vec![RefusedCaller {
                code: "source-unknown".to_owned(),
                sentence: "172.18.1.2 is an address of a node".to_owned(),
                count: 7,
                source: None,
            }]
        },
        DoctorHop::Caller,
        "7 connections on its node of late came from",
        "SNAT",
    ),
    (
        "the node does not know the caller",
        |f| {
            ends(
                f,
                ProbeStage::Identify,
                "source-unknown",
                "no workload is known by the address 10.9.9.9",
            )
        },
        DoctorHop::Caller,
        "10.9.9.9",
        "SNAT",
    ),
    (
        "the stub Service is missing",
        |f| {
            of_here(f).service = None;
            not_ready(f, "NoService", "there is no Service agents/fraud-bot");
        },
        DoctorHop::Service,
        "there is no Service agents/fraud-bot",
        "adit import agents/fraud-bot --from bank --context kind-edge",
    ),
    (
        "the namespace is missing",
        |f| {
            (of_here(f).has_namespace, of_here(f).service) = (false, None);
        },
        DoctorHop::Service,
        "no namespace agents",
        "create namespace agents",
    ),
    (
        "nothing imports it",
        |f| {
            of_here(f).import = None;
            of_here(f).slices.clear();
            of_node(f).import = None;
            ends(f, ProbeStage::Resolve, "import-unknown", "this node imports no agents/fraud-bot");
        },
        DoctorHop::Service,
        "nothing imports agents/fraud-bot",
        "adit import agents/fraud-bot --from bank --context kind-edge",
    ),
    (
        "the Service selects pods of this cluster",
        |f| {
            let service = of_here(f).service.get_or_insert_default();
            service.selector = "kagent=fraud-bot".to_owned();
            service.pods = vec![pod("fraud-bot-local", "fraud-bot", "e1", "10.244.1.9")];
            service.workloads = vec![("deployment/fraud-bot".to_owned(), 2)];
            not_ready(f, "HasSelector", "it has pods");
        },
        DoctorHop::Service,
        "finds pods of this cluster: agents/fraud-bot-local",
        "-n agents scale deployment/fraud-bot --replicas=0",
    ),
    (
        "the Service is of type ExternalName",
        |f| {
            of_here(f).service.get_or_insert_default().kind = "ExternalName".to_owned();
            not_ready(f, "UnsupportedService", "ExternalName");
        },
        DoctorHop::Service,
        "ExternalName",
        "delete service fraud-bot",
    ),
    (
        "another port, by name and number",
        |f| {
            of_here(f).service.get_or_insert_default().ports = vec![port("web", 9090, "")];
            not_ready(f, "NoMatchingPort", "no port");
        },
        DoctorHop::Service,
        "web 9090",
        "\"name\":\"http\",\"port\":8080",
    ),
    (
        "another slice fills the Service",
        |f| {
            of_here(f).slices.push(slice("fraud-bot-by-hand", "", false, "172.18.2.2:30090"));
            not_ready(f, "ServiceHasOwnEndpoints", "it has endpoints of its own");
        },
        DoctorHop::Endpoints,
        "fraud-bot-by-hand (written by hand)",
        "kubectl --context kind-edge -n agents delete endpointslice fraud-bot-by-hand",
    ),
    (
        "a mesh fills the Service",
        |f| {
            of_here(f).slices.push(slice("fraud-bot-mesh", "gloo-mesh", false, "10.9.0.1:8080"));
            of_here(f).service.get_or_insert_default().meshes =
                vec!["label solo.io/service-takeover=true".to_owned()];
            not_ready(f, "ServiceHasOwnEndpoints", "it has endpoints of its own");
        },
        DoctorHop::Endpoints,
        "written by gloo-mesh",
        "delete endpointslice fraud-bot-mesh",
    ),
    (
        "the slice is not written",
        |f| {
            of_here(f).slices.clear();
            not_ready(f, "SliceNotWritten", "its slice cannot be written");
        },
        DoctorHop::Endpoints,
        "SliceNotWritten",
        "the controller's rights",
    ),
    (
        "no daemon on the caller's node",
        |f| {
            f.node = CallerNode::NoDaemon { node: "e2".to_owned() };
            of_here(f).installation.node_pods_away =
                Some("its nodeSelector adit-test=yes does not fit".to_owned());
        },
        DoctorHop::Node,
        "no daemon of Adit runs on the caller's node e2",
        "/spec/template/spec/nodeSelector",
    ),
    (
        "the node has no such route yet",
        |f| {
            of_node(f).import = None;
            of_node(f).imports = vec!["agents/other".to_owned()];
            ends(f, ProbeStage::Resolve, "import-unknown", "this node imports no agents/fraud-bot");
        },
        DoctorHop::Node,
        "e1 imports no agents/fraud-bot (it has agents/other)",
        "spec.nodeName=e1",
    ),
    (
        "the node cannot listen",
        |f| {
            of_node(f).import.get_or_insert_default().reason = Some((
                "local-error".to_owned(),
                "cannot listen at 198.18.0.1:15080: in use".to_owned(),
            ));
        },
        DoctorHop::Node,
        "cannot listen at 198.18.0.1:15080",
        "delete pod -l app.kubernetes.io/name=adit-node",
    ),
    (
        "the import is for others",
        |f| {
            of_here(f).import.get_or_insert_default().allow = vec!["agents/intern-bot".to_owned()];
            of_node(f).import.get_or_insert_default().allow = vec!["agents/intern-bot".to_owned()];
            ends(
                f,
                ProbeStage::Authorize,
                "denied",
                "the import of agents/fraud-bot in edge does not let it",
            );
        },
        DoctorHop::ImportGrant,
        "for agents/intern-bot, and not for agents/support-bot",
        "adit import agents/fraud-bot --from bank --allow agents/support-bot --allow 'agents/intern-bot' --context kind-edge",
    ),
];

/// Faults of the link.
const LINK: &[FaultRow] = &[
    (
        "there is no link here",
        |f| {
            of_here(f).link = None;
            of_node(f).link = None;
            ends(f, ProbeStage::Authorize, "link-down", "nothing is known of cluster bank yet");
        },
        DoctorHop::Link,
        "edge has no link to bank",
        "adit link kind-edge kind-bank --import agents",
    ),
    (
        "there is no link there",
        |f| link_down(f, "refused-by-peer", "bank does not know edge", ""),
        DoctorHop::Link,
        "bank has no link to edge",
        "adit link kind-edge kind-bank",
    ),
    (
        "UDP is lost both ways",
        |f| link_down(f, "link-down", "no answer within 3 s", "LinkDown"),
        DoctorHop::Link,
        "neither edge nor bank hears the other",
        "UDP port 7843 (`network.port`) pass between the nodes",
    ),
    (
        "UDP is lost from here",
        |f| link_down(f, "one-way", "packets pass one way", "LinkDown"),
        DoctorHop::Link,
        "packets from edge to bank are lost",
        "from the nodes of edge to those of bank",
    ),
    (
        "UDP is lost from there",
        |f| link_down(f, "link-down", "nothing heard", "OneWay"),
        DoctorHop::Link,
        "packets from bank to edge are lost",
        "from the nodes of bank to those of edge",
    ),
    (
        "a wrong bundle here",
        |f| {
            link_down(
                f,
                "certificate-refused",
                "not issued by an authority of bank",
                "RefusedByPeer",
            )
        },
        DoctorHop::Link,
        "edge refuses the certificates of bank",
        "adit link kind-edge kind-bank",
    ),
    (
        "a wrong bundle there",
        |f| link_down(f, "refused-by-peer", "another key signed", "CertificateRefused"),
        DoctorHop::Link,
        "bank refuses the certificates of edge",
        "adit link kind-edge kind-bank",
    ),
    (
        "an expired certificate there",
        |f| link_down(f, "certificate-refused", "expired 3 h ago", "RefusedByPeer"),
        DoctorHop::Link,
        "a certificate of bank is out of its time",
        "--context kind-bank -n adit-system logs",
    ),
    (
        "clocks that differ",
        |f| {
            link_down(f, "certificate-refused", "not valid before tomorrow", "RefusedByPeer");
            of_there(f).clock = Some((1_000_000 + 90_000, 1_000_000));
        },
        DoctorHop::Link,
        "the clock of node e1 is 1 d 1 h behind that of bank's",
        "chronyc makestep",
    ),
    (
        "versions too far apart",
        |f| link_down(f, "version-mismatch", "1 to 1 here, 3 to 4 there", "VersionMismatch"),
        DoctorHop::Link,
        "too far apart",
        "newer version",
    ),
    (
        "a deny list",
        |f| link_down(f, "denied-identity", "denied.clusters: edge", "DeniedIdentity"),
        DoctorHop::Link,
        "deny list",
        "`denied`",
    ),
];

/// Faults of the exporting side.
const THERE: &[FaultRow] = &[
    (
        "its daemons are gone",
        |f| {
            link_down(f, "link-down", "no answer within 3 s", "LinkDown");
            of_there(f).installation.node_pods.clear();
        },
        DoctorHop::PeerInstallation,
        "bank: DaemonSet adit-node has no pods",
        "describe daemonset adit-node",
    ),
    (
        "an error in its ConfigMap",
        |f| {
            of_there(f).installation.configuration = vec!["zz.yaml:1:1: unknown key".to_owned()];
            ends(f, ProbeStage::Authorize, "export-unknown", "bank does not export it to us");
            of_there(f).export = None;
        },
        DoctorHop::PeerInstallation,
        "zz.yaml:1:1",
        "--context kind-bank -n adit-system edit configmap adit",
    ),
    (
        "the context of another cluster",
        |f| of_there(f).installation.cluster = Some("shop".to_owned()),
        DoctorHop::PeerInstallation,
        "is of cluster shop, and the import is from bank",
        "--context",
    ),
    (
        "the Service is not there",
        |f| {
            (of_there(f).service, of_there(f).export) = (None, None);
            ends(f, ProbeStage::Authorize, "export-unknown", "bank does not export it to us");
        },
        DoctorHop::Export,
        "no Service agents/fraud-bot in bank",
        "adit export --as",
    ),
    (
        "it is not exported",
        |f| {
            of_there(f).export = None;
            ends(f, ProbeStage::Authorize, "export-unknown", "bank does not export it to us");
            not_ready(f, "NotExported", "bank does not export it to us");
        },
        DoctorHop::Export,
        "bank does not export agents/fraud-bot",
        "adit export agents/fraud-bot --to edge --allow agents/support-bot --context kind-bank",
    ),
    (
        "it is exported to others",
        |f| {
            of_there(f).export.get_or_insert_default().allow =
                vec![("shop".to_owned(), "*/*".to_owned())];
            ends(f, ProbeStage::Authorize, "export-unknown", "bank does not export it to us");
        },
        DoctorHop::Export,
        "to shop, and not to edge",
        "--to edge --allow agents/support-bot --context kind-bank",
    ),
    (
        "a port of another name",
        |f| {
            of_there(f).export.get_or_insert_default().ports = vec![port("grpc", 8080, "")];
            ends(f, ProbeStage::Authorize, "port-unknown", "the export has no such port");
        },
        DoctorHop::Export,
        "the export has grpc 8080",
        "name the port",
    ),
    (
        "the export cannot be told",
        |f| {
            of_there(f).export.get_or_insert_default().valid =
                condition(false, "NoTcpPort", "it has no TCP port");
            ends(f, ProbeStage::Authorize, "export-unknown", "bank does not export it to us");
        },
        DoctorHop::Export,
        "no TCP port (NoTcpPort)",
        "--context kind-bank -n agents edit service fraud-bot",
    ),
    (
        "the export is for others",
        |f| {
            of_there(f).export.get_or_insert_default().allow =
                vec![("edge".to_owned(), "agents/intern-bot".to_owned())];
            ends(f, ProbeStage::Authorize, "denied", "no grant lets it");
        },
        DoctorHop::ExportGrant,
        "for agents/intern-bot of edge, and not for agents/support-bot",
        "adit export agents/fraud-bot --to edge --allow agents/support-bot --context kind-bank",
    ),
    (
        "its pods are gone",
        |f| {
            no_backend(f, "no-backend", "NoBackend");
            let service = of_there(f).service.get_or_insert_default();
            service.pods.clear();
            service.selector = "kagent=fraud-bot".to_owned();
            service.workloads = vec![("deployment/fraud-bot".to_owned(), 0)];
        },
        DoctorHop::Backend,
        "no pod in bank fits the selector kagent=fraud-bot",
        "-n agents scale deployment/fraud-bot --replicas=1",
    ),
    (
        "the pods behind an alias are gone",
        |f| {
            no_backend(f, "no-backend", "NoBackend");
            of_there(f).backend = Some("team/real-bot".to_owned());
            let service = of_there(f).service.get_or_insert_default();
            service.pods.clear();
            service.selector = "app=real-bot".to_owned();
            service.workloads = vec![("deployment/real-bot".to_owned(), 0)];
        },
        DoctorHop::Backend,
        "no pod in bank fits the selector app=real-bot",
        "--context kind-bank -n team scale deployment/real-bot --replicas=1",
    ),
    (
        "its pods are not ready",
        |f| {
            no_backend(f, "no-backend", "NoBackend");
            let pod = first_pod(f);
            (pod.ready, pod.waiting) = (false, Some("CrashLoopBackOff".to_owned()));
        },
        DoctorHop::Backend,
        "CrashLoopBackOff",
        "describe pod fraud-bot-1",
    ),
    (
        "it names a port that its pods do not have",
        |f| {
            no_backend(f, "no-backend", "NoBackend");
            first_port(f).target = "no-such-port".to_owned();
        },
        DoctorHop::Backend,
        "\"no-such-port\" of its pods, which none of them has",
        "\"/spec/ports/0/targetPort\",\"value\":8080",
    ),
    (
        "nobody listens at its port",
        |f| {
            no_backend(f, "backend-refused", "BackendRefused");
            first_port(f).target = "8099".to_owned();
        },
        DoctorHop::Backend,
        "nobody listens where the Service leads to",
        "\"/spec/ports/0/targetPort\",\"value\":8080",
    ),
    (
        "its backend does not answer",
        |f| no_backend(f, "backend-timeout", "BackendTimeout"),
        DoctorHop::Backend,
        "does not accept connections",
        "logs fraud-bot-1",
    ),
    (
        "a NetworkPolicy before its backend",
        |f| {
            no_backend(f, "backend-timeout", "BackendTimeout");
            of_there(f).ingress_policies = vec!["agents/closed".to_owned()];
        },
        DoctorHop::Backend,
        "NetworkPolicy agents/closed",
        "edit networkpolicy closed",
    ),
    (
        "its endpoint is one that no node dials",
        |f| no_backend(f, "backend-forbidden", "BackendForbidden"),
        DoctorHop::Backend,
        "that no node dials",
        "get endpointslices",
    ),
    (
        "something else",
        |f| ends(f, ProbeStage::Open, "internal", "an internal error"),
        DoctorHop::Answer,
        "an internal error (internal)",
        "logs",
    ),
];

fn rows() -> impl Iterator<Item = &'static FaultRow> {
    HERE.iter().chain(LINK).chain(THERE)
}

#[test]
fn nothing_is_wrong_where_nothing_is() {
    let found = diagnose(&well());
    assert_eq!((found.exit_status(), found.first_failed), (0, None), "{found:#?}");
    assert!(found.findings.iter().all(|f| f.outcome == HopOutcome::Good), "{found:#?}");
    assert_eq!(found.caller, "pod agents/support-bot-1 (agents/support-bot) on e1");
    let hops: Vec<_> = found.findings.iter().map(|finding| finding.hop).collect();
    assert!(hops.is_sorted(), "in the order of the way: {hops:?}");
}

#[test]
fn each_fault_is_found_at_its_hop_with_what_mends_it() {
    assert!(rows().count() >= 24);
    for (name, seed, hop, seen, mend) in rows() {
        let mut facts = well();
        seed(&mut facts);
        let found = diagnose(&facts);
        let first = found.first().unwrap_or_else(|| panic!("{name}: {found:#?}"));
        assert_eq!(first.hop, *hop, "{name}: {found:#?}");
        assert!(first.seen.contains(seen), "{name}: {}", first.seen);
        let said = first.mend.as_deref().unwrap_or_default();
        assert!(said.contains(mend), "{name}: {said}");
        assert_eq!(found.exit_status(), 1, "{name}");
    }
}

/// Of two faults the one that a request meets first is found. A fault that the other hides may not be seen at all, but
/// never one that comes later instead.
#[test]
fn of_two_faults_the_first_on_the_way_is_found() {
    for (one, seed_one, hop_one, ..) in rows() {
        for (other, seed_other, hop_other, ..) in rows().filter(|(_, _, hop, ..)| hop > hop_one) {
            // What the first one leaves behind is what the probe says: it did not get to the second.
            let (mut facts, mut first) = (well(), well());
            seed_other(&mut facts);
            seed_one(&mut facts);
            seed_one(&mut first);
            if let (CallerNode::Answered(node), CallerNode::Answered(alone)) =
                (&mut facts.node, &first.node)
                && alone.probe.as_ref().is_some_and(|probe| probe.stage != ProbeStage::Answered)
            {
                node.probe.clone_from(&alone.probe);
            }
            let found = diagnose(&facts);
            let at = found.first_failed.unwrap_or_else(|| panic!("{one} and {other}: {found:#?}"));
            // Without a daemon nobody tells what callers' connections look like there.
            let is_hidden = !matches!(facts.node, CallerNode::Answered(_)) && at == *hop_other;
            // An import goes with its link, so the link is what is mended first.
            let is_unlinked = facts.here.as_ref().is_some_and(|here| here.link.is_none());
            let is_hidden = is_hidden || is_unlinked && at == DoctorHop::Link;
            assert!(
                at <= *hop_one || is_hidden,
                "{one} ({hop_one:?}) and {other} ({hop_other:?}): {found:#?}"
            );
        }
    }
}

/// Facts that are no fault: a name, and words of the note.
const NOTES: &[(&str, SeedFault, &str)] = &[
    (
        "no controller",
        |f| of_here(f).installation.controller = Some("no controller is active".to_owned()),
        "no controller is active",
    ),
    (
        "a bad key elsewhere",
        |f| of_there(f).installation.configuration = vec!["zz.yaml:1:1: bad".to_owned()],
        "zz.yaml",
    ),
    (
        "clocks two minutes apart",
        |f| of_there(f).clock = Some((1_000_120, 1_000_000)),
        "2 min 0 s behind",
    ),
    (
        "a mesh that only says so",
        |f| {
            of_here(f).service.get_or_insert_default().meshes =
                vec!["label solo.io/expose-cross-cluster=true".to_owned()]
        },
        "neither needs nor disturbs",
    ),
    ("a small path", |f| of_node(f).link.get_or_insert_default().mtu = 1200, "MTU"),
    (
        "versions apart",
        |f| of_there(f).installation.version = Some("0.2.0".to_owned()),
        "0.1.0 here, 0.2.0 in bank",
    ),
    (
        "a card with another host",
        |f| {
            f.card = Some(CardFacts {
                urls: vec!["http://fraud-bot.bank-agents:8080/".to_owned()],
                ..CardFacts::default()
            })
        },
        "whoever follows it goes elsewhere",
    ),
    (
        "a card that promises",
        |f| {
            f.card = Some(CardFacts {
                urls: vec!["http://fraud-bot.agents:8080/".to_owned()],
                push_notifications: true,
                ..CardFacts::default()
            })
        },
        "webhook",
    ),
];

#[test]
fn notes_leave_the_answer_as_it_is() {
    for (name, seed, words) in NOTES {
        let mut facts = well();
        seed(&mut facts);
        let found = diagnose(&facts);
        assert_eq!(found.exit_status(), 0, "{name}: {found:#?}");
        let noted = found.findings.iter().find(|f| f.outcome == HopOutcome::Note);
        assert!(noted.is_some_and(|f| f.seen.contains(words)), "{name}: {found:#?}");
    }
}

#[test]
fn what_cannot_be_asked_is_neither_well_nor_wrong() {
    let mut facts = well();
    facts.node =
        CallerNode::Unreachable { at: "adit-node-x".to_owned(), error: "forbidden".to_owned() };
    assert_eq!(diagnose(&facts).exit_status(), 2);
    let mut facts = well();
    ends(
        &mut facts,
        ProbeStage::Open,
        "header-invalid",
        "critical type 7 is not known to this version",
    );
    let found = diagnose(&facts);
    assert_eq!((found.exit_status(), found.first_failed), (2, None), "{found:#?}");
    let last = found.findings.last().unwrap();
    assert!(last.seen.contains("does not know probes") && last.mend.is_some(), "{last:?}");
}

#[test]
fn a_node_from_a_file_is_enough() {
    let mut facts = DoctorFacts { here: None, there: None, ..well() };
    facts.caller = CallerFacts { asked: "10.244.1.10".to_owned(), ..CallerFacts::default() };
    assert_eq!(diagnose(&facts).exit_status(), 0);
    of_node(&mut facts).import.get_or_insert_default().allow = vec!["agents/intern-bot".to_owned()];
    ends(&mut facts, ProbeStage::Authorize, "denied", "the import does not let it");
    let found = diagnose(&facts);
    let first = found.first().unwrap();
    assert_eq!(first.hop, DoctorHop::ImportGrant);
    assert!(first.mend.as_deref().unwrap().contains("serviceAccount: support-bot"), "{first:?}");
}

#[test]
fn facts_of_another_version_are_read() {
    let text = serde_json::to_string(&well()).unwrap();
    assert_eq!(serde_json::from_str::<DoctorFacts>(&text).unwrap(), well());
    let newer = r#"{"service":"a/b","later":1,"node":{"answered":{"probe":{"stage":"somewhere","code":"x"}}}}"#;
    let read: DoctorFacts = serde_json::from_str(newer).unwrap();
    let CallerNode::Answered(node) = read.node else { panic!("it answers") };
    assert_eq!(node.probe.unwrap().stage, ProbeStage::Unknown);
}

/// The facts of a link as edge asks for it, without an import.
fn of_link(change: SeedFault) -> Diagnosis {
    let mut facts = DoctorFacts { service: String::new(), card: None, ..well() };
    of_here(&mut facts).import = None;
    of_here(&mut facts).service = None;
    of_node(&mut facts).probe = None;
    of_node(&mut facts).import = None;
    change(&mut facts);
    diagnose_link(&facts)
}

#[test]
fn a_link_by_itself_is_well_or_says_what_mends_it() {
    let well = of_link(|_| {});
    assert_eq!((well.exit_status(), well.subject), (0, DoctorSubject::Link), "{well:?}");
    // A running link goes on without a controller.
    let note = of_link(|f| of_here(f).installation.controller = Some("no pods".to_owned()));
    assert_eq!(note.exit_status(), 0, "{note:?}");
    let refused =
        of_link(|f| link_down(f, "certificate-refused", "unknown issuer", "RefusedByPeer"));
    let first = refused.first().unwrap();
    assert_eq!((refused.exit_status(), first.hop), (1, DoctorHop::Link));
    assert_eq!(first.mend.as_deref(), Some("adit link kind-edge kind-bank"));
    let absent = of_link(|f| {
        of_here(f).link = None;
        of_node(f).link = None;
    });
    // No namespace is meant here.
    assert_eq!(absent.first().unwrap().mend.as_deref(), Some("adit link kind-edge kind-bank"));
    // Where no node was asked the object says it.
    let unasked = |f: &mut DoctorFacts| f.node = CallerNode::NotAsked;
    assert_eq!(of_link(unasked).exit_status(), 0);
    let down = of_link(|f| {
        f.node = CallerNode::NotAsked;
        of_here(f).link = condition(false, "LinkDown", "bank is not heard");
    });
    assert_eq!((down.exit_status(), down.first_failed), (1, Some(DoctorHop::Link)));
    let bare =
        of_link(|f| of_here(f).installation.missing = vec!["namespace adit-system".to_owned()]);
    assert_eq!(bare.first_failed, Some(DoctorHop::Installation));
}

/// The facts of an export as bank alone has it.
fn of_export(change: SeedFault) -> Diagnosis {
    let mut facts = DoctorFacts {
        service: "agents/fraud-bot".to_owned(),
        from: Some("bank".to_owned()),
        there: Some(there()),
        ..DoctorFacts::default()
    };
    change(&mut facts);
    diagnose_export(&facts)
}

#[test]
fn an_export_by_itself_is_well_or_says_what_mends_it() {
    let well = of_export(|_| {});
    assert_eq!((well.exit_status(), well.subject), (0, DoctorSubject::Export), "{well:?}");
    let rows: [(SeedFault, DoctorHop, &str); 6] = [
        (
            |f| of_there(f).export = None,
            DoctorHop::Export,
            "adit export agents/fraud-bot --to CLUSTER --allow NAMESPACE/SERVICEACCOUNT --context kind-bank",
        ),
        (
            |f| of_there(f).export.as_mut().unwrap().allow.clear(),
            DoctorHop::ExportGrant,
            "adit export agents/fraud-bot --to CLUSTER",
        ),
        (|f| of_there(f).service = None, DoctorHop::Export, "make Service agents/fraud-bot"),
        (
            |f| {
                of_there(f).export.as_mut().unwrap().ready =
                    condition(false, "NoBackend", "none is ready");
                let service = of_there(f).service.as_mut().unwrap();
                service.pods.clear();
                service.workloads = vec![("deployment/fraud-bot".to_owned(), 0)];
            },
            DoctorHop::Backend,
            "kubectl --context kind-bank -n agents scale deployment/fraud-bot --replicas=1",
        ),
        (
            |f| of_there(f).installation.missing = vec!["namespace adit-system".to_owned()],
            DoctorHop::PeerInstallation,
            "--context kind-bank",
        ),
        (
            |f| {
                of_there(f).export.as_mut().unwrap().ready =
                    condition(false, "BackendRefused", "refused");
            },
            DoctorHop::Backend,
            "logs",
        ),
    ];
    for (number, (change, hop, mend)) in rows.into_iter().enumerate() {
        let found = of_export(change);
        let first = found.first().unwrap_or_else(|| panic!("row {number}: {found:?}"));
        assert_eq!((found.exit_status(), first.hop), (1, hop), "row {number}: {found:?}");
        assert!(first.mend.as_ref().unwrap().contains(mend), "row {number}: {first:?}");
    }
    let differ = of_export(|f| {
        of_there(f).export.as_mut().unwrap().ready =
            condition(false, "NodesDiffer", "1 of 2 nodes");
    });
    assert_eq!(differ.exit_status(), 2, "some requests are answered: {differ:?}");
}
