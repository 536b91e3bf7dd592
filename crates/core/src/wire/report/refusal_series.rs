//! Refused connections of one kind, as a report counts them.

use bytes::BytesMut;

use super::super::tlv::{TlvReader, TlvValue, TlvWriter, WireError};
use super::sentence::{read_sentence, truncated_sentence};
use crate::code::Code;
use crate::grant::Target;
use crate::name::{ClusterName, PortName};
use crate::spiffe::{Role, SpiffeId, Workload};

/// Connections of one source to one target that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalSeries {
    /// True if the other cluster opened them.
    pub is_inbound: bool,
    /// The other cluster.
    pub cluster: ClusterName,
    /// The target that was asked for.
    pub target: Target,
    /// The reason for which they were refused.
    pub code: Code,
    /// The workload that asked; `None` if it is not known, and for the many that are counted together.
    pub source: Option<Workload>,
    /// Number of connections since the first.
    pub count: u64,
    /// Time since the first, in milliseconds.
    pub first_ms: u64,
    /// Time since the last, in milliseconds.
    pub last_ms: u64,
    /// For people: why the last was refused; at most [`MAX_SENTENCE_LEN`](super::MAX_SENTENCE_LEN) bytes, without control characters.
    pub sentence: String,
}

/// True if connections are refused because the other cluster asks for what it may not have: nothing is wrong
/// here.
#[must_use]
pub fn is_askers_fault(is_inbound: bool, code: Code) -> bool {
    let is_by_right = matches!(
        code,
        Code::Denied
            | Code::ExportUnknown
            | Code::PortUnknown
            | Code::HeaderInvalid
            | Code::HeaderTimeout
            | Code::SourceForeign
    );
    is_inbound && is_by_right
}

impl RefusalSeries {
    /// See [`is_askers_fault`].
    #[must_use]
    pub fn is_askers_fault(&self) -> bool {
        is_askers_fault(self.is_inbound, self.code)
    }

    pub(super) fn fields(&self) -> BytesMut {
        let mut fields = TlvWriter::default();
        fields.integer(1, u64::from(self.is_inbound)).text(3, self.cluster.as_str());
        fields.text(5, &self.target.service.to_string()).text(7, self.target.port.as_str());
        fields.integer(9, self.code.number());
        if let Some(source) = &self.source {
            fields.text(10, &source.to_string());
        }
        fields.integer(12, self.count).integer(14, self.first_ms).integer(16, self.last_ms);
        fields.text(18, &truncated_sentence(&self.sentence));
        fields.finish()
    }

    pub(super) fn read(value: TlvValue<'_>) -> Result<Self, WireError> {
        let (mut is_inbound, mut cluster, mut service, mut code) = Default::default();
        let (mut port, mut source, mut sentence) = (PortName::default(), None, String::new());
        let (mut count, mut first_ms, mut last_ms) = (0, 0, 0);
        let mut fields = TlvReader::new(value.0);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => is_inbound = Some(value.integer("direction")? > 0),
                3 => cluster = Some(value.name("cluster")?),
                5 => service = Some(value.name("service")?),
                7 => port = value.name("port")?,
                9 => code = Some(Code::from_number(value.integer("code")?)),
                10 => source = Some(read_workload(value)?),
                12 => count = value.integer("count")?,
                14 => first_ms = value.integer("first")?,
                16 => last_ms = value.integer("last")?,
                18 => sentence = read_sentence(value)?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let service = service.ok_or(WireError::Missing("service"))?;
        Ok(Self {
            is_inbound: is_inbound.ok_or(WireError::Missing("direction"))?,
            cluster: cluster.ok_or(WireError::Missing("cluster"))?,
            target: Target { service, port },
            code: code.ok_or(WireError::Missing("code"))?,
            source,
            count,
            first_ms,
            last_ms,
            sentence,
        })
    }
}

/// A workload's path, which is read as the end of an ID.
fn read_workload(value: TlvValue<'_>) -> Result<Workload, WireError> {
    let id: SpiffeId = format!("spiffe://of{}", value.text("source")?)
        .parse()
        .map_err(|_| WireError::Invalid("source"))?;
    match id.role() {
        Ok(Role::Workload(workload)) => Ok(workload),
        _ => Err(WireError::Invalid("source")),
    }
}
