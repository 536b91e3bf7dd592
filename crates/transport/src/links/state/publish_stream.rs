//! Serves a state stream: publishes a view to one subscriber for as long as both live.
//!
//! A record that changed while the stream was busy is sent once, with its latest value. While nothing changes
//! a mark every [`HEARTBEAT_INTERVAL`] says how old the view is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_core::announce::PreparedAnnouncement;
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::wire::state::{StateMessage, SubscribeRequest};
use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::publisher::ViewPublisher;
use super::views::HEARTBEAT_INTERVAL;
use crate::links::connections::StreamGuard;
use crate::links::inner::LinksInner;
use crate::links::message_reader::{MessageError, MessageReader};
use crate::peer::PeerInfo;
use crate::stream::{RecvStream, SendStream};

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
pub(crate) async fn serve(
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

/// Publishes until there is a reason not to.
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
    if !is_sibling && !shared.peers.misuse.may_subscribe(&peer.cluster) {
        return Err(Code::OverLimit);
    }
    let publisher = shared.publisher_for_peer(peer, &cluster)?;
    let mut changes = publisher.changes();
    let mut connections = shared.connections.changes_of(&cluster);
    let mut bytes = BytesMut::new();
    loop {
        changes.mark_unchanged();
        connections.mark_unchanged();
        let age = shared.published_age(peer, &cluster).ok_or(Code::LinkDown)?;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let (updates, position) = publisher.updates_since(have);
        let lost = shared.has_lost_cluster(peer, &cluster);
        let mark = StateMessage::Mark { sequence: position.1, age_ms, lost };
        let sent = |bytes| shared.peers.metrics.state_sent(&peer.cluster, bytes);
        tokio::select! {
            biased;
            () = publisher.ended.cancelled() => return Err(Code::Unlinked),
            sent = send_messages(updates.chain([mark]), send, &mut bytes, sent) => sent?,
        }
        have = Some(position);
        tokio::select! {
            biased;
            () = publisher.ended.cancelled() => return Err(Code::Unlinked),
            next = messages.next() => return Err(match next {
                Err(MessageError::Finished) => Code::Finished,
                Err(error) => error.code(),
                // A subscriber sends nothing after its first message.
                Ok(_) => Code::ProtocolError,
            }),
            _ = changes.changed() => {}
            () = shared.wait_until_lost_changes(peer, &cluster, lost, &mut connections) => {}
            () = sleep(HEARTBEAT_INTERVAL) => {}
        }
    }
}

/// A chunk that waits for so long is charged to the peer.
const UNTAKEN_TIMEOUT: Duration = Duration::from_millis(20);

/// Sends messages in chunks, each of which the subscriber takes in time. `sent` counts their bytes.
async fn send_messages(
    messages: impl Iterator<Item = StateMessage>,
    send: &mut SendStream,
    bytes: &mut BytesMut,
    sent: impl Fn(usize),
) -> Result<(), Code> {
    let mut messages = messages.peekable();
    while let Some(message) = messages.next() {
        message.encode(bytes);
        if bytes.len() < CHUNK_SIZE && messages.peek().is_some() {
            continue;
        }
        sent(bytes.len());
        let mut chunk = bytes.split().freeze();
        // Each subscription of a peer that does not read has one.
        let (peer, waiting) = (send.connection().clone(), chunk.len());
        let evicted = async move {
            sleep(UNTAKEN_TIMEOUT).await;
            match peer.charge_unsent(waiting) {
                Some(charge) => charge.evicted().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            taken = timeout(CHUNK_TIMEOUT, send.send(&mut chunk)) => {
                taken.map_err(|_| Code::HeaderTimeout)?.map_err(|e| e.code())?;
            }
            () = evicted => return Err(Code::OverBudget),
        }
    }
    Ok(())
}

impl LinksInner {
    /// The publisher that serves `peer` if it asks for `about`: a foreign node receives our own cluster's
    /// view, a sibling that of any cluster that we are linked with and have a view of.
    fn publisher_for_peer(
        &self,
        peer: &PeerInfo,
        about: &ClusterName,
    ) -> Result<Arc<ViewPublisher>, Code> {
        let snapshot = self.snapshot();
        let sibling = peer.cluster == snapshot.local.cluster;
        if !sibling
            && *about == snapshot.local.cluster
            && snapshot.links.contains_key(&peer.cluster)
        {
            let to = &peer.cluster;
            let announce = |publisher: &ViewPublisher| {
                publisher.announce(&PreparedAnnouncement::new(&snapshot), to);
            };
            let publishers = &self.knowledge.publishers;
            return Ok(publishers.publisher_for(to, &*self.context.random, announce));
        }
        if !sibling || !snapshot.links.contains_key(about) {
            return Err(Code::Unlinked);
        }
        self.knowledge.publishers.relayed(about).ok_or(Code::LinkDown)
    }

    /// True if we have no connection with the cluster that `peer` subscribes to. Our own is never lost.
    fn has_lost_cluster(&self, peer: &PeerInfo, about: &ClusterName) -> bool {
        let own = peer.cluster == *about || *about == self.snapshot().local.cluster;
        !own && !self.connections.is_connected(about)
    }

    /// Waits until [`Self::has_lost_cluster`] is no longer what it `was`.
    async fn wait_until_lost_changes(
        &self,
        peer: &PeerInfo,
        about: &ClusterName,
        was: bool,
        connections: &mut watch::Receiver<()>,
    ) {
        while self.has_lost_cluster(peer, about) == was {
            if connections.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The present age of the view of `about` that `peer` receives; `None` if it may not be passed on. A view
    /// that came from a sibling is not sent to siblings: so nothing goes round in circles.
    fn published_age(&self, peer: &PeerInfo, about: &ClusterName) -> Option<Duration> {
        if peer.cluster == *about || *about == self.snapshot().local.cluster {
            return Some(Duration::ZERO);
        }
        let view = self.knowledge.views.get(about)?;
        (view.source.cluster == *about).then(|| view.age())
    }
}
