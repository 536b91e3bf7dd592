//! The state of an export's backends on one node, if they do not answer: names and counts, so that the
//! reports of all nodes add up.
//!
//! An item is: 1 service, 3 port (absent if it has no name), 5 whether nobody answers at all (0 or 1), 6 why
//! ([`BackendFault`]'s code; absent if there is no backend), 8 backends of the port, 10 those that run on
//! this node, 12 the address and port of one that does not answer (absent if there is none).

use std::net::SocketAddr;

use bytes::BytesMut;

use super::super::tlv::{TlvReader, TlvValue, TlvWriter, WireError};
use crate::code::Code;
use crate::fault::BackendFault;
use crate::grant::Target;
use crate::name::PortName;

/// A port of an export for which no backend answers: none that this node knows, or none of those that run on
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFault {
    /// The export and its port.
    pub target: Target,
    /// True if no backend that this node knows answers; false if only those on this node do not.
    pub is_whole_export: bool,
    /// The fault; `None` if there is no backend.
    pub fault: Option<BackendFault>,
    /// Number of backends of the port in the cluster, as far as this node knows.
    pub total: u32,
    /// Number of those that run on this node. None of them answers.
    pub here: u32,
    /// A backend that does not answer, for this fault. Never told to another cluster.
    pub backend: Option<SocketAddr>,
}

impl ExportFault {
    pub(super) fn fields(&self) -> BytesMut {
        let mut fields = TlvWriter::default();
        fields.text(1, &self.target.service.to_string());
        if !self.target.port.as_str().is_empty() {
            fields.text(3, self.target.port.as_str());
        }
        fields.integer(5, u64::from(self.is_whole_export));
        if let Some(fault) = self.fault {
            fields.integer(6, fault.code().number());
        }
        fields.integer(8, self.total.into()).integer(10, self.here.into());
        if let Some(backend) = self.backend {
            fields.text(12, &backend.to_string());
        }
        fields.finish()
    }

    pub(super) fn read(value: TlvValue<'_>) -> Result<Self, WireError> {
        let (mut service, mut port, mut is_whole) = (None, PortName::default(), false);
        let (mut fault, mut total, mut here, mut backend) = (None, 0, 0, None);
        let count = |value: TlvValue<'_>| -> Result<u32, WireError> {
            u32::try_from(value.integer("backends")?).map_err(|_| WireError::Invalid("backends"))
        };
        let mut fields = TlvReader::new(value.0);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => service = Some(value.name("service")?),
                3 => port = value.name("port")?,
                5 => is_whole = value.integer("fault")? > 0,
                6 => fault = BackendFault::from_code(Code::from_number(value.integer("fault")?)),
                8 => total = count(value)?,
                10 => here = count(value)?,
                12 => {
                    let address = value.text("backend")?.parse();
                    backend = Some(address.map_err(|_| WireError::Invalid("backend"))?);
                }
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let service = service.ok_or(WireError::Missing("service"))?;
        Ok(Self {
            target: Target { service, port },
            is_whole_export: is_whole,
            fault,
            total,
            here,
            backend,
        })
    }
}
