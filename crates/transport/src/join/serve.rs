//! The inviting node's side of a connection that joins by invitation.
//!
//! The node's document goes first, so that the other side can decide whether to say anything. Each step has a time, and
//! an invitation that ends, ends its connection.

use std::net::SocketAddr;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::join::{JoinMessage, JoinRefusal};
use adit_pki::InvitationKey;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::book::InvitationBook;
use super::message::read_message;

/// The time in which a message has to go out, and the other side has to receive its answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which the other side has to send its document, from when it was sent ours: its operator is asked nothing
/// meanwhile.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The message that is to be said last, and where to say that it was received.
type LastWord = (JoinMessage, Option<oneshot::Sender<()>>);

impl InvitationBook {
    /// Serves whoever has proved to hold `key`, to the end of the connection.
    pub(crate) async fn serve(
        &self,
        connection: &Connection,
        remote: SocketAddr,
        key: InvitationKey,
    ) {
        let code = match timeout(SEND_TIMEOUT, connection.open_bi()).await {
            Ok(Ok((mut send, mut recv))) => {
                let spoken = self.converse(&mut send, &mut recv, remote, key).await;
                match spoken {
                    Some((last, delivered)) => {
                        tracing::info!(%remote, %key, answer = ?last, "answered somebody who has an invitation");
                        say_last(&mut send, &last, delivered).await
                    }
                    None => Code::ProtocolError,
                }
            }
            _ => Code::ProtocolError,
        };
        connection.close(VarInt::from_u32(code.number().try_into().unwrap_or(0)), b"");
    }

    /// Returns what is to be said last; `None` if the other side broke the protocol, or is gone.
    async fn converse(
        &self,
        send: &mut SendStream,
        recv: &mut RecvStream,
        remote: SocketAddr,
        key: InvitationKey,
    ) -> Option<LastWord> {
        let refused = |reason: JoinRefusal| {
            let sentence = reason.sentence().to_owned();
            Some((JoinMessage::Refused { reason, sentence }, None))
        };
        let Ok(invitation) = self.find(&key) else { return refused(JoinRefusal::Expired) };
        let seat = match invitation.take() {
            Ok(seat) => seat,
            Err(reason) => return refused(reason),
        };
        let asking = async {
            let ours = JoinMessage::Document(Box::from(&*invitation.document)).encode();
            timeout(SEND_TIMEOUT, send.write_all(&ours)).await.ok()?.ok()?;
            let read = timeout(DOCUMENT_TIMEOUT, read_message(recv)).await;
            let document = match read {
                Ok(Ok(JoinMessage::Document(document))) => document,
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => {
                    tracing::info!(%remote, %key, %error, "whoever has an invitation asked for nothing");
                    return None;
                }
                Err(_) => return None,
            };
            let answer = seat.apply(remote, document);
            // Nothing more is expected: whatever comes is an end.
            let (answer, delivered) = tokio::select! {
                biased;
                answer = answer => answer.ok()?,
                _ = recv.read_chunk(1, true) => return None,
            };
            Some(match answer {
                Ok(()) => (JoinMessage::Accepted, Some(delivered)),
                Err(sentence) => {
                    let reason = JoinRefusal::Rejected;
                    (JoinMessage::Refused { reason, sentence }, Some(delivered))
                }
            })
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            reason = invitation.ended() => refused(reason),
        }
    }
}

/// Says the last word, and waits until it was received.
async fn say_last(
    send: &mut SendStream,
    last: &JoinMessage,
    delivered: Option<oneshot::Sender<()>>,
) -> Code {
    let saying = async {
        send.write_all(&last.encode()).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    if let Ok(Some(_)) = timeout(SEND_TIMEOUT, saying).await
        && let Some(delivered) = delivered
    {
        // The command may have gone, and needs no answer then.
        delivered.send(()).ok();
    }
    Code::ConnectionUnused
}
