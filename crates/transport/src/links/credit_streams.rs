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
use tokio::time::{Instant, sleep};

use super::connections::PeerConnection;
use super::message_reader::MessageReader;
use crate::endpoint::OpenBiError;
use crate::stream::{RecvStream, SendError, SendStream};

/// Credit messages that are received without a pause. A transfer of 500 MB/s within a site takes 8,000 a
/// second.
const ALLOWED_CREDITS: RateLimit = RateLimit { burst: 65_536, per_second: 32_768 };
/// The pause before those beyond.
const EXCESS_INTERVAL: Duration = Duration::from_millis(10);

/// Sends the peer its credit for as long as the connection lives, if both sides keep to credit.
pub(super) async fn send_credits(conn: Arc<PeerConnection>) {
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
            sent = send.send_all(&credits.next_due().await).await;
        }
        // Without it the peer's streams would stand still for ever; one that goes away has none any more.
        let goes_away = sent == Err(SendError::Stopped(Code::Draining));
        if !goes_away && conn.quic.is_closed().is_none() {
            conn.quic.close(Code::ProtocolError, "the stream of grants is not read");
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
    let (mut pace, began) = (TokenBucket::default(), Instant::now());
    loop {
        match messages.next().await {
            Ok(credit) => credits.receive_credit(credit),
            Err(error) => {
                messages.stop(error.code());
                return Some(error.code()).filter(|_| conn.quic.is_closed().is_none());
            }
        }
        if !pace.try_take(began.elapsed(), ALLOWED_CREDITS) {
            sleep(EXCESS_INTERVAL).await;
        }
    }
}
