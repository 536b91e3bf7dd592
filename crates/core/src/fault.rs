//! The reasons why a backend is not ready.
//!
//! A closed list, and a byte in memory: nothing else that a peer says of its backends is ever repeated to
//! callers, logs or the cluster's objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::code::Code;
use crate::grant::Target;

/// The reason why a backend is not ready, as its last dial found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendFault {
    /// The backend refused the connection.
    Refused,
    /// The backend did not answer in time.
    Timeout,
    /// There is no route to it.
    Unreachable,
    /// Its address may not be dialled.
    Forbidden,
    /// The endpoints that there are do not count: they are no pods of the service's own namespace.
    Foreign,
}

impl BackendFault {
    /// The fault that a code stands for; `None` if the code is not about a backend.
    #[must_use]
    pub fn from_code(code: Code) -> Option<Self> {
        let all = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Forbidden, Self::Foreign];
        all.into_iter().find(|fault| fault.code() == code)
    }

    /// The code of the closed list.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Refused => Code::BackendRefused,
            Self::Timeout => Code::BackendTimeout,
            Self::Unreachable => Code::BackendUnreachable,
            Self::Forbidden => Code::BackendForbidden,
            Self::Foreign => Code::BackendForeign,
        }
    }

    /// The fault as the end of a sentence about a dial.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Timeout => "no answer in time",
            Self::Unreachable => "no route to it",
            Self::Forbidden => "its address is one that may not be dialled",
            Self::Foreign => {
                "its endpoints are no pods of its own namespace, and only an export by name (`adit export`) leads elsewhere"
            }
        }
    }
}

/// The question to ask about a ready pod that does not answer in time.
pub const NETWORK_POLICY_HINT: &str =
    "it is Ready and does not answer: does a NetworkPolicy keep nodes out?";

/// Which backends answer: the results of this node's own dials, and in `unserved` what other nodes reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendStates {
    /// Those that do not answer at present, and why.
    pub down: BTreeMap<SocketAddr, BackendFault>,
    /// Those that have answered, or are taken to have: what there was when the process began, and what this node
    /// cannot dial for a reason of its own. `None` while nobody dials yet: then all are.
    pub answered: Option<BTreeSet<SocketAddr>>,
    /// Ports of exports of which no backend answers the node that it runs on, as those nodes found: it counts for
    /// backends that this node does not dial.
    pub unserved: BTreeMap<Target, BackendFault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_of_the_codes_about_backends_and_no_other() {
        let found: Vec<_> =
            Code::ALL.iter().filter_map(|code| BackendFault::from_code(*code)).collect();
        assert_eq!(found.len(), 5);
        assert!(
            Code::ALL.iter().all(|c| BackendFault::from_code(*c).is_none_or(|f| f.code() == *c))
        );
        assert_eq!(BackendFault::from_code(Code::Denied), None, "a peer cannot have it said");
    }
}
