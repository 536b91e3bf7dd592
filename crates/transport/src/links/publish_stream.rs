//! Serves a state stream: publishes a view to one subscriber for as long as both live.
//!
//! A record that changed while the stream was busy is sent once, with its latest value. While nothing changes
//! a mark every [`HEARTBEAT_INTERVAL`] says how old the view is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::state::{StateMessage, SubscribeRequest};
use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::connection::StreamGuard;
use super::message_reader::{MessageError, MessageReader};
use super::shared::LinksInner;
use crate::stream::{RecvStream, SendStream};

/// The interval at which a subscriber receives something.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// State streams that a peer may have open on one connection beyond one for each cluster whose view it may
/// receive: for the moments in which one takes another's place.
const MAX_EXTRA_STREAMS: usize = 4;

/// The longest time that a subscriber may take for a chunk, from when it is sent. What waits for it is held
/// here.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// A subscription that ends so soon after it began, other than by a finish, was made in vain.
const EARLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes that are encoded before they are sent: a large view is not held once more for each subscriber.
const CHUNK_SIZE: usize = 64 * 1024;

/// Serves a stream whose kind was read.
pub(super) async fn serve(
    shared: Arc<LinksInner>,
    using: StreamGuard,
    mut send: SendStream,
    recv: RecvStream,
) {
    let began = Instant::now();
    let mut messages = MessageReader::new(recv, StateMessage::decode);
    let Err(code) = publish(&shared, &using, &mut send, &mut messages).await;
    if code == Code::Finished && send.finish().is_ok() {
        return;
    }
    let conn = using.connection();
    if began.elapsed() < EARLY_TIMEOUT && conn.quic.is_closed().is_none() {
        shared.in_vain(conn, code);
    }
    send.reset(code);
    messages.stop(code);
}

/// Tells until there is a reason not to.
async fn publish(
    shared: &LinksInner,
    using: &StreamGuard,
    send: &mut SendStream,
    messages: &mut MessageReader<StateMessage>,
) -> Result<Infallible, Code> {
    let peer = &using.connection().peer;
    if using.connection().usage_counts().publishing
        > shared.snapshot().links.len() + MAX_EXTRA_STREAMS
    {
        return Err(Code::OverLimit);
    }
    let deadline = shared.context.settings.header_timeout;
    let first = timeout(deadline, messages.next()).await.map_err(|_| Code::HeaderTimeout)?;
    let StateMessage::Subscribe(SubscribeRequest { cluster, mut have }) =
        first.map_err(|e| e.code())?
    else {
        return Err(Code::ProtocolError);
    };
    let is_sibling = peer.cluster == shared.snapshot().local.cluster;
    if !is_sibling && !shared.runtime.misuse.may_subscribe(&peer.cluster) {
        return Err(Code::OverLimit);
    }
    let feed = shared.publisher_for_peer(peer, &cluster)?;
    let mut bell = feed.changes();
    let mut connections = shared.connections.changes_of(&cluster);
    let mut bytes = BytesMut::new();
    loop {
        bell.mark_unchanged();
        connections.mark_unchanged();
        let age = shared.published_age(peer, &cluster).ok_or(Code::LinkDown)?;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let (news, position) = feed.updates_since(have);
        let lost = shared.has_lost_cluster(peer, &cluster);
        let mark = StateMessage::Mark { sequence: position.1, age_ms, lost };
        let mut news = news.chain([mark]).peekable();
        while let Some(message) = news.next() {
            message.encode(&mut bytes);
            if bytes.len() < CHUNK_SIZE && news.peek().is_some() {
                continue;
            }
            shared.runtime.metrics.state_sent(&peer.cluster, bytes.len());
            let mut piece = bytes.split().freeze();
            tokio::select! {
                biased;
                () = feed.ended.cancelled() => return Err(Code::Unlinked),
                sent = timeout(CHUNK_TIMEOUT, send.send(&mut piece)) => {
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
                // A subscriber sends nothing after its first message.
                Ok(_) => Code::ProtocolError,
            }),
            _ = bell.changed() => {}
            () = shared.wait_until_lost_changes(peer, &cluster, lost, &mut connections) => {}
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
        }
    }
}
