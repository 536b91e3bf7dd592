//! Why a flow did not finish: a code of the closed list, and a sentence for the operator.

use adit_core::code::Code;
use adit_core::policy::Denial;

/// The reason why a flow did not finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFailure {
    /// The code on the wire, in metrics and in status.
    pub code: Code,
    /// For the operator: what exactly, in one sentence. Empty if the code says all.
    pub reason: String,
}

impl FlowFailure {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The end of a flow that had been taken. A connection that ended because its node refuses new work has
    /// not refused this: something was delivered.
    pub(crate) fn broken(code: Code) -> Self {
        if code.is_refusal() {
            return Self::new(Code::ConnectionLost, code.text());
        }
        if code == Code::OverBudget { Self::new(code, OVER_BUDGET) } else { code.into() }
    }
}

/// The reason of a stream that was reset for the memory that it held, on either side.
const OVER_BUDGET: &str = "its reader took nothing for a while, and the node that kept the bytes for it had no \
    more memory for streams that wait (limits.peerBuffer, limits.processBuffer)";

impl From<Code> for FlowFailure {
    fn from(code: Code) -> Self {
        Self { code, reason: String::new() }
    }
}

impl From<Denial> for FlowFailure {
    fn from(denial: Denial) -> Self {
        Self { code: denial.code, reason: denial.reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_reset_for_its_memory_says_which_limits() {
        let failure = FlowFailure::broken(Code::OverBudget);
        assert_eq!(failure.code, Code::OverBudget);
        for limit in ["limits.peerBuffer", "limits.processBuffer"] {
            assert!(failure.reason.contains(limit), "{failure:?}");
        }
    }
}
