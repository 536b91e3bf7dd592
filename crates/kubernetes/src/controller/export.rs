//! Services of this cluster that others may use.
//!
//! * `decide` says which, from rules and `annotations`, within `limits` and `quota`; `offer` has the words for it.
//! * `aliases` says who has a name that several ask for; `alias_service` plans a Service of such a name.
//! * `external_name` follows a Service that leads to another one.
//! * `plan` plans the Export objects and their conditions; `readiness` says whether backends answer.

mod alias_service;
mod aliases;
mod annotations;
mod decide;
mod external_name;
mod limits;
mod offer;
mod plan;
mod quota;
mod readiness;

pub(super) use self::decide::{decide, wanted_exports};
#[cfg(test)]
pub(super) use self::limits::NAMESPACE_EXPORTS;
pub(super) use self::limits::describe_left_out;
pub(super) use self::offer::{ExportDecisions, ExportOrigin};
pub(super) use self::plan::plan_exports;
pub(super) use self::readiness::ExportHistory;
