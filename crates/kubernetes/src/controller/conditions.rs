//! Conditions: what is said of an object, and since when.

use super::exports::ConditionVerdict;
use crate::api::{Condition, truncated};

/// `conditions` with the one of `kind` set. Its time stays while its status does.
pub(super) fn set(
    conditions: &[Condition],
    kind: &str,
    verdict: &ConditionVerdict,
    generation: Option<i64>,
    now: &str,
) -> Vec<Condition> {
    let status = if verdict.good { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.kind == kind);
    let since = before.filter(|c| c.status == status).map_or(now, |c| &c.last_transition_time);
    let fresh = Condition {
        kind: kind.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: truncated(&verdict.message).to_owned(),
        last_transition_time: since.into(),
        observed_generation: generation.unwrap_or_default(),
    };
    let mut all: Vec<Condition> = conditions.iter().filter(|c| c.kind != kind).cloned().collect();
    all.push(fresh);
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    all
}

/// `conditions` without the one of `kind`.
pub(super) fn clear(conditions: &[Condition], kind: &str) -> Vec<Condition> {
    conditions.iter().filter(|c| c.kind != kind).cloned().collect()
}

/// The one of `kind`.
pub(super) fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind)
}
