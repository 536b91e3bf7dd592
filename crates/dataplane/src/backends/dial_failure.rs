//! Why a backend could not be dialled: its own fault, or this node's.

use std::io;
use std::net::SocketAddr;

use adit_core::code::Code;

use crate::flow::FlowFailure;

/// Why a dial failed, and whether the backend is to blame rather than this node.
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's list is open")]
pub(crate) fn dial_failure(backend: SocketAddr, error: &io::Error) -> (FlowFailure, bool) {
    use io::ErrorKind as Kind;
    let (code, at_fault) = match error.kind() {
        Kind::ConnectionRefused | Kind::ConnectionReset => (Code::BackendRefused, true),
        Kind::TimedOut => (Code::BackendTimeout, true),
        Kind::HostUnreachable | Kind::NetworkUnreachable => (Code::BackendUnreachable, true),
        Kind::PermissionDenied => (Code::BackendUnreachable, false),
        // Out of descriptors, ports or memory. Nothing was delivered, and another node may have some.
        _ => {
            // A peer is told this, and addresses of this cluster are none of its business.
            let reason = format!("this node cannot dial a backend: {error}{}", hint(error));
            return (FlowFailure::new(Code::OverLimit, reason), false);
        }
    };
    (FlowFailure::new(code, format!("backend {backend}: {error}")), at_fault)
}

/// Advice about the operating system's own limits.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(EMFILE) => "; the limit on descriptors of this process (ulimit -n) is reached",
        Some(ENFILE) => "; the limit on descriptors of this machine (fs.file-max) is reached",
        _ => "",
    }
}
