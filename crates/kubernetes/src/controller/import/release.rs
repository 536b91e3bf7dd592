//! Release of imports that nobody wants any more.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::withdrawn::SERVED;
use crate::api::{Import, ObjectStatus};
use crate::controller::conditions::{self, ConditionVerdict};
use crate::controller::plan::{ObjectChange, PlanInput};

/// Time for which the addresses of a released import stay reserved, from its release.
const ADDRESS_REST_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// Plans what becomes of an import that nobody wants any more.
pub(crate) fn plan_release(
    stored: &Arc<Import>,
    why: Option<&ConditionVerdict>,
    input: &PlanInput<'_>,
) -> Option<ObjectChange<Import>> {
    let since = stored.spec.released_at.as_ref().and_then(|t| t.parse::<Timestamp>().ok());
    match since {
        Some(since) if input.clock.duration_since(since) >= ADDRESS_REST_LIFETIME => {
            Some(ObjectChange::Delete(stored.clone()))
        }
        Some(_) => released_status(stored, why, input),
        None => {
            let mut object = (**stored).clone();
            object.spec.released_at = Some(input.timestamp());
            Some(ObjectChange::Replace(Box::new(object)))
        }
    }
}

/// Plans the status of a released import.
fn released_status(
    stored: &Import,
    why: Option<&ConditionVerdict>,
    input: &PlanInput<'_>,
) -> Option<ObjectChange<Import>> {
    let before = ObjectStatus::conditions(stored.status.as_ref());
    let message =
        format!("{} does not export it to us, or nothing here asks for it", stored.spec.from);
    let verdict = why.cloned().unwrap_or_else(|| ConditionVerdict::bad("Released", message));
    let fresh = conditions::clear(&conditions::clear(before, "Conflict"), SERVED);
    let fresh =
        conditions::set(&fresh, "Ready", &verdict, stored.metadata.generation, &input.time());
    (fresh != before).then(|| {
        let status = Some(ObjectStatus { conditions: fresh });
        ObjectChange::Status(Box::new(Import { status, ..stored.clone() }))
    })
}
