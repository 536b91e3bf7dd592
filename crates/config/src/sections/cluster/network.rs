//! The section `network` of the ConfigMap: addresses and ports on all nodes.

use std::net::SocketAddr;

use crate::cluster::{NetworkConfig, NetworkMode};
use crate::metrics_readers::{MetricsReader, MetricsReaders};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

pub(super) fn network(mut fields: MapReader<'_>) -> Option<NetworkConfig> {
    let default = NetworkConfig::default();
    let modes = NetworkMode::ALL.map(|mode| (mode.name(), mode));
    let mode = fields.choice("mode", &modes);
    let range = fields.optional("range").map_or(Some(default.range), |item| {
        item.value(|text| value::range4(text, &NetworkConfig::RANGE))
    });
    let range6 = fields.optional("range6").map_or(Some(default.range6), |item| {
        item.value(|text| value::range6(text, &NetworkConfig::RANGE6))
    });
    let port = fields.optional("port").map_or(Some(default.port), |item| {
        item.number(|text| value::number(text, &(1..=u16::MAX)))
    });
    let listener = fields.optional("listenerPort");
    let listener_port = listener.as_ref().map_or(Some(default.listener_port), |item| {
        item.number(|text| value::number(text, &NetworkConfig::LISTENER_PORT))
    });
    let metrics_item = fields.optional("metrics");
    let metrics = metrics_item.as_ref().map_or(Some(default.metrics), |item| {
        item.value(|text| value::address(text).and_then(server_address))
    });
    let readers_item = fields.optional("metricsFrom");
    let readers = readers_item.map(|item| metrics_readers(&item));
    fields.finish();
    let (listener_port, metrics) = (listener_port?, metrics?);
    // Whoever has written where metrics are served, before it could be said to whom, goes on to get what he got.
    let metrics_from = match (readers, &metrics_item) {
        (Some(readers), _) => readers?,
        (None, None) => default.metrics_from,
        (None, Some(_)) if metrics.ip().to_canonical().is_loopback() => MetricsReaders::default(),
        (None, Some(_)) => MetricsReaders::everybody(),
    };
    let own_ports = listener_port..listener_port + NetworkConfig::LISTENER_PORTS;
    if let Some(item) = metrics_item.or(listener)
        && own_ports.contains(&metrics.port())
    {
        let message = format!(
            "the port of metrics ({}) is one of those from listenerPort on ({} to {})",
            metrics.port(),
            own_ports.start,
            own_ports.end - 1
        );
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
    }
    Some(NetworkConfig {
        mode: mode?,
        range: range?,
        range6: range6?,
        port: port?,
        listener_port,
        metrics,
        metrics_from,
    })
}

fn metrics_readers(item: &ValueReader<'_>) -> Option<MetricsReaders> {
    let items = item.list()?;
    if items.len() > MetricsReaders::MAX {
        let message = format!("{} entries: expected {} at most", items.len(), MetricsReaders::MAX);
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message));
        return None;
    }
    let reader = |item: &ValueReader<'_>| {
        item.value(|text| {
            text.parse::<MetricsReader>()
                .map_err(|why| ValueProblem::new(ProblemKind::Invalid, format!("{text:?}: {why}")))
        })
    };
    let read: Vec<Option<MetricsReader>> = items.iter().map(reader).collect();
    read.into_iter().collect()
}

/// A server's address has a port that clients can know.
fn server_address(address: SocketAddr) -> Result<SocketAddr, ValueProblem> {
    if address.port() == 0 {
        let message = "port 0 is any free port: expected 1 to 65535";
        return Err(ValueProblem::new(ProblemKind::OutOfRange, message));
    }
    Ok(address)
}
