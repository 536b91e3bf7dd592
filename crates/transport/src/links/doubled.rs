//! Says in the log that a node's name has two living processes: most likely an identity folder was copied.
//!
//! Neither a restart (what was connected with the process before ends within seconds) nor a hand-over (the
//! process before goes away) looks like that for long. What it comes to, see
//! [`adit_core::choose::connections`]: new streams go to the process that came last.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use adit_core::choose::connections::Passed;
use adit_core::name::ClusterName;
use tokio::time::Instant;

use super::conn::Conn;
use super::dials::Node;
use super::shared::Shared;
use crate::peer::BootId;

/// A process that lives beside another for so long is not about to go away.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between two lines of one cluster: it has as many such nodes as it likes.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

impl Shared {
    /// Warns of one such node of each cluster, where that was not done a moment ago.
    pub(super) fn warn_of_doubled(&self, warned: &mut BTreeMap<ClusterName, Instant>) {
        warned.retain(|_, at| at.elapsed() < WARN_INTERVAL);
        let mut first: HashMap<Node, BootId> = HashMap::new();
        for (conn, passed) in self.register.all() {
            if !is_beside(&conn, passed) || warned.contains_key(&conn.peer.cluster) {
                continue;
            }
            let boot = conn.peer.boot;
            let other = *first.entry(conn.node()).or_insert(boot);
            if other != boot {
                let (peer, remote) = (&conn.peer.id, conn.quic.remote());
                tracing::warn!(
                    %peer, %boot, %remote, %other,
                    "two living processes have this name: was an identity folder copied? New streams go to \
                     the one that came last"
                );
                warned.insert(conn.peer.cluster.clone(), Instant::now());
            }
        }
    }
}

fn is_beside(conn: &Conn, passed: Option<Passed>) -> bool {
    matches!(passed, None | Some(Passed::OlderBoot)) && conn.since.elapsed() >= BESIDE_TIMEOUT
}
