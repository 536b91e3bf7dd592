//! The first words of a connection, both ways, and whether they are believed.
//!
//! The dialler opens the control stream and says who it is; the acceptor answers in kind. Each has
//! [`super::LinkSettings::header_timeout`]. [`adit_core::admission`] decides what a hello must say. The
//! caller sends a refusal: it closes the connection with the code and the text.

use adit_core::admission::rate_limit::RateLimit;
use adit_core::admission::{self, PeerRefusal};
use adit_core::code::Code;
use adit_core::name::NodeKey;
use adit_core::snapshot::Snapshot;
use adit_core::wire::StreamKind;
use adit_core::wire::control::{ANSWERS_REPORTS, ControlMessage, Hello};
use bytes::BytesMut;
use tokio::time::timeout;

use super::context::LinkContext;
use super::message_reader::MessageReader;
use crate::endpoint::QuicConnection;
use crate::peer::{BootId, PeerInfo};
use crate::stream::{RecvStream, SendStream};

/// Control messages that a peer may send on one connection: a hello, a go-away, and from later versions on a
/// dial-me for each node, now and then.
const ALLOWED_MESSAGES: RateLimit = RateLimit { burst: 256, per_second: 16 };

/// A connection whose both ends know each other.
#[derive(Debug)]
pub(super) struct HelloExchange {
    pub(super) peer: PeerInfo,
    pub(super) send: SendStream,
    pub(super) messages: MessageReader<ControlMessage>,
}

/// Speaks first, on a connection that we dialled.
pub(super) async fn initiate(
    quic: &QuicConnection,
    local: &LinkContext,
    snapshot: &Snapshot,
    slot: u64,
) -> Result<HelloExchange, PeerRefusal> {
    let key = admission::identify_peer(snapshot, quic.peer_id())?;
    let exchange = async {
        let opened = quic.open_bi(local.settings.header_timeout).await;
        let (mut send, recv) = opened.map_err(|e| refusal(e.code(), &e))?;
        send_hello(&mut send, Some(StreamKind::Control), own_hello(quic, local, snapshot, slot))
            .await?;
        let (hello, messages) = receive_hello(recv).await?;
        Ok((send, hello, messages))
    };
    let (send, hello, messages) = within_deadline(quic, local, exchange).await?;
    let peer = check_hello(quic, local, key, &hello, slot)?;
    Ok(HelloExchange { peer, send, messages })
}

/// Listens first, on a connection that we accepted.
pub(super) async fn respond(
    quic: &QuicConnection,
    local: &LinkContext,
    snapshot: &Snapshot,
) -> Result<HelloExchange, PeerRefusal> {
    let key = admission::identify_peer(snapshot, quic.peer_id())?;
    let hearing = async {
        let accepted = quic.accept_bi().await;
        let (send, mut recv) = accepted.map_err(|closed| refusal(closed.code, &closed))?;
        let mut kind = [0];
        let read = recv.read(&mut kind).await.map_err(|e| refusal(e.code(), &e))?;
        if read.is_none() || StreamKind::from_byte(kind[0]) != Some(StreamKind::Control) {
            return Err(protocol_error("the first stream is not the control stream"));
        }
        let (hello, messages) = receive_hello(recv).await?;
        Ok((send, hello, messages))
    };
    let (mut send, hello, messages) = within_deadline(quic, local, hearing).await?;
    let peer = check_hello(quic, local, key, &hello, hello.slot)?;
    within_deadline(
        quic,
        local,
        send_hello(&mut send, None, own_hello(quic, local, snapshot, hello.slot)),
    )
    .await?;
    Ok(HelloExchange { peer, send, messages })
}

fn own_hello(quic: &QuicConnection, local: &LinkContext, snapshot: &Snapshot, slot: u64) -> Hello {
    Hello {
        versions: local.settings.versions,
        capabilities: ANSWERS_REPORTS,
        cluster: snapshot.local.cluster.clone(),
        node: snapshot.local.node.clone(),
        boot: local.boot.0,
        class: quic.class(),
        clock_ms: (local.clock)(),
        slot,
        stream_window: quic.credit_limits().map_or(0, |limits| limits.first),
    }
}

async fn send_hello(
    send: &mut SendStream,
    kind: Option<StreamKind>,
    hello: Hello,
) -> Result<(), PeerRefusal> {
    let mut bytes = BytesMut::new();
    bytes.extend(kind.map(StreamKind::byte));
    ControlMessage::Hello(hello).encode(&mut bytes);
    send.send_all(&bytes).await.map_err(|e| refusal(e.code(), &e))
}

async fn receive_hello(
    recv: RecvStream,
) -> Result<(Hello, MessageReader<ControlMessage>), PeerRefusal> {
    let mut messages = MessageReader::limited(recv, ControlMessage::decode, ALLOWED_MESSAGES);
    match messages.next().await.map_err(|e| refusal(e.code(), &e))? {
        ControlMessage::Hello(hello) => Ok((hello, messages)),
        ControlMessage::GoAway { .. }
        | ControlMessage::DialMe { .. }
        | ControlMessage::DuplicateIdentity { .. } => {
            Err(protocol_error("the first message is not a hello"))
        }
    }
}

fn check_hello(
    quic: &QuicConnection,
    local: &LinkContext,
    key: NodeKey,
    hello: &Hello,
    slot: u64,
) -> Result<PeerInfo, PeerRefusal> {
    admission::check_hello(local.settings.versions, &key, quic.class(), hello)?;
    let NodeKey { cluster, node } = key;
    Ok(PeerInfo {
        cluster,
        node,
        id: quic.peer_id().clone(),
        boot: BootId(hello.boot),
        class: hello.class,
        dialled: quic.dialled(),
        slot,
        capabilities: hello.capabilities,
        stream_window: hello.stream_window,
        remote: quic.remote(),
    })
}

/// Bounds one side's hello. The reason of a connection that ends meanwhile is better than that of its
/// streams.
async fn within_deadline<T>(
    quic: &QuicConnection,
    local: &LinkContext,
    exchange: impl Future<Output = Result<T, PeerRefusal>>,
) -> Result<T, PeerRefusal> {
    let late = |_| Err(refusal(Code::HeaderTimeout, &"no hello within the deadline"));
    let result = timeout(local.settings.header_timeout, exchange).await.unwrap_or_else(late);
    match (result, quic.is_closed()) {
        (Err(_), Some(closed)) => Err(refusal(closed.code, &closed)),
        (result, _) => result,
    }
}

fn refusal(code: Code, what: &dyn std::fmt::Display) -> PeerRefusal {
    PeerRefusal { code, reason: what.to_string() }
}

fn protocol_error(reason: &str) -> PeerRefusal {
    refusal(Code::ProtocolError, &reason)
}
