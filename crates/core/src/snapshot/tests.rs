use super::*;
use crate::grant::WorkloadPattern;

/// `edge` as node e1 sees it: linked with `bank`, which exports fraud-bot to support-bot.
pub(crate) fn edge() -> Snapshot {
    let fraud: ServiceName = "trustusbank-bank-agents/fraud-bot".parse().unwrap();
    let support = WorkloadPattern {
        namespace: "trustusbank-bank-agents".parse().unwrap(),
        service_account: "support-bot".parse().unwrap(),
    };
    let port = PeerPort {
        name: "http".parse().unwrap(),
        number: 8080,
        app_protocol: None,
        ready: [("b1".parse().unwrap(), 2), ("b2".parse().unwrap(), 1)].into(),
        fault: None,
    };
    let export = PeerExport {
        ports: vec![port],
        grants: vec![support.clone()],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    };
    let nodes = [("b1", "172.18.2.2:7843"), ("b2", "172.18.2.3:7843")];
    let import = Import {
        service: fraud.clone(),
        from: "bank".parse().unwrap(),
        ports: vec![ImportPort {
            name: "http".parse().unwrap(),
            number: 8080,
            listen: vec!["127.0.0.1:15080".parse().unwrap()],
        }],
        allow: vec![WorkloadPattern { service_account: "*".parse().unwrap(), ..support }],
        displaced_by: None,
    };
    let view = ClusterView {
        nodes: nodes
            .map(|(n, a)| (n.parse().unwrap(), vec![a.parse().unwrap()]))
            .into_iter()
            .collect(),
        exports: [(fraud, Arc::new(export))].into(),
    };
    Snapshot {
        local: LocalNode {
            cluster: "edge".parse().unwrap(),
            trust_domain: "edge.trustusbank.example".parse().unwrap(),
            node: "e1".parse().unwrap(),
            advertise: vec!["172.18.1.2:7843".parse().unwrap()],
        },
        siblings: SiblingTable::default(),
        links: BTreeMap::new(),
        imports: [import].into_iter().collect(),
        exports: SharedMap::new(),
        workloads: HashMap::new(),
        views: [("bank".parse().unwrap(), Arc::new(view))].into(),
        down: BTreeMap::new(),
        never_answered: BTreeSet::new(),
        forbidden: ["172.18.1.2".parse().unwrap()].into(),
    }
}

fn backend(address: &str, written_out: bool) -> Backend {
    let address = address.parse().unwrap();
    Backend { address, node: "e1".parse().unwrap(), explicit: written_out }
}

#[test]
fn a_local_address_stands_for_one_import() {
    let edge = edge();
    let (import, port) = edge.imports.at("127.0.0.1:15080".parse().unwrap()).unwrap();
    assert_eq!((import.service.name(), port.number), ("fraud-bot", 8080));
    assert!(edge.imports.at("127.0.0.2:15080".parse().unwrap()).is_none());
    assert_eq!(edge.imports.addresses().count(), 1);
}

#[test]
fn special_addresses_are_dialled_only_when_written_out() {
    let edge = edge();
    assert!(edge.may_dial(&backend("10.244.0.9:8080", false)));
    for special in [
        "127.0.0.1:80",
        "127.8.8.8:80",
        "[::1]:80",
        "169.254.169.254:80",
        "[fe80::1]:80",
        "172.18.1.2:6443",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:172.18.1.2]:80",
        "255.255.255.255:80",
        "[fd00:ec2::254]:80",
        "168.63.129.16:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:ac12:102::]:80",
    ] {
        assert!(!edge.may_dial(&backend(special, false)), "{special}");
        assert!(edge.may_dial(&backend(special, true)), "{special}");
    }
    let listeners = ["127.0.0.1:15080", "[::ffff:127.0.0.1]:15080"];
    let nowhere = ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80", "[ff02::1]:80"];
    for never in nowhere.into_iter().chain(listeners) {
        assert!(!edge.may_dial(&backend(never, true)), "{never}");
    }
}

#[test]
fn a_peer_cannot_make_us_dial_our_own_addresses() {
    let mut edge = edge();
    edge.siblings = [("e2".parse().unwrap(), vec!["172.18.1.3:7843".parse().unwrap()])].into();
    let port = ExportPort {
        name: "http".parse().unwrap(),
        number: 80,
        app_protocol: None,
        backends: vec![backend("10.244.9.9:8080", false)],
        has_foreign: false,
    };
    let export = Export {
        service: "agents/bank-bot".parse().unwrap(),
        ports: vec![port],
        allow: vec![],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
        probe: None,
    };
    edge.exports = [(export.service.clone(), Arc::new(export))].into();
    let support = Workload {
        namespace: "agents".parse().unwrap(),
        service_account: "support-bot".parse().unwrap(),
    };
    edge.workloads = [("10.244.1.10".parse().unwrap(), support)].into();
    let inside = |ip: &str| edge.is_own_address(ip.parse().unwrap());
    for ours in ["172.18.1.2", "::ffff:172.18.1.2", "172.18.1.3", "10.244.9.9", "10.244.1.10"] {
        assert!(inside(ours), "{ours}");
    }
    assert!(!inside("172.18.2.2") && !inside("127.0.0.1"));
}
