//! Services of linked clusters that are used here.
//!
//! * `decide` says which (`decision` has the words for it), from rules, annotations and links: `callers` may use them,
//!   `quota` bounds what one cluster gets unasked, `withdrawn` and `unused` remember what is told of exports.
//! * `plan` plans the objects of each import (`subject`): Import, Service and `slices`. `allocation` gives it `addresses`
//!   and `ports`, `verdict` says how it is, and `release` ends it.

mod addresses;
mod agents;
mod allocation;
mod callers;
mod decide;
mod decision;
mod plan;
mod ports;
mod quota;
mod release;
mod slices;
mod subject;
mod unused;
mod verdict;
mod withdrawn;

pub(super) use self::decide::{ImportHistory, decide};
pub(super) use self::decision::{ImportDecisions, ImportFacts};
pub(super) use self::plan::plan_imports;
pub(super) use self::verdict::ReadinessHistory;
