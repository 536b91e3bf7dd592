//! Clusters, agents, nodes, and the link between them.

use adit_daemon::status::{LinkHealth, PeerNode, StatusDocument};
use adit_pki::TrustBundle;
use adit_pki::inspect::inspect;
use anyhow::Context as _;
use tokio::time::Instant;

use super::{DemoActors, DemoResources, STEP_TIMEOUT};
use crate::DemoOptions;
use crate::agents::fraud::{self, FraudBot, StepGate};
use crate::agents::triage::{self, TriageBot};
use crate::caller::Caller;
use crate::folder::{self, CLUSTERS, FRAUD_BOT, REPORT_BOT, SUPPORT_BOT, TRIAGE_BOT};
use crate::log::NodeLog;
use crate::narrate::{Narrator, ShownDuration};
use crate::node::DemoNode;

pub(super) fn clusters(world: &DemoResources, tell: &mut Narrator) -> anyhow::Result<()> {
    tell.step("Two clusters make themselves an authority each and exchange trust bundles");
    let bundles = world.stage.certificates(folder::now())?;
    for (cluster, bundle) in CLUSTERS.into_iter().zip(&bundles) {
        let other = if cluster == CLUSTERS[0] { CLUSTERS[1] } else { CLUSTERS[0] };
        tell.fact(
            cluster,
            format_args!(
                "spiffe://{}  SHA-256 {}…  → {other}",
                bundle.domain(),
                fingerprint(bundle)?
            ),
        );
    }
    tell.holds("certificates only were exchanged; the authorities' keys were never written");
    Ok(())
}

/// The beginning of what `adit pki show` says of the bundle's one certificate: enough to compare by eye.
fn fingerprint(bundle: &TrustBundle) -> anyhow::Result<String> {
    let certificates = inspect(bundle.to_pem().as_bytes(), folder::now())?;
    let info = certificates.first().context("a bundle without a certificate")?;
    Ok(info.fingerprint.chars().take(16).collect())
}

pub(super) async fn agents(
    world: &mut DemoResources,
    tell: &mut Narrator,
) -> anyhow::Result<DemoActors> {
    tell.step("Agents, made with the official Rust A2A SDK");
    let (triage, pace) = (TriageBot::default(), StepGate::new());
    let triage_at = world.agents.serve(TRIAGE_BOT, &triage::ABOUT, triage.clone()).await?;
    let cluster = Caller::new(FRAUD_BOT, &[(triage::ABOUT.name, triage_at)])?;
    let bot = FraudBot { cluster, pace: pace.clone() };
    let fraud_at = world.agents.serve(FRAUD_BOT, &fraud::ABOUT, bot).await?;
    tell.fact(fraud::ABOUT.name, format_args!("in bank, beside b1, at {fraud_at}"));
    tell.fact(triage::ABOUT.name, format_args!("in bank, beside b2, at {triage_at}"));
    tell.fact("support-bot", format_args!("in edge, at {SUPPORT_BOT}; bank grants it both agents"));
    tell.fact("report-bot", format_args!("in edge, at {REPORT_BOT}; bank grants it nothing"));

    let (places, services) = world
        .stage
        .configure([(fraud::ABOUT.name, fraud_at, "b1"), (triage::ABOUT.name, triage_at, "b2")])?;
    let edge = places.iter().find(|place| place.cluster == "edge").context("edge has no node")?;
    let log = NodeLog::open(&edge.log);
    world.places = places;
    let imports: Vec<_> = services.iter().map(|s| (s.name, s.import)).collect();
    let backends: Vec<_> = services.iter().map(|s| (s.name, s.backend)).collect();
    Ok(DemoActors {
        triage,
        pace,
        support: Caller::new(SUPPORT_BOT, &imports)?,
        direct: Caller::new(SUPPORT_BOT, &backends)?,
        report: Caller::new(REPORT_BOT, &imports)?,
        services,
        log,
    })
}

pub(super) async fn nodes(
    world: &mut DemoResources,
    tell: &mut Narrator,
    options: &DemoOptions,
) -> anyhow::Result<()> {
    tell.step("Three nodes start, each a process of this program with a file of its own");
    let started = Instant::now();
    for place in std::mem::take(&mut world.places) {
        let mut node = DemoNode::new(place, options.launch);
        node.start()?;
        world.nodes.push(node);
    }
    for node in &mut world.nodes {
        let status = node.wait_until("ready", STEP_TIMEOUT, |status| status.node.ready).await?;
        let place = &node.place;
        tell.fact(
            place.name,
            format_args!(
                "pid {}  udp {}  adit node --config {}",
                status.node.pid,
                place.udp,
                place.config.display()
            ),
        );
    }
    tell.holds(format_args!("all three are ready after {}", ShownDuration(started.elapsed())));
    Ok(())
}

/// The names of the nodes of `cluster` with which there is a connection.
pub(super) fn connected(status: &StatusDocument, cluster: &str) -> Vec<String> {
    let link = status.links.iter().find(|link| link.cluster == cluster);
    let nodes = link.into_iter().flat_map(|link| &link.nodes);
    nodes.filter(|n| !n.connections.is_empty()).map(|n| n.node.clone()).collect()
}

/// True if all of `bank` can be used from here.
pub(super) fn linked(status: &StatusDocument) -> bool {
    let up = status.links.iter().any(|l| l.cluster == "bank" && l.state == LinkHealth::Up);
    let ready = status.imports.iter().flat_map(|i| &i.ports).all(|port| port.ready);
    up && ready && connected(status, "bank").len() == 2
}

/// The round trip to a node, on the best of the connections with it.
pub(super) fn rtt(peer: &PeerNode) -> String {
    let all = peer.connections.iter().map(|connection| connection.rtt_ms);
    format!("RTT {:.2} ms", all.fold(f64::INFINITY, f64::min))
}

pub(super) async fn link(world: &mut DemoResources, tell: &mut Narrator) -> anyhow::Result<()> {
    tell.step("edge links with bank: QUIC, TLS 1.3, both sides show certificates");
    let asked = Instant::now();
    let status =
        world.node("e1")?.wait_until("linked with b1 and b2", STEP_TIMEOUT, linked).await?;
    let waited = asked.elapsed();
    let link = status.links.iter().find(|l| l.cluster == "bank").context("no link with bank")?;
    for peer in &link.nodes {
        let role = if peer.hub { "hub" } else { "node" };
        tell.fact(
            &format!("e1 ⇄ {}", peer.node),
            format_args!("{role} at {}, {}", peer.addresses.join(", "), rtt(peer)),
        );
    }
    let seeds = link.seeds.join(", ");
    tell.holds(format_args!(
        "the link is up ({} after the nodes were ready); e1's file names only {seeds}",
        ShownDuration(waited)
    ));
    Ok(())
}
