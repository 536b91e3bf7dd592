//! The ports of an import: only those that its Service has, because each costs every node a
//! listener for each worker.
//!
//! **Invariant:** a port is stored in the Import before a slice names it, and stays there until no
//! slice does any more. Nodes listen on the stored ports.

use std::collections::BTreeSet;

use adit_core::name::ServiceName;
use adit_core::snapshot::PeerExport;
use k8s_openapi::api::core::v1::Service;

use super::slices;
use crate::api::{Import, ImportPort};
use crate::controller::cluster_state::{ClusterState, is_ours};

/// Most ports of an import that the configuration names.
const MAX_PORTS: usize = 64;
/// Most ports of any other import.
const MAX_PORTS_UNNAMED: usize = 16;

/// The use of a Service by an import.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PortUse<'a> {
    /// The Service, if it exists.
    pub(crate) service: Option<&'a Service>,
    /// True if the Service is created as the export says.
    pub(crate) creates_service: bool,
    /// True if the configuration names the import.
    pub(crate) named: bool,
}

/// The ports of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ImportPorts {
    /// Ports that are served.
    pub(crate) used: Vec<ImportPort>,
    /// Ports that a slice still names, though nobody should use them.
    pub(crate) retained: Vec<ImportPort>,
    /// Number of ports beyond the limit.
    pub(crate) left_out: usize,
}

impl ImportPorts {
    /// Returns all of them, as the Import stores them.
    pub(crate) fn all(&self) -> Vec<ImportPort> {
        self.used.iter().chain(&self.retained).cloned().collect()
    }
}

impl PortUse<'_> {
    /// Selects the used ports of `export`.
    pub(crate) fn select_of_export(self, export: &PeerExport) -> ImportPorts {
        self.select(export.ports.iter().map(Into::into).collect())
    }

    /// Selects the used ports among `offered`.
    pub(crate) fn select(self, offered: Vec<ImportPort>) -> ImportPorts {
        let mut used = match self.service {
            Some(service) if !(self.creates_service && is_ours(service)) => {
                let names: BTreeSet<String> = slices::matching_ports(service, &offered)
                    .map(|(_, import)| import.name.clone())
                    .collect();
                offered.into_iter().filter(|port| names.contains(&port.name)).collect()
            }
            None if !self.creates_service => Vec::new(),
            Some(_) | None => offered,
        };
        let most = if self.named { MAX_PORTS } else { MAX_PORTS_UNNAMED };
        let left_out = used.len().saturating_sub(most);
        used.truncate(most);
        ImportPorts { used, retained: Vec::new(), left_out }
    }
}

/// Returns the ports of a stored import that a slice of ours names, except `used`.
pub(crate) fn retained_ports(
    state: &ClusterState,
    service: &ServiceName,
    stored: &Import,
    used: &[ImportPort],
) -> Vec<ImportPort> {
    let key =
        |suffix: &&str| (service.namespace.to_string(), format!("{}{suffix}", service.name()));
    let slices = slices::NAME_SUFFIXES.iter().filter_map(|suffix| state.slices.get(&key(suffix)));
    let named: BTreeSet<i32> =
        slices.flat_map(|slice| slice.ports.iter().flatten()).filter_map(|p| p.port).collect();
    let stays = |port: &&ImportPort| {
        named.contains(&i32::from(port.listen)) && !used.iter().any(|u| u.name == port.name)
    };
    stored.spec.ports.iter().filter(stays).cloned().collect()
}
