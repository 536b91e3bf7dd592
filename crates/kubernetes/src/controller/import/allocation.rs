//! Allocation of addresses and listener ports to all imports of a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_config::cluster::{NetworkConfig, NetworkMode};
use adit_core::name::ServiceName;

use super::addresses::{self, AddressPool, Allocation};
use super::decision::WantedImport;
use super::ports::{self, ImportPorts};
use super::slices;
use crate::api::{Import, ImportPort, ServiceRef};
use crate::controller::cluster_state::ClusterState;
use crate::controller::plan::PlanInput;

/// Addresses and ports of all imports, by name of their objects.
pub(crate) struct ImportAllocations {
    pub(crate) addresses: BTreeMap<String, Allocation>,
    pub(crate) ports: BTreeMap<String, ImportPorts>,
}

/// Allocates the addresses and ports of all imports.
pub(crate) fn allocate_imports(
    state: &ClusterState,
    input: &PlanInput<'_>,
    wanted: &BTreeMap<ServiceName, WantedImport>,
) -> ImportAllocations {
    let network = &input.config.network;
    let mut ports = BTreeMap::new();
    for (service, want) in wanted {
        let name = ServiceRef::from(service).object_name();
        ports.insert(name, import_ports(state, input, service, want));
    }
    let mut addresses = allocate_addresses(state, network, wanted);
    let listen = allocate_listeners(state, network, &ports);
    for (name, ports) in &mut ports {
        let own = listen.get(name);
        let count = ports.used.len();
        let listens = |port: &mut ImportPort| {
            let listen = own.and_then(|own| own.get(&port.name));
            port.listen = listen.copied().unwrap_or_default();
            listen.is_some()
        };
        ports.used.retain_mut(listens);
        ports.retained.retain_mut(listens);
        if let Some(allocated) = addresses.get_mut(name).filter(|_| ports.used.len() < count) {
            allocated.exhausted = true;
        }
    }
    ImportAllocations { addresses, ports }
}

fn allocate_addresses(
    state: &ClusterState,
    network: &NetworkConfig,
    wanted: &BTreeMap<ServiceName, WantedImport>,
) -> BTreeMap<String, Allocation> {
    let local = network.mode == NetworkMode::LocalRange;
    let held = |import: &Import| -> Vec<IpAddr> {
        import.spec.addresses.iter().filter_map(|a| a.parse().ok()).collect()
    };
    let held: BTreeMap<String, Vec<IpAddr>> =
        state.imports.iter().map(|(name, import)| (name.clone(), held(import))).collect();
    let mut need = BTreeMap::new();
    for service in wanted.keys() {
        let families = state.services.get(service).map(|s| slices::families(s));
        let families = families.filter(|_| local).unwrap_or_default();
        need.insert(ServiceRef::from(service).object_name(), families);
    }
    if local {
        let pools = (AddressPool::new(network.range), AddressPool::new(network.range6));
        addresses::allocate(pools, &held, &need)
    } else {
        need.into_keys().map(|name| (name, Allocation::default())).collect()
    }
}

/// Allocates a listener port to each port of each import.
fn allocate_listeners(
    state: &ClusterState,
    network: &NetworkConfig,
    ports: &BTreeMap<String, ImportPorts>,
) -> BTreeMap<String, BTreeMap<String, u16>> {
    let held = state.imports.iter().map(|(name, import)| {
        let ports = import.spec.ports.iter().map(|p| (p.name.clone(), p.listen));
        (name.clone(), ports.collect::<BTreeMap<_, _>>())
    });
    let held: BTreeMap<_, _> = held.collect();
    let names = |ports: &ImportPorts| ports.all().into_iter().map(|p| p.name).collect();
    let wanted: BTreeMap<String, Vec<String>> =
        ports.iter().map(|(name, ports)| (name.clone(), names(ports))).collect();
    let first = network.listener_port;
    if network.mode == NetworkMode::NodeAddress {
        return addresses::allocate_ports((first, addresses::FIRST_NODE_PORT), &held, &wanted);
    }
    // Each import has addresses of its own, and so all ports.
    let bounds = (first, first.saturating_add(NetworkConfig::LISTENER_PORTS));
    let only = |name: &String, names: &Vec<String>| {
        let own = held.get(name).map(|ports| (name.clone(), ports.clone()));
        let need = BTreeMap::from([(name.clone(), names.clone())]);
        addresses::allocate_ports(bounds, &own.into_iter().collect(), &need)
    };
    wanted.iter().flat_map(|(name, names)| only(name, names)).collect()
}

/// Returns the used ports as the exporting side announces them, or announced them last.
fn import_ports(
    state: &ClusterState,
    input: &PlanInput<'_>,
    service: &ServiceName,
    want: &WantedImport,
) -> ImportPorts {
    let stored = state.imports.get(&ServiceRef::from(service).object_name());
    let stored = stored.filter(|import| import.spec.from == want.from.as_str());
    let uses = want.port_use(state, service);
    let mut ports = match (want.peer_export(input.peers, service), stored) {
        (Some(export), _) => uses.select_of_export(export),
        (None, Some(stored)) => uses.select(stored.spec.ports.clone()),
        (None, None) => ImportPorts::default(),
    };
    if let Some(stored) = stored {
        ports.retained = ports::retained_ports(state, service, stored, &ports.used);
    }
    ports
}
