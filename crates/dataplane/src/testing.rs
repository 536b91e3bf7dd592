//! Helpers that tests of this crate share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::name::ServiceName;
use adit_core::snapshot::{
    Backend, Class, Export, ExportPort, Hop, Imports, LocalNode, SiblingTable, Snapshot,
};

/// A node with one export of one backend, which is granted to nobody; or that export is gone.
pub(crate) fn snapshot(service: &ServiceName, is_there: bool) -> Arc<Snapshot> {
    let backend = Backend {
        address: SocketAddr::from(([10, 244, 2, 9], 8080)),
        node: "b1".parse().unwrap(),
        explicit: false,
    };
    let port = ExportPort {
        name: "http".parse().unwrap(),
        number: 8080,
        app_protocol: None,
        backends: vec![backend],
        has_foreign: false,
    };
    let export = Export {
        service: service.clone(),
        ports: vec![port],
        allow: Vec::new(),
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
        probe: None,
    };
    let exports = [(service.clone(), Arc::new(export))];
    Arc::new(Snapshot {
        local: LocalNode {
            cluster: "bank".parse().unwrap(),
            trust_domain: "bank.example".parse().unwrap(),
            node: "b1".parse().unwrap(),
            advertise: Vec::new(),
        },
        siblings: SiblingTable::default(),
        links: BTreeMap::new(),
        imports: Imports::default(),
        exports: exports.into_iter().filter(|_| is_there).collect(),
        workloads: HashMap::new(),
        views: BTreeMap::new(),
        down: BTreeMap::new(),
        never_answered: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    })
}
