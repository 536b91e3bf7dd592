//! The difference between two configurations, and the keys of it that a running process cannot take.
//!
//! Most of a file is data that the next snapshot carries. What sockets and runtimes were built from stays as
//! it was until a restart, and the status says so instead of pretending.

use adit_config::Config;
use adit_config::config::{LimitsConfig, LogConfig, NodeConfig};

/// A configuration to run on, and how it differs from the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigDiff {
    /// The new configuration, with the keys that need a restart taken from the old one.
    pub(super) config: Config,
    /// Sections whose content changed and is applied, as the file names them.
    pub(super) applied: Vec<&'static str>,
    /// Keys whose change waits for a restart.
    pub(super) needs_restart: Vec<&'static str>,
}

/// Compares the configuration in use with a `new` one.
pub(super) fn between(old: &Config, new: &Config) -> ConfigDiff {
    all_keys(new);
    let mut config = new.clone();
    let mut needs_restart = Vec::new();
    if config.node.listen != old.node.listen {
        config.node.advertise.clone_from(&old.node.advertise);
    }
    macro_rules! keep {
        ($($key:literal: $($field:ident).+;)*) => {
            $(if config.$($field).+ != old.$($field).+ {
                config.$($field).+ = old.$($field).+.clone();
                needs_restart.push($key);
            })*
        };
    }
    keep! {
        "cluster": cluster;
        "trustDomain": trust_domain;
        "node.name": node.name;
        "node.listen": node.listen;
        "node.endpoints": node.endpoints;
        "limits.streamsPerConnection": limits.streams_per_connection;
        "limits.streamsPerPeer": limits.streams_per_peer;
        "limits.headerDeadline": limits.header_deadline;
        "limits.dialTimeout": limits.dial_timeout;
        "limits.peerBuffer": limits.peer_buffer;
        "limits.processBuffer": limits.process_buffer;
        "limits.unknownSourceHold": limits.unknown_source_hold;
        "limits.interactiveWindow": limits.interactive_window;
        "limits.bulkWindow": limits.bulk_window;
        "limits.keepAlive": limits.keep_alive;
        "limits.mtu": limits.mtu;
        "admin": admin;
        "metrics": metrics;
        "network.metricsFrom": metrics_access;
    }
    let applied = [
        ("node", config.node != old.node),
        ("siblings", config.siblings != old.siblings),
        ("links", config.links != old.links),
        ("imports", config.imports != old.imports),
        ("exports", config.exports != old.exports),
        ("workloads", config.workloads != old.workloads),
        ("denied", config.denied != old.denied),
        ("limits", config.limits != old.limits),
        ("log", config.log != old.log),
    ];
    let applied =
        applied.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect();
    ConfigDiff { config, applied, needs_restart }
}

/// Does nothing but name every key: one that is added stops the build here, and has to be put into one of
/// the two lists above.
fn all_keys(config: &Config) {
    #[rustfmt::skip]
    let Config {
        cluster: _, trust_domain: _, node, siblings: _, links: _, imports: _, exports: _, workloads: _,
        denied: _, limits, admin: _, metrics: _,
        metrics_access: _, log,
    } = config;
    let NodeConfig { name: _, listen: _, advertise: _, identity: _, endpoints: _ } = node;
    let LogConfig { level: _, format: _ } = log;
    #[rustfmt::skip]
    let LimitsConfig {
        streams_per_connection: _, streams_per_peer: _, header_deadline: _, dial_timeout: _, peer_buffer: _,
        process_buffer: _, drain: _, leave: _, unknown_source_hold: _, interactive_window: _, bulk_window: _,
        keep_alive: _, mtu: _,
    } = limits;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        adit_config::parse(text.as_bytes(), std::path::Path::new("edge.yaml")).unwrap().0
    }

    const EDGE: &str = "cluster: edge\ntrustDomain: edge.example\nnode: {name: e1, listen: \"127.0.0.1:7843\", identity: /i}\n";

    #[test]
    fn nothing_changes_between_equals() {
        let changes = between(&config(EDGE), &config(EDGE));
        assert_eq!(
            changes,
            ConfigDiff { config: config(EDGE), applied: vec![], needs_restart: vec![] }
        );
    }

    #[test]
    fn what_sockets_were_built_from_stays_and_the_rest_is_taken() {
        let new = EDGE.replace("127.0.0.1:7843", "127.0.0.1:9")
            + "workloads: [{address: 127.0.1.10, namespace: a, serviceAccount: b}]\nlimits: {drain: 5s, mtu: {initial: 1300}}\nlog: {level: debug, format: json}\n";
        let (old, new) = (config(EDGE), config(&new));
        let changes = between(&old, &new);
        assert_eq!(changes.needs_restart, ["node.listen", "limits.mtu"]);
        assert_eq!(changes.applied, ["workloads", "limits", "log"]);
        assert_eq!(
            changes.config.node, old.node,
            "what is advertised goes with what is listened on"
        );
        assert_eq!(changes.config.limits.drain, new.limits.drain);
        assert_eq!(changes.config.log, new.log);
        assert_eq!(between(&changes.config, &new).applied, [""; 0], "once is enough");
    }
}
