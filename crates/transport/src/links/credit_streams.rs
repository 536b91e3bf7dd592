//! Sends a connection's peer the credit of its streams, and receives the peer's.
//!
//! [`crate::stream_credit`] decides how much credit there is. Each side has one stream for the credit that it
//! gives, opened before any data stream could take its place.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::code::Code;
use adit_core::wire::StreamKind;
use adit_core::wire::credit::StreamCredit;
use tokio::time::{Instant, sleep, timeout};

use super::connections::PeerConnection;
use super::inner::LinksInner;
use super::message_reader::MessageReader;
use crate::endpoint::OpenBiError;
use crate::stream::{RecvStream, SendError, SendStream};

/// Credit messages that are received without a pause. A transfer of 500 MB/s within a site takes 8,000 a
/// second.
const ALLOWED_CREDITS: RateLimit = RateLimit { burst: 65_536, per_second: 32_768 };
/// The pause before those beyond.
const EXCESS_INTERVAL: Duration = Duration::from_millis(10);
/// The pause that shows a peer that sends credit for its own sake: status names it.
const NAMED_EXCESS: u32 = 16;

/// The time from when credit is due to when the peer has room for it: longer than any cut of the path that a connection
/// outlives.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
const UNREAD: &str = "the credit that it is sent is not read";

/// Sends the peer its credit for as long as the connection lives, if both sides keep to credit. A peer that does not read it
/// would have its streams stand still for ever; its connection is ended.
pub(super) async fn send_credits(shared: Arc<LinksInner>, conn: Arc<PeerConnection>) {
    let Some(credits) = conn.quic.credits() else { return };
    let sending = async {
        let (mut send, _recv) = loop {
            match conn.quic.open_bi(EXCESS_INTERVAL * 100).await {
                Ok(opened) => break opened,
                Err(OpenBiError::TimedOut(_)) => {}
                Err(OpenBiError::ConnectionLost(_)) => return,
            }
        };
        send.carry_credits();
        let mut sent = send.send_all(&[StreamKind::Credits.byte()]).await;
        while sent.is_ok() {
            let due = credits.next_due().await;
            let Ok(result) = timeout(UNREAD_TIMEOUT, send.send_all(&due)).await else {
                if shared.peers.misuse.record_closed(&conn.key()) {
                    tracing::warn!(peer = %conn.peer.id, "connection ended: {UNREAD}");
                }
                return conn.quic.close(Code::ProtocolError, UNREAD);
            };
            sent = result;
        }
        // Without it the peer's streams would stand still for ever; one that goes away has none any more.
        let goes_away = sent == Err(SendError::Stopped(Code::Draining));
        if !goes_away && conn.quic.is_closed().is_none() {
            conn.quic.close(Code::ProtocolError, UNREAD);
        }
    };
    tokio::select! {
        biased;
        _ = conn.quic.closed() => {}
        () = sending => {}
    }
}

/// Receives the peer's credit, on a stream whose kind was read, until it ends; gives the code if that was an
/// offence.
pub(super) async fn receive_credits(
    shared: &LinksInner,
    conn: &PeerConnection,
    _send: SendStream,
    mut recv: RecvStream,
) -> Option<Code> {
    let Some(credits) = conn.quic.credits().filter(|credits| credits.begin_credit_stream()) else {
        recv.stop(Code::ProtocolError);
        return Some(Code::ProtocolError);
    };
    recv.carry_credits();
    let mut messages = MessageReader::new(recv, StreamCredit::decode);
    let (mut pace, began, mut excess) = (TokenBucket::default(), Instant::now(), 0_u32);
    loop {
        match messages.next().await {
            Ok(credit) => credits.receive_credit(credit),
            Err(error) => {
                messages.stop(error.code());
                return Some(error.code()).filter(|_| conn.quic.is_closed().is_none());
            }
        }
        if !pace.try_take(began.elapsed(), ALLOWED_CREDITS) {
            excess = excess.saturating_add(1);
            if excess == NAMED_EXCESS {
                shared.peers.misuse.record_excess(&conn.key());
            }
            sleep(EXCESS_INTERVAL).await;
        }
    }
}
