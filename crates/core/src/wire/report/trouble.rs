//! A problem on one node, as its report names it.

use bytes::BytesMut;

use super::super::tlv::{TlvReader, TlvValue, TlvWriter, WireError};
use super::sentence::{read_sentence, truncated_sentence};
use crate::code::Code;
use crate::grant::Target;
use crate::name::{ClusterName, PortName, ServiceName};

/// Something that is wrong on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTrouble {
    /// The subject of the problem.
    pub subject: TroubleSubject,
    /// The reason.
    pub code: Code,
    /// True for an error, false for a warning.
    pub is_error: bool,
    /// For people; at most [`MAX_SENTENCE_LEN`](super::MAX_SENTENCE_LEN) bytes, without control characters.
    pub sentence: String,
}

/// The subject of a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleSubject {
    /// The node itself.
    Node,
    /// Its part of the link with this cluster.
    Link(ClusterName),
    /// A port of an import.
    Import(Target),
    /// A port of an export.
    Export(Target),
}

impl NodeTrouble {
    pub(super) fn fields(&self) -> BytesMut {
        let mut fields = TlvWriter::default();
        let target = |fields: &mut TlvWriter, kind, target: &Target| {
            fields.integer(1, kind).text(3, &target.service.to_string());
            fields.text(5, target.port.as_str());
        };
        match &self.subject {
            TroubleSubject::Node => {
                fields.integer(1, 0);
            }
            TroubleSubject::Link(cluster) => {
                fields.integer(1, 1).text(3, cluster.as_str());
            }
            TroubleSubject::Import(about) => target(&mut fields, 2, about),
            TroubleSubject::Export(about) => target(&mut fields, 3, about),
        }
        fields.integer(7, self.code.number()).integer(9, u64::from(self.is_error));
        fields.text(10, &truncated_sentence(&self.sentence));
        fields.finish()
    }

    pub(super) fn read(value: TlvValue<'_>) -> Result<Self, WireError> {
        let (mut about, mut name, mut port, mut code) = (None, None, PortName::default(), None);
        let (mut is_error, mut sentence) = (false, String::new());
        let mut fields = TlvReader::new(value.0);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => about = Some(value.integer("subject")?),
                3 => name = Some(value),
                5 => port = value.name("port")?,
                7 => code = Some(Code::from_number(value.integer("code")?)),
                9 => is_error = value.integer("severity")? > 0,
                10 => sentence = read_sentence(value)?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let name = || name.ok_or(WireError::Missing("name"));
        let target = || {
            let service: ServiceName = name()?.name("service")?;
            Ok::<_, WireError>(Target { service, port: port.clone() })
        };
        let about = match about.ok_or(WireError::Missing("subject"))? {
            0 => TroubleSubject::Node,
            1 => TroubleSubject::Link(name()?.name("cluster")?),
            2 => TroubleSubject::Import(target()?),
            3 => TroubleSubject::Export(target()?),
            _ => return Err(WireError::Invalid("subject")),
        };
        let code = code.ok_or(WireError::Missing("code"))?;
        Ok(Self { subject: about, code, is_error, sentence })
    }
}
