//! Serves a state stream: tells one subscriber a feed for as long as both live.
//!
//! What changed while the stream was busy is told once, by its latest value. While nothing changes a
//! mark says every [`HEARTBEAT`] how old what was told is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::state::{Message, Subscribe};
use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::conn::InUse;
use super::messages::{MessageError, Messages};
use super::shared::Shared;
use crate::stream::{RecvStream, SendStream};

/// How often a subscriber hears something.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// State streams that a peer may have open on one connection: one for each cluster that it may hear, and
/// some for the moments in which one takes another's place.
const SPARE: usize = 4;

/// How long a subscriber may take for a piece. What waits for it is held here.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// A subscription that ends so soon, other than by a finish, was made in vain.
const EARLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How much is encoded before it is sent, in bytes: a large view is not held once more for each subscriber.
const PIECE: usize = 64 * 1024;

/// Serves a stream whose kind was read.
pub(super) async fn serve(
    shared: Arc<Shared>,
    using: InUse,
    mut send: SendStream,
    recv: RecvStream,
) {
    let began = Instant::now();
    let mut messages = Messages::new(recv, Message::decode);
    let Err(code) = tell(&shared, &using, &mut send, &mut messages).await;
    if code == Code::Finished && send.finish().is_ok() {
        return;
    }
    let conn = using.conn();
    if began.elapsed() < EARLY_TIMEOUT && conn.quic.is_closed().is_none() {
        shared.in_vain(conn, code);
    }
    send.reset(code);
    messages.stop(code);
}

/// Tells until there is a reason not to.
async fn tell(
    shared: &Shared,
    using: &InUse,
    send: &mut SendStream,
    messages: &mut Messages<Message>,
) -> Result<Infallible, Code> {
    let peer = &using.conn().peer;
    if using.conn().doing().telling > shared.now().links.len() + SPARE {
        return Err(Code::OverLimit);
    }
    let deadline = shared.local.settings.header_deadline;
    let first = timeout(deadline, messages.next()).await.map_err(|_| Code::HeaderTimeout)?;
    let Message::Subscribe(Subscribe { cluster, mut have }) = first.map_err(|e| e.code())? else {
        return Err(Code::ProtocolError);
    };
    let is_sibling = peer.cluster == shared.now().this.cluster;
    if !is_sibling && !shared.work.misuse.may_subscribe(&peer.cluster) {
        return Err(Code::OverLimit);
    }
    let feed = shared.feed(peer, &cluster)?;
    let mut bell = feed.bell();
    let mut connections = shared.register.bell_of(&cluster);
    let mut bytes = BytesMut::new();
    loop {
        bell.mark_unchanged();
        connections.mark_unchanged();
        let age = shared.age(peer, &cluster).ok_or(Code::LinkDown)?;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let (news, position) = feed.since(have);
        let lost = shared.has_lost(peer, &cluster);
        let mark = Message::Mark { sequence: position.1, age_ms, lost };
        let mut news = news.chain([mark]).peekable();
        while let Some(message) = news.next() {
            message.encode(&mut bytes);
            if bytes.len() < PIECE && news.peek().is_some() {
                continue;
            }
            shared.work.metrics.state_sent(&peer.cluster, bytes.len());
            let mut piece = bytes.split().freeze();
            tokio::select! {
                biased;
                () = feed.ended.cancelled() => return Err(Code::Unlinked),
                sent = timeout(PIECE_TIMEOUT, send.send(&mut piece)) => {
                    sent.map_err(|_| Code::HeaderTimeout)?.map_err(|e| e.code())?;
                }
            }
        }
        have = Some(position);
        tokio::select! {
            biased;
            () = feed.ended.cancelled() => return Err(Code::Unlinked),
            next = messages.next() => return Err(match next {
                Err(MessageError::Finished) => Code::Finished,
                Err(error) => error.code(),
                // A subscriber says nothing after its first message.
                Ok(_) => Code::ProtocolError,
            }),
            _ = bell.changed() => {}
            () = shared.turns(peer, &cluster, lost, &mut connections) => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
    }
}
