//! Links on a network in memory and a paused clock.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::time::Duration;

use adit_tests::net::memory::Memory;
use adit_tests::sites::{Running, Site, eventually, start};
use adit_transport::Tuning;
use adit_transport::links::Settings;

const SECOND: Duration = Duration::from_secs(1);

fn run(network: &Memory, site: &Site, n: u8, others: &[(&Site, &[u8])]) -> Running {
    let believed: Vec<_> = others.iter().map(|(other, _)| &other.authority).collect();
    let identity = site.authority.node(site.node(n).as_str(), &believed);
    let links: Vec<_> = others.iter().map(|(other, seeds)| other.link(seeds)).collect();
    let (settings, tuning) = (Settings::default(), Tuning::default());
    start(network.host(site.ip(n)), &identity, site.snapshot(n, &links), n, settings, tuning)
}

#[tokio::test(start_paused = true)]
async fn a_link_comes_up_and_carries_a_stream_both_ways() {
    let network = Memory::new(Duration::from_millis(10));
    let (edge, bank) = (Site::new("edge", 1, 1), Site::new("bank", 2, 1));
    let e1 = run(&network, &edge, 1, &[(&bank, &[1])]);
    let b1 = run(&network, &bank, 1, &[(&edge, &[1])]);
    eventually("both know each other", SECOND, || {
        e1.view(&bank).is_some() && b1.view(&edge).is_some()
    })
    .await;
    let view = e1.view(&bank).unwrap();
    assert_eq!(view.view.nodes[&bank.node(1)], [bank.address(1)]);
    assert_eq!(view.view.exports[&bank.service()].ports[0].ready[&bank.node(1)], 1);
    e1.echo(&bank, &bank.node(1), &[7; 100_000]).await.unwrap();
    b1.echo(&edge, &edge.node(1), &[8; 100_000]).await.unwrap();
    assert_eq!(b1.echo.served()[0].id.as_str(), "spiffe://edge.example/adit/node/e1");
}
