//! Conditions of our objects, and how they change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{Condition, truncated};

/// Value of a condition: true or false, with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConditionVerdict {
    pub(super) good: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl ConditionVerdict {
    pub(super) fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self { good: true, reason, message: message.into() }
    }

    pub(super) fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self { good: false, reason, message: message.into() }
    }
}

/// Returns `conditions` with the one of type `kind` set. Its transition time stays while its status
/// does.
pub(super) fn set(
    conditions: &[Condition],
    kind: &str,
    verdict: &ConditionVerdict,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let status = if verdict.good { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.type_ == kind);
    let since = before.filter(|c| c.status == status).map_or(now, |c| &c.last_transition_time);
    let fresh = Condition {
        type_: kind.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: truncated(&verdict.message).into_owned(),
        last_transition_time: since.clone(),
        observed_generation: generation,
    };
    let mut all: Vec<Condition> = conditions.iter().filter(|c| c.type_ != kind).cloned().collect();
    all.push(fresh);
    all.sort_by(|a, b| a.type_.cmp(&b.type_));
    all
}

/// Returns `conditions` without the one of type `kind`.
pub(super) fn clear(conditions: &[Condition], kind: &str) -> Vec<Condition> {
    conditions.iter().filter(|c| c.type_ != kind).cloned().collect()
}

/// Returns the condition of type `kind`.
pub(super) fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}
