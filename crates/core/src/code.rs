//! The closed list of reasons for which a stream or a connection ends.
//!
//! One list serves the wire (RESET_STREAM, STOP_SENDING, CONNECTION_CLOSE and the answer to a stream
//! header), the metrics, the log and the status page. A number, once released, keeps its meaning;
//! a number that this version does not know is shown as [`Code::Unknown`] and treated as final.

use std::fmt;

/// On whose side the cause lies: whom to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// Nobody: an ordinary end.
    None,
    /// The workload that opened the connection.
    Source,
    /// The workload that was to answer it.
    Target,
    /// The operator's configuration: a missing grant, export or link.
    Configuration,
    /// The network or a daemon between the two.
    Network,
    /// A daemon that broke the protocol, or a bug of ours.
    Daemon,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $blame:ident, $retry:literal, $text:literal;)*) => {
        /// The reason why a stream or a connection ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
            /// A number that a newer peer sent and this version does not know.
            Unknown(u64),
        }

        impl Code {
            /// Every code of this version, in order of number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number on the wire, at most 2^62 - 1.
            #[must_use]
            pub const fn number(self) -> u64 {
                match self { $(Self::$variant => $number,)* Self::Unknown(n) => n }
            }

            /// The code of a number from the wire.
            #[must_use]
            pub const fn from_number(number: u64) -> Self {
                match number { $($number => Self::$variant,)* n => Self::Unknown(n) }
            }

            /// The name in logs, metrics and status: lower case, hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Unknown(_) => "unknown-code" }
            }

            /// On whose side the cause lies.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)* Self::Unknown(_) => Blame::Daemon }
            }

            /// True if a *refusal* with this code leaves room for another node or backend: the one that
            /// refused has delivered nothing, and another might well answer.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* Self::Unknown(_) => false }
            }

            /// A sentence about the code, for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Unknown(_) => "a reason that this version does not know" }
            }
        }
    };
}

/// Codes for which a link is down, and the reasons of Kubernetes' conditions that stand for them.
const LINK_REASONS: [(Code, &str); 9] = [
    (Code::LinkDown, "LinkDown"),
    (Code::OneWay, "OneWay"),
    (Code::CertificateRefused, "CertificateRefused"),
    (Code::RefusedByPeer, "RefusedByPeer"),
    (Code::DeniedIdentity, "DeniedIdentity"),
    (Code::IdentityMismatch, "IdentityMismatch"),
    (Code::VersionMismatch, "VersionMismatch"),
    (Code::Unlinked, "NotLinkedThere"),
    (Code::Draining, "PeerDraining"),
];

/// The same for codes with which streams are refused.
const REFUSAL_REASONS: [(Code, &str); 15] = [
    (Code::Denied, "Denied"),
    (Code::SourceUnknown, "SourceUnknown"),
    (Code::ExportUnknown, "NotExported"),
    (Code::PortUnknown, "PortUnknown"),
    (Code::LinkDown, "LinkDown"),
    (Code::NoBackend, "NoBackend"),
    (Code::BackendRefused, "BackendRefused"),
    (Code::BackendTimeout, "BackendTimeout"),
    (Code::BackendUnreachable, "BackendUnreachable"),
    (Code::BackendForbidden, "BackendForbidden"),
    (Code::BackendForeign, "BackendForeign"),
    (Code::HopRefused, "HopRefused"),
    (Code::OverLimit, "OverLimit"),
    (Code::OverBudget, "OverBudget"),
    (Code::OpenTimeout, "OpenTimeout"),
];

impl Code {
    /// The code of that name; `None` if this version has none such.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// The reason of a condition that says why a link is down.
    #[must_use]
    pub fn link_reason(self) -> &'static str {
        let found = LINK_REASONS.iter().find(|(code, _)| *code == self);
        found.map_or("LinkDown", |(_, reason)| reason)
    }

    /// The reason of a condition that says why streams are refused.
    #[must_use]
    pub fn refusal_reason(self) -> &'static str {
        let found = REFUSAL_REASONS.iter().find(|(code, _)| *code == self);
        found.map_or("Refused", |(_, reason)| reason)
    }

    /// The code for which a condition has this reason; `None` if it has it for something else.
    #[must_use]
    pub fn from_condition_reason(reason: &str) -> Option<Self> {
        let mut all = LINK_REASONS.iter().chain(&REFUSAL_REASONS);
        all.find(|(_, known)| *known == reason).map(|(code, _)| *code)
    }

    /// True if a stream that ended with the code was lost or refused between the clusters.
    #[must_use]
    pub fn is_of_link(self) -> bool {
        let others =
            [Self::OpenTimeout, Self::ConnectionLost, Self::CertificateEnded, Self::PeerRestarted];
        others.contains(&self) || LINK_REASONS.iter().any(|(code, _)| *code == self)
    }

    /// True if the code refuses: whoever receives it knows that nothing was delivered.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self.number(), 0x10..0x30) && !matches!(self, Self::Unknown(_))
    }
}

codes! {
    /// Both directions ended by an explicit finish.
    Finished = 0x00, "finished", None, false, "both sides finished";

    // Refusals: nothing was delivered.
    /// No workload is known by the connection's source address.
    SourceUnknown = 0x10, "source-unknown", Configuration, false, "no workload is known by the source address";
    /// No grant names the source.
    Denied = 0x11, "denied", Configuration, false, "no grant allows this source to use this service";
    /// Nothing is imported at the address that was dialled.
    ImportUnknown = 0x12, "import-unknown", Configuration, false, "no import has this local address";
    /// The target cluster does not export the service to the source's cluster.
    ExportUnknown = 0x13, "export-unknown", Configuration, true, "the service is not exported to this cluster";
    /// The export has no port of that name.
    PortUnknown = 0x14, "port-unknown", Configuration, true, "the export has no port of this name";
    /// No node of the target cluster can be reached.
    LinkDown = 0x15, "link-down", Network, true, "no node of the target cluster can be reached";
    /// The target cluster reports no ready backend.
    NoBackend = 0x16, "no-backend", Target, true, "the service has no ready backend";
    /// The backend refused the TCP connection.
    BackendRefused = 0x17, "backend-refused", Target, true, "the backend refused the connection";
    /// The backend did not answer the dial in time.
    BackendTimeout = 0x18, "backend-timeout", Target, true, "the backend did not answer in time";
    /// There is no route to the backend.
    BackendUnreachable = 0x19, "backend-unreachable", Target, true, "the backend cannot be reached";
    /// The backend's address is one that may not be dialled.
    BackendForbidden = 0x1a, "backend-forbidden", Configuration, true, "the backend's address may not be dialled";
    /// The stream header broke the grammar or a bound.
    HeaderInvalid = 0x1b, "header-invalid", Daemon, false, "the stream header is not valid";
    /// The stream header did not arrive within its deadline.
    HeaderTimeout = 0x1c, "header-timeout", Daemon, false, "the stream header did not arrive in time";
    /// The peer asserted a source that it may not assert.
    SourceForeign = 0x1d, "source-foreign", Daemon, false, "the peer may not assert this source";
    /// The export wants a backend on the node that is entered, and that node has none.
    HopRefused = 0x1e, "hop-refused", Configuration, true, "the export allows no extra hop and this node has no backend";
    /// A limit on the number of streams or descriptors is reached.
    OverLimit = 0x1f, "over-limit", Network, true, "a limit on streams or descriptors is reached";
    /// The node is going away and takes nothing new.
    Draining = 0x20, "draining", Network, true, "the node is going away";
    /// The peer granted no stream in time.
    OpenTimeout = 0x21, "open-timeout", Network, true, "the peer granted no stream in time";
    /// The service leads to endpoints that an export by label or annotation may not lead to.
    BackendForeign = 0x22, "backend-foreign", Configuration, true, "the service's endpoints are no pods of its namespace";

    // Ends of streams that were under way.
    /// The source's TCP connection was reset.
    SourceReset = 0x30, "source-reset", Source, false, "the source reset the connection";
    /// The backend's TCP connection was reset.
    BackendReset = 0x31, "backend-reset", Target, false, "the backend reset the connection";
    /// The connection between the nodes was lost.
    ConnectionLost = 0x32, "connection-lost", Network, false, "the connection between the nodes was lost";
    /// The connection was lost while it was unknown whether anything had been delivered.
    UnknownOutcome = 0x33, "unknown-outcome", Network, false, "the connection was lost before the answer; what was sent may have been delivered";
    /// Policy changed, and the stream lost its right.
    Revoked = 0x34, "revoked", Configuration, false, "the right to use the service was withdrawn";
    /// The stream stalled for longest while its peer or the process was out of buffer budget.
    OverBudget = 0x35, "over-budget", Target, false, "the stream stalled while the buffer budget was spent";
    /// The drain deadline passed.
    Drained = 0x36, "drained", Network, false, "the node went away before the stream ended";
    /// A local operating system error.
    LocalError = 0x37, "local-error", Network, false, "the operating system refused an operation";
    /// The serving task ended without saying why: a bug.
    Internal = 0x3f, "internal", Daemon, false, "an internal error";

    // Ends of connections.
    /// The connection is no longer needed.
    ConnectionUnused = 0x40, "connection-unused", None, false, "the connection is no longer needed";
    /// The versions of the two sides do not overlap.
    VersionMismatch = 0x41, "version-mismatch", Configuration, false, "the protocol versions do not overlap";
    /// A control or state message broke the grammar, a bound or the order.
    ProtocolError = 0x42, "protocol-error", Daemon, false, "the peer broke the protocol";
    /// The peer's identity is not the one that its place demands.
    IdentityMismatch = 0x43, "identity-mismatch", Configuration, false, "the peer's identity does not fit its hello";
    /// No link to the peer's trust domain is configured any more.
    Unlinked = 0x44, "unlinked", Configuration, false, "no link to this cluster is configured";
    /// A newer connection of the same kind took this one's place.
    Replaced = 0x45, "replaced", None, false, "a newer connection took its place";
    /// The peer's node was started again; this connection ends in the old process.
    PeerRestarted = 0x46, "peer-restarted", Network, false, "the peer was started again";
    /// The peer's certificate ended or was revoked.
    CertificateEnded = 0x47, "certificate-ended", Configuration, false, "the peer's certificate is no longer valid";
    /// The peer's identity, or a certificate or key that it rests on, is on the deny list.
    DeniedIdentity = 0x48, "denied-identity", Configuration, false, "the peer's identity is denied by configuration";
    /// Packets pass between the two sides in one direction only.
    OneWay = 0x49, "one-way", Network, false, "packets pass between the two sides in one direction only";
    /// This side refuses the other's certificate.
    CertificateRefused = 0x4a, "certificate-refused", Configuration, false, "the other side's certificate is refused here";
    /// The other side refuses this one's certificate.
    RefusedByPeer = 0x4b, "refused-by-peer", Configuration, false, "the other side refuses this one's certificate";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Unknown(n) = self {
            return write!(f, "unknown-code-{n}");
        }
        f.write_str(self.name())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let numbers: HashSet<u64> = Code::ALL.iter().map(|c| c.number()).collect();
        let names: HashSet<&str> = Code::ALL.iter().map(|c| c.name()).collect();
        assert_eq!((numbers.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
            assert_eq!(Code::from_name(code.name()), Some(*code));
        }
        assert_eq!(Code::from_name("unknown-code"), None);
        assert_eq!(Code::from_number(0x3fff), Code::Unknown(0x3fff));
        assert!(!Code::Unknown(0x3fff).is_retryable());
    }

    #[test]
    fn a_reason_of_a_condition_stands_for_one_code() {
        for code in Code::ALL {
            let reasons = [(code.link_reason(), "LinkDown"), (code.refusal_reason(), "Refused")];
            for (reason, fallback) in reasons.into_iter().filter(|(one, other)| one != other) {
                assert_eq!(Code::from_condition_reason(reason), Some(*code), "not {fallback}");
            }
        }
        let found = ["LinkDown", "PeerDraining", "Refused"].map(Code::from_condition_reason);
        assert_eq!(found, [Some(Code::LinkDown), Some(Code::Draining), None]);
    }

    #[test]
    fn nothing_that_may_have_been_delivered_is_retryable() {
        for code in Code::ALL.iter().filter(|c| c.is_retryable()) {
            assert!(code.is_refusal(), "{code} is not a refusal");
        }
    }
}
