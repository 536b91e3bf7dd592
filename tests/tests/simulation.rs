//! Whole nodes in simulation: workloads, data path and links, with every byte and every end looked at.
//!
//! On a network in memory and a paused clock:
//!
//! * [`time`]: the first byte of an answer, an hour of silence, half-closes that last;
//! * [`ends`]: every order in which both sides close, reset or vanish; [`once`]: what may be sent again;
//! * [`pressure`]: readers that stall, windows, budgets; [`policy`]: who may, while it changes;
//! * [`probes`]: streams that only ask;
//! * [`hostile`]: headers of every bad kind, floods; [`hold`]: streams that wait for a backend; [`drain`]: nodes that go away; [`mod@start`]: nodes that come.
//!
//! Over turmoil, with seeds: [`faults`].

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

#[path = "simulation/drain.rs"]
mod drain;
#[path = "simulation/ends.rs"]
mod ends;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/hold.rs"]
mod hold;
#[path = "simulation/hostile.rs"]
mod hostile;
#[path = "simulation/once.rs"]
mod once;
#[path = "simulation/policy.rs"]
mod policy;
#[path = "simulation/pressure.rs"]
mod pressure;
#[path = "simulation/probes.rs"]
mod probes;
#[path = "simulation/start.rs"]
mod start;
#[path = "simulation/time.rs"]
mod time;

use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
