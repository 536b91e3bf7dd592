//! Connections that have ended leave nothing behind, however they ended.
//!
//! The QUIC connection between two nodes lives for weeks, so whatever it kept of each stream would add up. The heap of
//! this process is counted: both nodes, on a network in memory and a paused clock. The test is a program of its own,
//! because nothing else may use the heap meanwhile.
//!
//! `ADIT_MEMORY_ENDS=100000` is the long form: so many connections of each kind.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::alloc::System;
use std::time::Duration;

use adit_tests::sim::party::Party;
use adit_tests::sim::{INTERN, SUPPORT, Town, TownPlan};
use cap::Cap;
use futures_util::future::join_all;
use tokio::time::sleep;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const SECOND: Duration = Duration::from_secs(1);
/// Connections at once.
const BATCH: usize = 50;
/// Bytes that may remain of each: none, but what tables grow by in steps averages out only over many.
const MAX_BYTES_EACH: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    ClientResetsAtOnce,
    ClientResetsBeforeData,
    ClientResetsAfterData,
    ClientResetsAfterItsFinish,
    ClientResetsAfterTheirFinish,
    ClientResetsWhileStalled,
    BackendResets,
    BackendResetsAfterItsFinish,
    BackendResetsAfterTheirFinish,
    BothFinish,
    IdleThenClosed,
    Denied,
    NoBackend,
}

const ENDINGS: [Ending; 13] = [
    Ending::ClientResetsAtOnce,
    Ending::ClientResetsBeforeData,
    Ending::ClientResetsAfterData,
    Ending::ClientResetsAfterItsFinish,
    Ending::ClientResetsAfterTheirFinish,
    Ending::ClientResetsWhileStalled,
    Ending::BackendResets,
    Ending::BackendResetsAfterItsFinish,
    Ending::BackendResetsAfterTheirFinish,
    Ending::BothFinish,
    Ending::IdleThenClosed,
    Ending::Denied,
    Ending::NoBackend,
];

impl Ending {
    /// A batch of connections from their beginning to this end of them.
    async fn live(self, town: &Town) {
        let connect = |from| join_all((0..BATCH).map(move |_| town.connect(from)));
        if matches!(self, Self::Denied | Self::NoBackend) {
            let from = if self == Self::Denied { INTERN } else { SUPPORT };
            let mut clients = connect(from).await;
            join_all(clients.iter_mut().map(Party::end)).await;
            return;
        }
        let backend = town.backend(1);
        let clients = connect(SUPPORT).await;
        if self == Self::ClientResetsAtOnce {
            clients.into_iter().for_each(Party::reset);
            return sleep(2 * SECOND).await;
        }
        // Which server is whose is not known, and not asked.
        let servers = join_all((0..BATCH).map(|_| backend.accept())).await;
        let pairs = clients.into_iter().zip(servers);
        join_all(pairs.map(|(client, server)| self.end(client, server))).await;
        sleep(2 * SECOND).await;
    }

    async fn end(self, mut client: Party, mut server: Party) {
        if self == Self::ClientResetsBeforeData {
            return client.reset();
        }
        client.say(100).await.unwrap();
        server.hear(100).await;
        match self {
            Self::ClientResetsAfterItsFinish | Self::BackendResetsAfterTheirFinish => {
                client.finish().await;
                server.end().await;
            }
            Self::ClientResetsAfterTheirFinish | Self::BackendResetsAfterItsFinish => {
                server.finish().await;
                client.end().await;
            }
            Self::ClientResetsWhileStalled => {
                server.fill_for(SECOND).await;
            }
            Self::BothFinish => {
                client.finish().await;
                server.end().await;
                server.finish().await;
                client.end().await;
            }
            Self::IdleThenClosed => sleep(600 * SECOND).await,
            Self::ClientResetsAtOnce
            | Self::ClientResetsBeforeData
            | Self::ClientResetsAfterData
            | Self::BackendResets
            | Self::Denied
            | Self::NoBackend => {}
        }
        // No pair is whole, so nobody is to go before all are where they must be.
        sleep(2 * SECOND).await;
        let by_backend = [
            Self::BackendResets,
            Self::BackendResetsAfterItsFinish,
            Self::BackendResetsAfterTheirFinish,
        ];
        if by_backend.contains(&self) {
            server.reset();
        } else if self == Self::IdleThenClosed {
            drop(client);
        } else if self != Self::BothFinish {
            client.reset();
        }
        sleep(2 * SECOND).await;
    }

    /// The heap after so many, once everything has settled.
    async fn heap_after(self, town: &Town, count: usize) -> usize {
        for _ in 0..count / BATCH {
            self.live(town).await;
            town.network.forget_sent();
        }
        sleep(120 * SECOND).await;
        town.network.forget_sent();
        let open = town.edge[0].node.flows.open() + town.bank[0].node.flows.open();
        assert_eq!(open, 0, "{self:?}");
        HEAP.allocated()
    }
}

#[test]
fn ended_connections_leave_nothing_on_the_heap() {
    let count = std::env::var("ADIT_MEMORY_ENDS").map_or(300, |n| n.parse().unwrap());
    let mut kept = Vec::new();
    for ending in ENDINGS {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let each = runtime.unwrap().block_on(async {
            let town = Town::start(&TownPlan::default()).await;
            let before = ending.heap_after(&town, 500).await;
            let after = ending.heap_after(&town, count).await;
            after.saturating_sub(before) / count
        });
        eprintln!("{ending:?}: {each} bytes each");
        kept.push((ending, each));
    }
    kept.retain(|(_, each)| *each >= MAX_BYTES_EACH);
    assert!(kept.is_empty(), "bytes that are kept of each connection: {kept:?}");
}
