//! Tells a connection's peer how far it may send each stream, and hears the same from it.
//!
//! What is granted is [`crate::grants`]' to say. Each side has one stream for what it grants, opened before any for
//! data could take its place.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::pace::{Allowance, Pace};
use adit_core::code::Code;
use adit_core::wire::StreamKind;
use adit_core::wire::grant::StreamGrant;
use tokio::time::{Instant, sleep};

use super::conn::Conn;
use super::messages::Messages;
use crate::stream::{RecvStream, SendError, SendStream};

/// Grants that are heard without a pause. A transfer of 500 MB/s within a site takes 8,000 a second.
const ALLOWED_GRANTS: Allowance = Allowance { burst: 65_536, per_second: 32_768 };
/// The pause before those beyond.
const EXCESS_INTERVAL: Duration = Duration::from_millis(10);

/// Tells the peer what it is granted, for as long as the connection lives, where both sides keep to grants.
pub(super) async fn tell(conn: Arc<Conn>) {
    let Some(book) = conn.quic.grants() else { return };
    let telling = async {
        let (mut send, _recv) = loop {
            if let Ok(opened) = conn.quic.open_bi(EXCESS_INTERVAL * 100).await {
                break opened;
            }
        };
        send.tells_grants();
        let mut said = send.send_all(&[StreamKind::Grants.byte()]).await;
        while said.is_ok() {
            said = send.send_all(&book.due().await).await;
        }
        // Without it the peer's streams would stand still for ever; one that goes away has none any more.
        let goes_away = said == Err(SendError::Stopped(Code::Draining));
        if !goes_away && conn.quic.is_closed().is_none() {
            conn.quic.close(Code::ProtocolError, "the stream of grants is not read");
        }
    };
    tokio::select! {
        biased;
        _ = conn.quic.closed() => {}
        () = telling => {}
    }
}

/// Hears what the peer grants, on a stream whose kind was read, until it ends; says why that was an offence, if so.
pub(super) async fn hear(conn: &Conn, _send: SendStream, mut recv: RecvStream) -> Option<Code> {
    let Some(book) = conn.quic.grants().filter(|book| book.begin_hearing()) else {
        recv.stop(Code::ProtocolError);
        return Some(Code::ProtocolError);
    };
    recv.brings_grants();
    let mut grants = Messages::new(recv, StreamGrant::decode);
    let (mut pace, began) = (Pace::default(), Instant::now());
    loop {
        match grants.next().await {
            Ok(grant) => book.heard(grant),
            Err(error) => {
                grants.stop(error.code());
                return Some(error.code()).filter(|_| conn.quic.is_closed().is_none());
            }
        }
        if !pace.take(began.elapsed(), ALLOWED_GRANTS) {
            sleep(EXCESS_INTERVAL).await;
        }
    }
}
