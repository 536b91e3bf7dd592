//! Views that flap, grow, and invent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::code::Code;
use adit_core::name::{NodeName, ServiceName};
use adit_core::policy::{Pattern, WorkloadPattern};
use adit_core::snapshot::{Class, Hop, PeerExport, PeerPort};
use adit_core::wire::StreamKind;
use adit_core::wire::control::ControlMessage;
use adit_core::wire::state::{StateMessage, SubscribeRequest};
use bytes::BytesMut;
use quinn::SendStream;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{AttackContext, connect, ms};
use crate::hostile::client::{EnemyConnection, Manners};
use crate::hostile::stage::LURE;

/// Exports of a large view; with eight grants each takes some 530 bytes.
const EXPORTS: usize = 10_000;
const NODES: usize = 4_990;

/// Serves what the victim asks for on `conn`, by `tell`, until the end.
async fn told<F>(
    means: AttackContext,
    conn: EnemyConnection,
    tell: fn(AttackContext, SendStream) -> F,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut telling = JoinSet::new();
    while let Ok(Ok((send, mut recv))) = timeout_at(means.pace.until, conn.quinn.accept_bi()).await
    {
        let means = means.clone();
        telling.spawn(async move {
            // The kind and a subscription to our own cluster: what it has already does not matter.
            let asked = recv.read_chunk(1000, true).await;
            if matches!(asked, Ok(Some(chunk)) if chunk.bytes.first() == Some(&StreamKind::State.byte())) {
                means.counts.add("subscribed", 1);
                tell(means, send).await.ok();
            }
        });
    }
    means.pace.end().await;
}

/// A victim that closes is met again.
async fn teller<F>(means: AttackContext, tell: fn(AttackContext, SendStream) -> F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    while means.pace.goes_on() {
        match means.connect(0, &Manners::default().bulk_window(), 0).await {
            Ok(conn) => {
                let closed = conn.quinn.clone();
                tokio::select! {
                    () = told(means.clone(), conn, tell) => {}
                    _ = closed.closed() => {}
                }
            }
            Err(_) => ms(200).await,
        }
        ms(200).await;
    }
}

impl Manners {
    fn bulk_window(mut self) -> Self {
        self.send_window = 1 << 30;
        self
    }
}

async fn say(
    means: &AttackContext,
    send: &mut SendStream,
    messages: &[StateMessage],
) -> Result<(), String> {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes);
    }
    let sent = timeout_at(means.pace.until, send.write_all(&bytes)).await;
    means.counts.add("bytes", bytes.len() as u64);
    sent.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn mark(sequence: u64) -> StateMessage {
    StateMessage::Mark { sequence, age_ms: 0, lost: false }
}

fn service(nth: usize) -> ServiceName {
    format!("agents/export-{nth:05}").parse().unwrap()
}

fn any() -> WorkloadPattern {
    WorkloadPattern { namespace: Pattern::Any, service_account: Pattern::Any }
}

fn export(grants: Vec<WorkloadPattern>, ready: BTreeMap<NodeName, u32>) -> Arc<PeerExport> {
    let (name, ready) = ("http".parse().unwrap(), ready.into_iter().collect());
    let port = PeerPort { name, number: 8080, app_protocol: None, ready, fault: None };
    let (hop, class) = (Hop::Any, Class::Interactive);
    Arc::new(PeerExport { ports: vec![port], grants, hop, class, replay: false, hold: None })
}

/// An export of some 530 bytes.
fn weighty(means: &AttackContext, nth: usize, ready: u32) -> StateMessage {
    let grant = |n| WorkloadPattern {
        namespace: Pattern::Exact(format!("a-namespace-of-some-length-{n}").parse().unwrap()),
        service_account: Pattern::Exact(format!("an-account-of-length-{n}").parse().unwrap()),
    };
    let ready = [(means.enemy.node(0).parse().unwrap(), ready)].into();
    StateMessage::Export(service(nth), export((0..8).map(grant).collect(), ready))
}

fn node(means: &AttackContext, nth: usize) -> StateMessage {
    let address: SocketAddr = ([172, 18, 3, 2], 7843).into();
    StateMessage::Node(means.enemy.node(nth).parse().unwrap(), vec![address])
}

/// See [`super::ALL`].
pub async fn flapping_view(means: AttackContext) {
    teller(means, |means, mut send| async move {
        let mut whole = vec![StateMessage::Begin { epoch: 1, replaces: true }, node(&means, 0)];
        whole.extend((0..EXPORTS).map(|nth| weighty(&means, nth, 1)));
        whole.push(mark(1));
        say(&means, &mut send, &whole).await?;
        drop(whole);
        for sequence in 2.. {
            if !means.pace.goes_on() {
                break;
            }
            let change = weighty(&means, sequence as usize % EXPORTS, sequence as u32);
            say(&means, &mut send, &[change, mark(sequence)]).await?;
            means.counts.add("changes", 1);
            ms(20).await;
        }
        Ok(())
    })
    .await;
}

/// See [`super::ALL`].
pub async fn begin_floods(means: AttackContext) {
    teller(means, |means, mut send| async move {
        for sequence in 1.. {
            if !means.pace.goes_on() {
                break;
            }
            let begin = StateMessage::Begin { epoch: sequence, replaces: true };
            let lure =
                StateMessage::Export(LURE.parse().unwrap(), export(vec![any()], BTreeMap::new()));
            say(
                &means,
                &mut send,
                &[begin, node(&means, sequence as usize % NODES), lure, mark(sequence)],
            )
            .await?;
            means.counts.add("changes", 1);
        }
        Ok(())
    })
    .await;
}

/// See [`super::ALL`].
pub async fn wide_view(means: AttackContext) {
    teller(means, |means, mut send| async move {
        for sequence in 1.. {
            if !means.pace.goes_on() {
                break;
            }
            // A grant to anybody takes one byte, and an entry of two names when it is read.
            let wide = export(vec![any(); 500], BTreeMap::new());
            let mut whole = vec![StateMessage::Begin { epoch: sequence, replaces: true }];
            whole.extend(
                (0..EXPORTS).map(|nth| StateMessage::Export(service(nth), Arc::clone(&wide))),
            );
            whole.push(mark(sequence));
            say(&means, &mut send, &whole).await?;
            means.counts.add("changes", 1);
            ms(500).await;
        }
        Ok(())
    })
    .await;
}

/// See [`super::ALL`].
pub async fn invented_nodes(means: AttackContext) {
    let n = means.pace.of(500);
    let all = connect(&means, n, n, &Manners::default().bulk_window()).await;
    let mut telling = JoinSet::new();
    // Whichever the victim asks.
    for conn in all {
        telling.spawn(told(means.clone(), conn, |means, mut send| async move {
            let name = |nth| means.enemy.node(nth).parse().unwrap();
            let ready = (0..NODES).map(|nth| (name(nth), 9)).collect();
            let mut whole = vec![StateMessage::Begin { epoch: 1, replaces: true }];
            whole.extend((0..NODES).map(|nth| node(&means, nth)));
            whole.push(StateMessage::Export(LURE.parse().unwrap(), export(vec![any()], ready)));
            whole.push(mark(1));
            say(&means, &mut send, &whole).await?;
            means.counts.add("changes", 1);
            means.pace.end().await;
            Ok(())
        }));
    }
    telling.join_all().await;
}

/// Where nothing of another cluster's may lead: the victim's loopback, the metadata service of clouds, a pod
/// and the node itself.
pub const BACK: [&str; 4] =
    ["127.0.0.1:5353", "169.254.169.254:5353", "10.244.2.9:5353", "172.18.2.2:5353"];

/// See [`super::ALL`].
pub async fn dial_backs(means: AttackContext) {
    teller(means, |means, mut send| async move {
        for sequence in 1.. {
            if !means.pace.goes_on() {
                break;
            }
            let mut whole = vec![StateMessage::Begin { epoch: sequence, replaces: true }];
            let names = (0..100).map(|nth| format!("x{sequence}-{nth}"));
            let addresses: Vec<SocketAddr> = BACK.iter().map(|a| a.parse().unwrap()).collect();
            whole.extend(
                names.clone().map(|n| StateMessage::Node(n.parse().unwrap(), addresses.clone())),
            );
            let ready = names.map(|n| (n.parse().unwrap(), 1)).collect();
            whole.push(StateMessage::Export(LURE.parse().unwrap(), export(vec![any()], ready)));
            whole.push(mark(sequence));
            say(&means, &mut send, &whole).await?;
            means.counts.add("changes", 1);
            ms(1000).await;
        }
        Ok(())
    })
    .await;
}

/// After so many milliseconds a connection is believed that its node is followed.
const SETTLED: u64 = 3500;

/// See [`super::ALL`].
pub async fn followed(means: AttackContext) {
    let n = means.pace.of(1000);
    let tell = |means: AttackContext, mut send: SendStream| async move {
        let silent: Vec<SocketAddr> = (1..=16).map(|n| ([10, 66, 9, n], 7843).into()).collect();
        let name = |nth| means.enemy.node(nth).parse().unwrap();
        let mut whole = vec![StateMessage::Begin { epoch: 1, replaces: true }];
        whole.extend(
            (0..means.pace.of(1000)).map(|nth| StateMessage::Node(name(nth), silent.clone())),
        );
        whole.push(mark(1));
        say(&means, &mut send, &whole).await?;
        means.pace.end().await;
        Ok(())
    };
    let mut running = JoinSet::new();
    // The first one tells who is announced, so that the others are let in.
    for conn in connect(&means, 1, 1, &Manners::default()).await {
        running.spawn(told(means.clone(), conn, tell));
    }
    ms(500).await;
    let mut all = connect(&means, n, n, &Manners::default()).await;
    ms(SETTLED).await;
    let mut bytes = BytesMut::new();
    ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 0 }.encode(&mut bytes);
    for conn in &mut all {
        if conn.control.0.write_all(&bytes).await.is_ok() {
            means.counts.add("said", 1);
        }
    }
    means.pace.end().await;
    running.join_all().await;
}

/// See [`super::ALL`].
pub async fn subscribe_storm(means: AttackContext) {
    let subscribe = || {
        let mut bytes = BytesMut::from(&[StreamKind::State.byte()][..]);
        let cluster = "bank".parse().unwrap();
        StateMessage::Subscribe(SubscribeRequest { cluster, have: None }).encode(&mut bytes);
        bytes
    };
    let all = connect(&means, 8, 1, &Manners::default()).await;
    let mut running = JoinSet::new();
    for conn in all {
        let means = means.clone();
        running.spawn(async move {
            let mut unread = Vec::new();
            for _ in 0..3 {
                unread.push(conn.begin(&subscribe()).await);
            }
            while means.pace.goes_on() {
                let Ok((mut send, mut recv)) = conn.begin(&subscribe()).await else { return };
                means.counts.add("subscribed", 1);
                let _first = timeout_at(means.pace.until, recv.read_chunk(1 << 16, true)).await;
                send.finish().ok();
            }
        });
    }
    running.join_all().await;
}
