//! Streams that wait for the first backend of an export, counted by export and cluster.
//!
//! Each cluster has a count of its own, so none of them keeps another's first request from waiting. What a
//! stream has sent meanwhile is charged to its cluster like that of any other stream.

use std::collections::HashMap;

use adit_core::name::{ClusterName, ServiceName};
use adit_core::snapshot::HoldLimits;
use adit_runtime::{Mutex, count_down};

type HoldKey = (ServiceName, ClusterName);

/// The streams that wait on this node.
#[derive(Debug, Default)]
pub(crate) struct HeldStreams(Mutex<HashMap<HoldKey, usize>>);

/// A stream that waits, for as long as this guard lives.
#[derive(Debug)]
pub(crate) struct HeldStream<'a> {
    all: &'a HeldStreams,
    key: HoldKey,
}

impl HeldStreams {
    /// Counts one more, if the limits allow it.
    pub(crate) fn begin(
        &self,
        service: &ServiceName,
        cluster: &ClusterName,
        limits: HoldLimits,
    ) -> Option<HeldStream<'_>> {
        let key = (service.clone(), cluster.clone());
        let mut held = self.0.lock();
        let count = held.get(&key).copied().unwrap_or_default();
        if count >= limits.streams as usize {
            return None;
        }
        held.insert(key.clone(), count + 1);
        Some(HeldStream { all: self, key })
    }
}

impl Drop for HeldStream<'_> {
    fn drop(&mut self) {
        count_down(&mut self.all.0.lock(), &self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cluster_does_not_take_the_places_of_another() {
        let held = HeldStreams::default();
        let limits = HoldLimits { streams: 2, ..HoldLimits::default() };
        let service = "agents/bot".parse().unwrap();
        let (edge, lab) = ("edge".parse().unwrap(), "lab".parse().unwrap());
        let two: Vec<_> = (0..3).filter_map(|_| held.begin(&service, &edge, limits)).collect();
        assert_eq!(two.len(), 2);
        assert!(held.begin(&service, &lab, limits).is_some());
        drop(two);
        assert!(held.0.lock().is_empty(), "no name is kept");
    }
}
