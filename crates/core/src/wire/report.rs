//! The report of a node to the controller of its own cluster: the state of its links, which of its imports
//! and exports do not work there, and which connections it refused of late.
//!
//! The answer on a [report stream](super::StreamKind::Report): fields until the stream's end, at most
//! [`MAX_REPORT_LEN`] bytes. A node reports about itself only, so that a node which lies does so about itself
//! only; the size of a report is bounded here, on both sides.
//!
//! | field | value |
//! |---|---|
//! | 2 troubles | list, at most [`NodeReport::MAX_TROUBLES`]: 1 about (0 the node, 1 a link, 2 an import, 3 an export), 3 the link's cluster or the service (absent for the node), 5 the service's port (absent where it has no name), 7 [`Code`](crate::code::Code), 9 severity (0 warning, 1 error), 10 sentence |
//! | 4 refusals | list, at most [`NodeReport::MAX_REFUSALS`]: 1 direction (0 connections from here, 1 from the peer), 3 the other cluster, 5 service, 7 port, 9 [`Code`](crate::code::Code), 10 source as `/ns/NAMESPACE/sa/SERVICEACCOUNT` (absent where it is not known, or one of many), 12 count, 14 milliseconds since the first, 16 milliseconds since the last, 18 sentence |
//! | 6 others | refused connections for which the list had no place |
//! | 8 exports | list of [`ExportFault`], at most [`NodeReport::MAX_EXPORTS`] |
//! | 10 cut | 1 where there are more of those |
//! | 12 version | the release that the node runs, at most [`MAX_VERSION_LEN`] visible ASCII characters; absent from earlier versions |

use bytes::BytesMut;

mod export_fault;
mod question;
mod refusal_series;
mod sentence;
mod trouble;
mod version;

pub use self::export_fault::ExportFault;
pub use self::question::{MAX_QUESTION_LEN, ReportQuestion};
pub use self::refusal_series::{RefusalSeries, is_askers_fault};
pub use self::sentence::MAX_SENTENCE_LEN;
pub use self::trouble::{NodeTrouble, TroubleSubject};
pub use self::version::MAX_VERSION_LEN;
use super::tlv::{TlvReader, TlvWriter, WireError};

/// The longest report, in bytes.
pub const MAX_REPORT_LEN: usize = 128 * 1024;
/// The report of a node about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// The problems there, worst first; at most [`Self::MAX_TROUBLES`].
    pub troubles: Vec<NodeTrouble>,
    /// Connections that were refused there lately, most first; at most [`Self::MAX_REFUSALS`].
    pub refusals: Vec<RefusalSeries>,
    /// Connections that were refused lately and do not fit among `refusals`.
    pub others: u64,
    /// Exports that no backend answers for; at most [`Self::MAX_EXPORTS`].
    pub exports: Vec<ExportFault>,
    /// True if there are more exports than fit.
    pub is_truncated: bool,
    /// The release that the node runs, at most [`MAX_VERSION_LEN`] bytes; empty if it does not say.
    pub version: String,
}

impl NodeReport {
    /// The most troubles in a report.
    pub const MAX_TROUBLES: usize = 64;
    /// The most series of refusals in a report.
    pub const MAX_REFUSALS: usize = 32;
    /// The most exports in a report.
    pub const MAX_EXPORTS: usize = 128;

    /// The report on the wire. What is too much is left out, from the end; refusals that are left out are counted
    /// among `others`.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let (sent, unsent) = self.refusals.split_at(self.refusals.len().min(Self::MAX_REFUSALS));
        let others =
            unsent.iter().fold(self.others, |others, series| others.saturating_add(series.count));
        let mut fields = TlvWriter::default();
        let troubles = self.troubles.iter().take(Self::MAX_TROUBLES);
        fields.list(2, troubles.map(NodeTrouble::fields));
        fields.list(4, sent.iter().map(RefusalSeries::fields));
        if others > 0 {
            fields.integer(6, others);
        }
        fields.list(8, self.exports.iter().take(Self::MAX_EXPORTS).map(ExportFault::fields));
        if self.is_truncated || self.exports.len() > Self::MAX_EXPORTS {
            fields.integer(10, 1);
        }
        if !self.version.is_empty() {
            fields.text(12, &version::truncated_version(&self.version));
        }
        fields.finish()
    }

    /// Reads a whole report.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_REPORT_LEN {
            return Err(WireError::TooLong(MAX_REPORT_LEN));
        }
        let (mut report, mut fields) = (Self::default(), TlvReader::new(bytes));
        while let Some((kind, value)) = fields.next()? {
            match kind {
                2 => {
                    report.troubles =
                        value.list(Self::MAX_TROUBLES, "troubles", NodeTrouble::read)?;
                }
                4 => {
                    report.refusals =
                        value.list(Self::MAX_REFUSALS, "refusals", RefusalSeries::read)?;
                }
                6 => report.others = value.integer("others")?,
                8 => {
                    report.exports = value.list(Self::MAX_EXPORTS, "exports", ExportFault::read)?
                }
                10 => report.is_truncated = value.integer("exports")? > 0,
                12 => report.version = version::read_version(value)?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;
    use crate::fault::BackendFault;
    use crate::grant::Target;
    use crate::spiffe::Workload;
    use proptest::prelude::*;

    fn target(port: &str) -> Target {
        Target { service: "agents/fraud-bot".parse().unwrap(), port: port.parse().unwrap() }
    }

    fn series(source: Option<&str>) -> RefusalSeries {
        RefusalSeries {
            is_inbound: false,
            cluster: "bank".parse().unwrap(),
            target: target("http"),
            code: Code::Denied,
            source: source.map(|name| Workload {
                namespace: "agents".parse().unwrap(),
                service_account: name.parse().unwrap(),
            }),
            count: 1384,
            first_ms: 120_000,
            last_ms: 3000,
            sentence: "no grant names agents/x".to_owned(),
        }
    }

    fn report() -> NodeReport {
        let trouble = |about, is_error| NodeTrouble {
            subject: about,
            code: Code::LinkDown,
            is_error,
            sentence: "no answer".to_owned(),
        };
        NodeReport {
            troubles: vec![
                trouble(TroubleSubject::Link("bank".parse().unwrap()), true),
                trouble(TroubleSubject::Import(target("http")), true),
                trouble(TroubleSubject::Export(target("")), false),
                trouble(TroubleSubject::Node, false),
            ],
            refusals: vec![series(Some("support-bot")), series(None)],
            others: 7,
            exports: vec![
                fault(target("http"), Some(BackendFault::Refused)),
                fault(target(""), None),
            ],
            is_truncated: true,
            version: "0.1.0".to_owned(),
        }
    }

    fn fault(target: Target, fault: Option<BackendFault>) -> ExportFault {
        let backend = Some("10.244.1.5:8080".parse().unwrap());
        ExportFault { target, is_whole_export: true, fault, total: 3, here: 1, backend }
    }

    #[test]
    fn reports_round_trip() {
        for report in [report(), NodeReport::default()] {
            assert_eq!(NodeReport::decode(&report.encode()), Ok(report));
        }
    }

    #[test]
    fn more_than_fits_is_cut_by_the_sender_and_counted() {
        let long = "é\n".repeat(MAX_SENTENCE_LEN);
        let mut much = report();
        much.troubles =
            vec![NodeTrouble { sentence: long.clone(), ..much.troubles[1].clone() }; 99];
        much.refusals = vec![RefusalSeries { sentence: long, ..series(Some("a")) }; 40];
        much.exports = vec![fault(target("http"), None); 129];
        much.is_truncated = false;
        much.version = format!("1.0.0-é\n{}", "x".repeat(99));
        let bytes = much.encode();
        assert!(bytes.len() <= MAX_REPORT_LEN, "{}", bytes.len());
        let read = NodeReport::decode(&bytes).unwrap();
        assert_eq!((read.troubles.len(), read.refusals.len()), (64, 32));
        assert_eq!((read.exports.len(), read.is_truncated), (128, true));
        assert_eq!(read.others, 7 + 8 * 1384);
        assert!(read.troubles[0].sentence.chars().all(|c| matches!(c, 'é' | ' ' | '.')));
        assert_eq!(read.version, format!("1.0.0-{}", "x".repeat(MAX_VERSION_LEN - 6)));
    }

    #[test]
    fn the_largest_names_fit_into_the_limit() {
        let label = "a".repeat(63);
        let service = format!("{label}/{label}").parse().unwrap();
        let target = Target { service, port: "p".repeat(63).parse().unwrap() };
        let sentence = "s".repeat(MAX_SENTENCE_LEN);
        let about = TroubleSubject::Import(target.clone());
        let trouble = NodeTrouble {
            subject: about,
            code: Code::Unknown(1 << 60),
            is_error: true,
            sentence: sentence.clone(),
        };
        let source = Workload {
            namespace: label.parse().unwrap(),
            service_account: format!("{label}.{label}.{label}.{}", &label[..61]).parse().unwrap(),
        };
        let refusal = RefusalSeries {
            target: target.clone(),
            sentence,
            source: Some(source),
            ..series(None)
        };
        let (troubles, refusals) = (vec![trouble; 64], vec![refusal; 32]);
        let most = ExportFault { total: u32::MAX, here: u32::MAX, ..fault(target, None) };
        let exports = vec![most; 128];
        let version = "v".repeat(MAX_VERSION_LEN);
        let report =
            NodeReport { troubles, refusals, others: 0, exports, is_truncated: true, version };
        assert_eq!(NodeReport::decode(&report.encode()), Ok(report));
    }

    #[test]
    fn a_receiver_takes_no_more_than_the_bounds() {
        let raw = |fields: &mut TlvWriter| NodeReport::decode(&fields.finish());
        let item = series(None).fields();
        let many = std::iter::repeat_n(item, NodeReport::MAX_REFUSALS + 1);
        let refused = raw(TlvWriter::default().list(4, many));
        assert_eq!(refused, Err(WireError::TooMany("refusals", NodeReport::MAX_REFUSALS)));
        assert_eq!(
            NodeReport::decode(&vec![0; MAX_REPORT_LEN + 1]),
            Err(WireError::TooLong(MAX_REPORT_LEN))
        );
        let mut item = TlvWriter::default();
        item.integer(1, 0).integer(7, 0x15).text(10, "a\u{1b}[31m");
        let refused = raw(TlvWriter::default().list(2, [item.finish()]));
        assert_eq!(refused, Err(WireError::Invalid("sentence")));
        for version in
            ["1.0\u{1b}[31m".to_owned(), "v".repeat(MAX_VERSION_LEN + 1), "1 0".to_owned()]
        {
            let refused = raw(TlvWriter::default().text(12, &version));
            assert_eq!(refused, Err(WireError::Invalid("version")));
        }
        assert_eq!(raw(TlvWriter::default().text(20, "later")), Ok(NodeReport::default()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = NodeReport::decode(&bytes) {
                prop_assert_eq!(NodeReport::decode(&read.encode()), Ok(read));
            }
        }
    }
}
