//! Joining by invitation: the messages on the one stream of a connection with ALPN [`JOIN_ALPN`].
//!
//! The inviting side opens the stream. Each message is its type, the length of its body, and its body:
//!
//! | type | sent by | body |
//! |---|---|---|
//! | 1 document | the inviting side, first; then the joining side | what the other has to know of its cluster in order to be linked with it: text, at most [`MAX_DOCUMENT_LEN`] bytes |
//! | 3 accepted | the inviting side, last | nothing |
//! | 5 refused | the inviting side, instead of any other | 1 [`JoinRefusal`], 2 sentence of at most [`MAX_SENTENCE_LEN`] bytes |
//!
//! A document that is longer is refused by its length alone, before it is kept.

use bytes::BytesMut;

use super::tlv::{
    TlvReader, TlvWriter, WireError, get_length_prefixed, get_varint, put_length_prefixed,
    put_varint,
};
use crate::text::printable_ascii;

/// The ALPN protocol name of connections that join by invitation. A version that has no invitations refuses it.
pub const JOIN_ALPN: &[u8] = b"adit-join";
/// The longest document, in bytes: the largest trust bundle, and room for names and addresses.
pub const MAX_DOCUMENT_LEN: usize = 320 * 1024;
/// The longest sentence of a refusal, in bytes.
pub const MAX_SENTENCE_LEN: usize = 512;

/// The reason for which whoever holds an invitation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefusal {
    /// The invitation was used before.
    Used,
    /// The command that waited for its use has ended.
    Withdrawn,
    /// Its time has passed.
    Expired,
    /// Another who joins is being decided about.
    Busy,
    /// The invitation was tried too often.
    TooManyTries,
    /// The document cannot be accepted, or the operator said no; the sentence says why.
    Rejected,
}

impl JoinRefusal {
    const ALL: [Self; 6] = [
        Self::Used,
        Self::Withdrawn,
        Self::Expired,
        Self::Busy,
        Self::TooManyTries,
        Self::Rejected,
    ];

    const fn number(self) -> u64 {
        match self {
            Self::Used => 1,
            Self::Withdrawn => 2,
            Self::Expired => 3,
            Self::Busy => 4,
            Self::TooManyTries => 5,
            Self::Rejected => 6,
        }
    }

    /// The refusal for people; reads on from "the other side says that …".
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Used => "the invitation was used already",
            Self::Withdrawn => "the invitation was withdrawn: the command that made it has ended",
            Self::Expired => "the time of the invitation has passed",
            Self::Busy => "another who holds the same invitation is being decided about",
            Self::TooManyTries => "the invitation was tried too often",
            Self::Rejected => "it does not accept this cluster",
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinMessage {
    /// The sender's cluster, as the receiver has to know it.
    Document(Box<str>),
    /// The inviting side has linked its cluster.
    Accepted,
    /// The inviting side has changed nothing.
    Refused {
        /// The reason.
        reason: JoinRefusal,
        /// More of it for people, printable ASCII; may be empty.
        sentence: String,
    },
}

impl JoinMessage {
    const DOCUMENT: u64 = 1;
    const ACCEPTED: u64 = 3;
    const REFUSED: u64 = 5;

    /// The message on the wire. Sentences are cut to [`MAX_SENTENCE_LEN`]; a document must not be longer than
    /// [`MAX_DOCUMENT_LEN`], or the receiver refuses it.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let (kind, body) = match self {
            Self::Document(text) => (Self::DOCUMENT, BytesMut::from(text.as_bytes())),
            Self::Accepted => (Self::ACCEPTED, BytesMut::new()),
            Self::Refused { reason, sentence } => {
                let mut fields = TlvWriter::default();
                fields.integer(1, reason.number());
                fields.text(2, &printable_ascii(sentence.as_bytes(), MAX_SENTENCE_LEN));
                (Self::REFUSED, fields.finish())
            }
        };
        let mut out = BytesMut::with_capacity(body.len() + 16);
        put_varint(&mut out, kind);
        put_length_prefixed(&mut out, &body);
        out
    }

    /// Takes a message off the front of `input`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with it; its length is looked at before its body is there.
    pub fn decode(input: &mut &[u8]) -> Result<Option<Self>, WireError> {
        let mut rest = *input;
        let Some(kind) = get_varint(&mut rest)? else { return Ok(None) };
        let limit = match kind {
            Self::DOCUMENT => MAX_DOCUMENT_LEN,
            Self::ACCEPTED => 0,
            Self::REFUSED => MAX_SENTENCE_LEN + 64,
            other => return Err(WireError::UnknownCritical(other)),
        };
        let Some(body) = get_length_prefixed(&mut rest, limit)? else {
            return Ok(None);
        };
        let message = match kind {
            Self::DOCUMENT => {
                let text = std::str::from_utf8(body).map_err(|_| WireError::Invalid("document"))?;
                Self::Document(text.into())
            }
            Self::ACCEPTED => Self::Accepted,
            _ => read_refusal(body)?,
        };
        *input = rest;
        Ok(Some(message))
    }
}

fn read_refusal(body: &[u8]) -> Result<JoinMessage, WireError> {
    let (mut reason, mut sentence) = (None, String::new());
    let mut fields = TlvReader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => {
                let number = value.integer("refusal")?;
                let known = JoinRefusal::ALL.into_iter().find(|known| known.number() == number);
                // A later version may know more reasons; its sentence says which.
                reason = Some(known.unwrap_or(JoinRefusal::Rejected));
            }
            2 => sentence = printable_ascii(value.text("sentence")?.as_bytes(), MAX_SENTENCE_LEN),
            other => TlvReader::skip_unknown(other)?,
        }
    }
    let reason = reason.ok_or(WireError::Missing("refusal"))?;
    Ok(JoinMessage::Refused { reason, sentence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<Option<JoinMessage>, WireError> {
        JoinMessage::decode(&mut &*bytes)
    }

    #[test]
    fn messages_survive_the_way_and_need_all_their_bytes() {
        let mut all = vec![
            JoinMessage::Document("links:\n  - cluster: edge\n".into()),
            JoinMessage::Document("".into()),
            JoinMessage::Accepted,
        ];
        for reason in JoinRefusal::ALL {
            all.push(JoinMessage::Refused { reason, sentence: reason.sentence().to_owned() });
        }
        for message in all {
            let bytes = message.encode();
            assert_eq!(decode_all(&bytes), Ok(Some(message.clone())));
            for cut in 0..bytes.len() {
                assert_eq!(decode_all(&bytes[..cut]), Ok(None), "{message:?} cut at {cut}");
            }
            let mut input: &[u8] = &[&bytes[..], b"rest"].concat();
            JoinMessage::decode(&mut input).unwrap();
            assert_eq!(input, b"rest");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_length_alone() {
        for (kind, limit) in [(1, MAX_DOCUMENT_LEN), (3, 0), (5, MAX_SENTENCE_LEN + 64)] {
            let mut head = BytesMut::new();
            put_varint(&mut head, kind);
            put_varint(&mut head, limit as u64 + 1);
            assert_eq!(decode_all(&head), Err(WireError::TooLong(limit)));
        }
        let largest = JoinMessage::Document("x".repeat(MAX_DOCUMENT_LEN).into());
        assert_eq!(decode_all(&largest.encode()), Ok(Some(largest)));
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        assert_eq!(decode_all(&[2, 0]), Err(WireError::UnknownCritical(2)));
        assert_eq!(decode_all(&[1, 1, 0xff]), Err(WireError::Invalid("document")));
        assert_eq!(decode_all(&[5, 0]), Err(WireError::Missing("refusal")));
        assert_eq!(decode_all(&[5, 3, 1, 1, 0x40]), Err(WireError::Invalid("refusal")));
        assert_eq!(decode_all(&[5, 3, 3, 1, 1]), Err(WireError::UnknownCritical(3)));
        // A reason of a later version.
        let later = JoinMessage::Refused { reason: JoinRefusal::Rejected, sentence: String::new() };
        assert_eq!(decode_all(&[5, 3, 1, 1, 33]), Ok(Some(later)));
    }

    #[test]
    fn sentences_are_cut_and_printable() {
        let sentence = "\u{1b}[31m".to_owned() + &"y".repeat(2 * MAX_SENTENCE_LEN);
        let refused = JoinMessage::Refused { reason: JoinRefusal::Rejected, sentence };
        let Ok(Some(JoinMessage::Refused { sentence, .. })) = decode_all(&refused.encode()) else {
            panic!("not a refusal")
        };
        assert!(sentence.len() <= MAX_SENTENCE_LEN && !sentence.contains('\u{1b}'), "{sentence}");
    }
}
