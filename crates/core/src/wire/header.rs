//! The header of a data stream and the answer to it.
//!
//! Each is its length, then fields; at most [`MAX_HEADER_LEN`] bytes in all, the header within [`HEADER_TIMEOUT`]. The
//! opener's first bytes follow its header in the same flight; the acceptor's follow its answer. The answer is sent when
//! the backend's TCP connection stands, or when it is clear that none will.
//!
//! | header field | | value |
//! |---|---|---|
//! | 1 service | critical | `NAMESPACE/NAME` |
//! | 3 port | critical | port name; absent for an unnamed port |
//! | 5 source | critical | form, then identity: form 0 is an asserted `/ns/NAMESPACE/sa/SERVICEACCOUNT` of the connection's own trust domain. Forms from 1 on are for proved identities |
//! | 7 probe | critical | absent for a stream that carries a connection. 0: only ask, policy and the choice of a backend are answered; 1: dial a backend, too, and answer how that went. Nothing is delivered either way, and the answer ends the stream |
//! | 16 flow | optional | 16 random bytes that name the flow in both sides' logs, and later in a resumption |
//! | 18 trace | optional | trace ID (16), span ID (8), flags (1), as in W3C Trace Context |
//! | 20 offsets | reserved | bytes sent and received so far, for resuming |
//!
//! | answer field | | value |
//! |---|---|---|
//! | 1 code | critical | [`Code`]; 0 where the backend was reached |
//! | 2 reason | optional | up to [`MAX_REASON_LEN`] printable ASCII characters |
//! | 4 offsets | reserved | for resuming |

use std::time::Duration;

use bytes::BytesMut;

use super::tlv::{
    TlvReader, TlvValue, TlvWriter, WireError, get_length_prefixed, put_length_prefixed,
};
use crate::code::Code;
use crate::grant::Target;
use crate::spiffe::{Role, SpiffeId, Workload};
use crate::text::{is_printable_ascii, shorten};

/// The longest header or answer, in bytes, its length included.
pub const MAX_HEADER_LEN: usize = 512;
/// The longest time that a header may take, from the first byte of its stream to its own last byte.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest reason in an answer, in bytes.
pub const MAX_REASON_LEN: usize = 200;

const SERVICE: u64 = 1;
const PORT: u64 = 3;
const SOURCE: u64 = 5;
const PROBE: u64 = 7;
const FLOW: u64 = 16;
const TRACE: u64 = 18;
const CODE: u64 = 1;
const REASON: u64 = 2;

/// The form of a source that its node vouches for, and has not proved.
const ASSERTED: u8 = 0;

/// The header of a data stream: its target and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// The service and port that are asked for.
    pub target: Target,
    /// The workload that asks; its trust domain is the connection's.
    pub source: Workload,
    /// Set if the stream only asks what would become of one, and carries nothing.
    pub probe: Option<StreamProbe>,
    /// The name of the flow in both sides' logs.
    pub flow: Option<[u8; 16]>,
    /// The trace that the flow belongs to.
    pub trace: Option<TraceContext>,
}

/// The question of a stream that carries nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamProbe {
    /// May this source use this target, and is there a backend?
    Ask,
    /// The same, and does a backend accept a TCP connection?
    Dial,
}

/// A W3C trace context in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that the stream is a child of.
    pub span: [u8; 8],
    /// W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
}

/// The answer to a header: accepted if the backend was reached, else the refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAnswer {
    /// [`Code::Finished`] if the backend was reached; a refusal otherwise.
    pub code: Code,
    /// For people: why not. Printable ASCII, at most [`MAX_REASON_LEN`] bytes.
    pub reason: String,
}

impl StreamHeader {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = TlvWriter::default();
        fields.text(SERVICE, &self.target.service.to_string());
        if !self.target.port.as_str().is_empty() {
            fields.text(PORT, self.target.port.as_str());
        }
        let mut source = vec![ASSERTED];
        source.extend_from_slice(self.source.to_string().as_bytes());
        fields.bytes(SOURCE, &source);
        if let Some(probe) = self.probe {
            fields.integer(PROBE, probe.number());
        }
        if let Some(flow) = &self.flow {
            fields.bytes(FLOW, flow);
        }
        if let Some(trace) = &self.trace {
            fields.bytes(TRACE, &[&trace.trace[..], &trace.span, &[trace.flags]].concat());
        }
        put_length_prefixed(out, &fields.finish());
    }

    /// Reads a header off the front of `input`, and says how many bytes it took; `None` while more bytes are
    /// needed.
    ///
    /// # Errors
    /// What is wrong with it. Never needs more than [`MAX_HEADER_LEN`] bytes to find out.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((body, taken)) = split_body(input)? else { return Ok(None) };
        let (mut service, mut port, mut source, mut flow, mut trace) = Default::default();
        let mut probe = None;
        let mut fields = TlvReader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                SERVICE => service = Some(value.name("service")?),
                PORT => port = Some(value.name("port").and_then(read_name_pair)?),
                SOURCE => source = Some(read_source(value)?),
                PROBE => probe = Some(StreamProbe::read(value)?),
                FLOW => flow = Some(value.array("flow")?),
                TRACE => trace = Some(TraceContext::read(value)?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let header = Self {
            target: Target {
                service: service.ok_or(WireError::Missing("service"))?,
                port: port
                    .map_or_else(|| "".parse(), Ok)
                    .map_err(|_| WireError::Invalid("port"))?,
            },
            source: source.ok_or(WireError::Missing("source"))?,
            probe,
            flow,
            trace,
        };
        Ok(Some((header, taken)))
    }
}

/// An unnamed port is encoded by the field's absence, so that a header has one encoding.
fn read_name_pair(port: crate::name::PortName) -> Result<crate::name::PortName, WireError> {
    if port.as_str().is_empty() { Err(WireError::Invalid("port")) } else { Ok(port) }
}

fn read_source(value: TlvValue<'_>) -> Result<Workload, WireError> {
    let invalid = WireError::Invalid("source");
    let (form, path) = value.0.split_first().ok_or(invalid)?;
    if *form != ASSERTED {
        return Err(invalid);
    }
    let path = TlvValue(path).text("source")?;
    // The grammar is that of an ID's path; any trust domain serves to read it.
    match format!("spiffe://x{path}").parse::<SpiffeId>().map(|id| id.role()) {
        Ok(Ok(Role::Workload(workload))) => Ok(workload),
        _ => Err(invalid),
    }
}

impl StreamProbe {
    const fn number(self) -> u64 {
        match self {
            Self::Ask => 0,
            Self::Dial => 1,
        }
    }

    fn read(value: TlvValue<'_>) -> Result<Self, WireError> {
        match value.integer("probe")? {
            0 => Ok(Self::Ask),
            1 => Ok(Self::Dial),
            _ => Err(WireError::Invalid("probe")),
        }
    }
}

impl TraceContext {
    fn read(value: TlvValue<'_>) -> Result<Self, WireError> {
        let all: [u8; 25] = value.array("trace")?;
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&all[..16]);
        span.copy_from_slice(&all[16..24]);
        Ok(Self { trace, span, flags: all[24] })
    }
}

impl StreamAnswer {
    /// The backend was reached.
    #[must_use]
    pub fn accepted() -> Self {
        Self { code: Code::Finished, reason: String::new() }
    }

    /// A refusal; what is not printable ASCII in `reason` becomes `?`, what is too long is cut at the end of a word.
    #[must_use]
    pub fn refused(code: Code, reason: &str) -> Self {
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        // Beyond this nothing shows, and the text may be of any length.
        let shown: String = reason.chars().take(2 * MAX_REASON_LEN).map(printable).collect();
        Self { code, reason: shorten(&shown, MAX_REASON_LEN).into_owned() }
    }

    /// Appends the answer to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = TlvWriter::default();
        fields.integer(CODE, self.code.number());
        if !self.reason.is_empty() {
            fields.text(REASON, &self.reason);
        }
        put_length_prefixed(out, &fields.finish());
    }

    /// Reads an answer off the front of `input`, and says how many bytes it took; `None` while more bytes are
    /// needed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((body, taken)) = split_body(input)? else { return Ok(None) };
        let (mut code, mut reason) = (None, String::new());
        let mut fields = TlvReader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                CODE => code = Some(Code::from_number(value.integer("code")?)),
                REASON => reason = read_reason(value)?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let code = code.ok_or(WireError::Missing("code"))?;
        Ok(Some((Self { code, reason }, taken)))
    }
}

fn read_reason(value: TlvValue<'_>) -> Result<String, WireError> {
    let text = value.text("reason")?;
    let valid = (1..=MAX_REASON_LEN).contains(&text.len()) && text.bytes().all(is_printable_ascii);
    if valid { Ok(text.into()) } else { Err(WireError::Invalid("reason")) }
}

/// The body of a length-prefixed message of at most [`MAX_HEADER_LEN`] bytes in all, and the length of the whole.
fn split_body(input: &[u8]) -> Result<Option<(&[u8], usize)>, WireError> {
    let mut rest = input;
    let body = get_length_prefixed(&mut rest, MAX_HEADER_LEN - 2)?;
    Ok(body.map(|body| (body, input.len() - rest.len())))
}

#[cfg(test)]
mod tests;
