//! The header of a data stream and the answer to it.
//!
//! Each is its length, then fields; at most [`LIMIT`] bytes in all, the header within [`DEADLINE`]. The
//! opener's first bytes follow its header in the same flight; the acceptor's follow its answer. The answer is sent when
//! the backend's TCP connection stands, or when it is clear that none will.
//!
//! | header field | | value |
//! |---|---|---|
//! | 1 service | critical | `NAMESPACE/NAME` |
//! | 3 port | critical | port name; absent for an unnamed port |
//! | 5 source | critical | form, then identity: form 0 is an asserted `/ns/NAMESPACE/sa/SERVICEACCOUNT` of the connection's own trust domain. Forms from 1 on are for proved identities |
//! | 16 flow | optional | 16 random bytes that name the flow in both sides' logs, and later in a resumption |
//! | 18 trace | optional | trace ID (16), span ID (8), flags (1), as in W3C Trace Context |
//! | 20 offsets | reserved | bytes sent and received so far, for resuming |
//!
//! | answer field | | value |
//! |---|---|---|
//! | 1 code | critical | [`Code`]; 0 where the backend was reached |
//! | 2 reason | optional | up to [`REASON_LIMIT`] printable ASCII characters |
//! | 4 offsets | reserved | for resuming |

use std::time::Duration;

use bytes::BytesMut;

use super::tlv::{Reader, Value, WireError, Writer, get_run, put_run};
use crate::code::Code;
use crate::policy::Target;
use crate::spiffe::{Role, SpiffeId, Workload};

/// The longest header or answer, in bytes, its length included.
pub const LIMIT: usize = 512;
/// How long a header may take from its stream's first byte to its own last.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// The longest reason in an answer, in bytes.
pub const REASON_LIMIT: usize = 200;

const SERVICE: u64 = 1;
const PORT: u64 = 3;
const SOURCE: u64 = 5;
const FLOW: u64 = 16;
const TRACE: u64 = 18;
const CODE: u64 = 1;
const REASON: u64 = 2;

/// The form of a source that its node vouches for, and has not proved.
const ASSERTED: u8 = 0;

/// What a data stream is for and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The service and port that are asked for.
    pub target: Target,
    /// The workload that asks; its trust domain is the connection's.
    pub source: Workload,
    /// The name of the flow in both sides' logs.
    pub flow: Option<[u8; 16]>,
    /// The trace that the flow belongs to.
    pub trace: Option<Trace>,
}

/// A W3C trace context in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that the stream is a child of.
    pub span: [u8; 8],
    /// W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
}

/// Whether the backend was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// [`Code::Finished`] where it was; a refusal otherwise.
    pub code: Code,
    /// For people: why not. Printable ASCII, at most [`REASON_LIMIT`] bytes.
    pub reason: String,
}

impl Header {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = Writer::default();
        fields.text(SERVICE, &self.target.service.to_string());
        if !self.target.port.as_str().is_empty() {
            fields.text(PORT, self.target.port.as_str());
        }
        let mut source = vec![ASSERTED];
        source.extend_from_slice(self.source.to_string().as_bytes());
        fields.bytes(SOURCE, &source);
        if let Some(flow) = &self.flow {
            fields.bytes(FLOW, flow);
        }
        if let Some(trace) = &self.trace {
            fields.bytes(TRACE, &[&trace.trace[..], &trace.span, &[trace.flags]].concat());
        }
        put_run(out, &fields.take());
    }

    /// Reads a header off the front of `input`, and says how many bytes it took; none while more bytes
    /// are needed.
    ///
    /// # Errors
    /// What is wrong with it. Never needs more than [`LIMIT`] bytes to tell.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((body, taken)) = split(input)? else { return Ok(None) };
        let (mut service, mut port, mut source, mut flow, mut trace) = Default::default();
        let mut fields = Reader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                SERVICE => service = Some(value.name("service")?),
                PORT => port = Some(value.name("port").and_then(named)?),
                SOURCE => source = Some(read_source(value)?),
                FLOW => flow = Some(value.array("flow")?),
                TRACE => trace = Some(Trace::read(value)?),
                other => Reader::unknown(other)?,
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
            flow,
            trace,
        };
        Ok(Some((header, taken)))
    }
}

/// An unnamed port is told by the field's absence, so that a header has one encoding.
fn named(port: crate::name::PortName) -> Result<crate::name::PortName, WireError> {
    if port.as_str().is_empty() { Err(WireError::Invalid("port")) } else { Ok(port) }
}

fn read_source(value: Value<'_>) -> Result<Workload, WireError> {
    let invalid = WireError::Invalid("source");
    let (form, path) = value.0.split_first().ok_or(invalid)?;
    if *form != ASSERTED {
        return Err(invalid);
    }
    let path = Value(path).text("source")?;
    // The grammar is that of an ID's path; any trust domain serves to read it.
    match format!("spiffe://x{path}").parse::<SpiffeId>().map(|id| id.role()) {
        Ok(Ok(Role::Workload(workload))) => Ok(workload),
        _ => Err(invalid),
    }
}

impl Trace {
    fn read(value: Value<'_>) -> Result<Self, WireError> {
        let all: [u8; 25] = value.array("trace")?;
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&all[..16]);
        span.copy_from_slice(&all[16..24]);
        Ok(Self { trace, span, flags: all[24] })
    }
}

impl Answer {
    /// The backend was reached.
    #[must_use]
    pub fn reached() -> Self {
        Self { code: Code::Finished, reason: String::new() }
    }

    /// A refusal; what is not printable ASCII in `reason` becomes `?`, what is too long is cut.
    #[must_use]
    pub fn refused(code: Code, reason: &str) -> Self {
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self { code, reason: reason.chars().take(REASON_LIMIT).map(printable).collect() }
    }

    /// Appends the answer to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = Writer::default();
        fields.integer(CODE, self.code.number());
        if !self.reason.is_empty() {
            fields.text(REASON, &self.reason);
        }
        put_run(out, &fields.take());
    }

    /// Reads an answer off the front of `input`, and says how many bytes it took; none while more bytes
    /// are needed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((body, taken)) = split(input)? else { return Ok(None) };
        let (mut code, mut reason) = (None, String::new());
        let mut fields = Reader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                CODE => code = Some(Code::from_number(value.integer("code")?)),
                REASON => reason = read_reason(value)?,
                other => Reader::unknown(other)?,
            }
        }
        let code = code.ok_or(WireError::Missing("code"))?;
        Ok(Some((Self { code, reason }, taken)))
    }
}

fn read_reason(value: Value<'_>) -> Result<String, WireError> {
    let text = value.text("reason")?;
    let printable = |c: u8| c.is_ascii_graphic() || c == b' ';
    let valid = (1..=REASON_LIMIT).contains(&text.len()) && text.bytes().all(printable);
    if valid { Ok(text.into()) } else { Err(WireError::Invalid("reason")) }
}

/// The body of a length-prefixed message of at most [`LIMIT`] bytes in all, and the length of the whole.
fn split(input: &[u8]) -> Result<Option<(&[u8], usize)>, WireError> {
    let mut rest = input;
    let body = get_run(&mut rest, LIMIT - 2)?;
    Ok(body.map(|body| (body, input.len() - rest.len())))
}

#[cfg(test)]
mod tests;
