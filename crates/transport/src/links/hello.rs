//! The first words of a connection, both ways, and whether they are believed.
//!
//! The dialler opens the control stream and says who it is; the acceptor answers in kind. Each has
//! [`super::Settings::header_deadline`]. What a hello must say is [`adit_core::admission`]'s; how a refusal travels is the
//! caller's: it closes the connection with the code and the text.

use adit_core::admission::pace::Allowance;
use adit_core::admission::{self, Refusal};
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Snapshot;
use adit_core::wire::StreamKind;
use adit_core::wire::control::{ANSWERS_REPORTS, Control, Hello};
use bytes::BytesMut;
use tokio::time::timeout;

use super::local::Local;
use super::messages::Messages;
use crate::endpoint::Connection;
use crate::peer::{BootId, PeerInfo};
use crate::stream::{RecvStream, SendStream};

/// Control messages that a peer may send on one connection: a hello, a go-away, and from later versions on a
/// dial-me for each node, now and then.
const ALLOWED_MESSAGES: Allowance = Allowance { burst: 256, per_second: 16 };

/// A connection whose both ends know each other.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) peer: PeerInfo,
    pub(super) send: SendStream,
    pub(super) messages: Messages<Control>,
}

/// Speaks first, on a connection that we dialled.
pub(super) async fn greet(
    quic: &Connection,
    local: &Local,
    now: &Snapshot,
    slot: u64,
) -> Result<Greeted, Refusal> {
    let (cluster, node) = admission::peer(now, quic.peer())?;
    let exchange = async {
        let opened = quic.open_bi(local.settings.header_deadline).await;
        let (mut send, recv) = opened.map_err(|e| refusal(e.code(), &e))?;
        say(&mut send, Some(StreamKind::Control), ours(quic, local, now, slot)).await?;
        let (hello, messages) = listen(recv).await?;
        Ok((send, hello, messages))
    };
    let (send, hello, messages) = in_time(quic, local, exchange).await?;
    let peer = check(quic, local, cluster, node, &hello, slot)?;
    Ok(Greeted { peer, send, messages })
}

/// Listens first, on a connection that we accepted.
pub(super) async fn answer(
    quic: &Connection,
    local: &Local,
    now: &Snapshot,
) -> Result<Greeted, Refusal> {
    let (cluster, node) = admission::peer(now, quic.peer())?;
    let hearing = async {
        let accepted = quic.accept_bi().await;
        let (send, mut recv) = accepted.map_err(|closed| refusal(closed.code, &closed))?;
        let mut kind = [0];
        let read = recv.read(&mut kind).await.map_err(|e| refusal(e.code(), &e))?;
        if read.is_none() || StreamKind::from_byte(kind[0]) != Some(StreamKind::Control) {
            return Err(broken("the first stream is not the control stream"));
        }
        let (hello, messages) = listen(recv).await?;
        Ok((send, hello, messages))
    };
    let (mut send, hello, messages) = in_time(quic, local, hearing).await?;
    let peer = check(quic, local, cluster, node, &hello, hello.slot)?;
    in_time(quic, local, say(&mut send, None, ours(quic, local, now, hello.slot))).await?;
    Ok(Greeted { peer, send, messages })
}

fn ours(quic: &Connection, local: &Local, now: &Snapshot, slot: u64) -> Hello {
    Hello {
        versions: local.settings.versions,
        capabilities: ANSWERS_REPORTS,
        cluster: now.this.cluster.clone(),
        node: now.this.node.clone(),
        boot: local.boot.0,
        lane: quic.class(),
        clock_ms: (local.clock)(),
        slot,
        stream_window: quic.grant_limits().map_or(0, |limits| limits.first),
    }
}

async fn say(send: &mut SendStream, kind: Option<StreamKind>, hello: Hello) -> Result<(), Refusal> {
    let mut bytes = BytesMut::new();
    bytes.extend(kind.map(StreamKind::byte));
    Control::Hello(hello).encode(&mut bytes);
    send.send_all(&bytes).await.map_err(|e| refusal(e.code(), &e))
}

async fn listen(recv: RecvStream) -> Result<(Hello, Messages<Control>), Refusal> {
    let mut messages = Messages::limited(recv, Control::decode, ALLOWED_MESSAGES);
    match messages.next().await.map_err(|e| refusal(e.code(), &e))? {
        Control::Hello(hello) => Ok((hello, messages)),
        Control::GoAway { .. } | Control::DialMe { .. } | Control::Doubled { .. } => {
            Err(broken("the first message is not a hello"))
        }
    }
}

fn check(
    quic: &Connection,
    local: &Local,
    cluster: ClusterName,
    node: NodeName,
    hello: &Hello,
    slot: u64,
) -> Result<PeerInfo, Refusal> {
    admission::hello(local.settings.versions, (&cluster, &node), quic.class(), hello)?;
    Ok(PeerInfo {
        cluster,
        node,
        id: quic.peer().clone(),
        boot: BootId(hello.boot),
        lane: hello.lane,
        dialled: quic.dialled(),
        slot,
        capabilities: hello.capabilities,
        stream_window: hello.stream_window,
        remote: quic.remote(),
    })
}

/// Bounds one side's hello. A connection that ends meanwhile says why better than its streams do.
async fn in_time<T>(
    quic: &Connection,
    local: &Local,
    exchange: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let late = |_| Err(refusal(Code::HeaderTimeout, &"no hello within the deadline"));
    let result = timeout(local.settings.header_deadline, exchange).await.unwrap_or_else(late);
    match (result, quic.is_closed()) {
        (Err(_), Some(closed)) => Err(refusal(closed.code, &closed)),
        (result, _) => result,
    }
}

fn refusal(code: Code, what: &dyn std::fmt::Display) -> Refusal {
    Refusal { code, reason: what.to_string() }
}

fn broken(reason: &str) -> Refusal {
    refusal(Code::ProtocolError, &reason)
}
