//! The context that links get from their process: a boot ID, random numbers and the clock.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use adit_transport::links::{LinkContext, LinkSettings};
use adit_transport::peer::BootId;

/// The context of a process of this boot ID, with the system's random numbers and clock.
pub(crate) fn link_context(boot: BootId) -> LinkContext {
    let (random, clock) = (Arc::new(random), Arc::new(unix_ms));
    LinkContext { boot, random, clock, settings: LinkSettings::default() }
}

fn random() -> u64 {
    // The system's source cannot fail once it has given the boot ID; jitter may be zero all the same.
    getrandom::u64().unwrap_or_default()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
