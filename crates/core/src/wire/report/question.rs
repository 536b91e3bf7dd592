//! The question of a controller that asks a node for a report, with the exports of which no backend answers
//! the node that it runs on.
//!
//! A node dials backends of other nodes only if the export allows the hop, so it knows of theirs from this
//! alone. The question is the sum of all nodes' reports; an earlier version sends and reads nothing. At most
//! [`MAX_QUESTION_LEN`] bytes until the stream's end: 2 list of [`ExportFault`], 4 time for which it holds,
//! in milliseconds.

use bytes::BytesMut;

use super::super::tlv::{TlvReader, TlvWriter, WireError};
use super::{ExportFault, NodeReport};

/// The longest question, in bytes.
pub const MAX_QUESTION_LEN: usize = 32 * 1024;

/// The content of a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportQuestion {
    /// Ports of exports none of whose backends answers its own node; at most [`NodeReport::MAX_EXPORTS`].
    pub unserved: Vec<ExportFault>,
    /// The time for which that holds if no newer question comes, in milliseconds.
    pub valid_ms: u64,
}

impl ReportQuestion {
    /// The question on the wire. What is too much is left out, from the end.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut fields = TlvWriter::default();
        fields.list(2, self.unserved.iter().take(NodeReport::MAX_EXPORTS).map(ExportFault::fields));
        fields.integer(4, self.valid_ms);
        fields.finish()
    }

    /// Reads a whole question; an empty one has no content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_QUESTION_LEN {
            return Err(WireError::TooLong(MAX_QUESTION_LEN));
        }
        let (mut question, mut fields) = (Self::default(), TlvReader::new(bytes));
        while let Some((kind, value)) = fields.next()? {
            match kind {
                2 => {
                    question.unserved =
                        value.list(NodeReport::MAX_EXPORTS, "exports", ExportFault::read)?;
                }
                4 => question.valid_ms = value.integer("validity")?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        Ok(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::BackendFault;
    use crate::grant::Target;

    #[test]
    fn the_largest_question_fits_and_round_trips() {
        let label = "a".repeat(63);
        let target = Target {
            service: format!("{label}/{label}").parse().unwrap(),
            port: label.parse().unwrap(),
        };
        let fault = Some(BackendFault::Refused);
        let one = ExportFault {
            target,
            is_whole_export: true,
            fault,
            total: u32::MAX,
            here: u32::MAX,
            backend: None,
        };
        let question = ReportQuestion { unserved: vec![one; 128], valid_ms: u64::MAX >> 2 };
        let bytes = question.encode();
        assert_eq!(ReportQuestion::decode(&bytes), Ok(question));
        assert_eq!(ReportQuestion::decode(b""), Ok(ReportQuestion::default()));
    }
}
