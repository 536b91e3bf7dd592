//! quinn's congestion controllers under a ceiling, and BBR for paths that change.
//!
//! More than a class's send window can never be in flight, so a larger congestion window says nothing; but
//! quinn's pacer divides it by the round trip, and the window of an application that sends little grows
//! without bound (quinn#2798). Remove the ceiling when quinn has BBRv3 (quinn#2481).
//!
//! BBR's window is for the least round trip that there ever was. If the path is longer now, the window is at
//! least what [`PathEstimate`] says.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::path::PathEstimate;
use super::{ClassTuning, CongestionControl};

/// Makes the controllers of a class.
pub(super) struct CappedControllerFactory {
    inner: BaseController,
    ceiling: u64,
}

enum BaseController {
    Bbr(Arc<BbrConfig>),
    Cubic(Arc<CubicConfig>),
}

impl From<&ClassTuning> for CappedControllerFactory {
    fn from(tuning: &ClassTuning) -> Self {
        let inner = match tuning.congestion {
            CongestionControl::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(tuning.initial_window.into());
                BaseController::Bbr(Arc::new(config))
            }
            CongestionControl::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(tuning.initial_window.into());
                BaseController::Cubic(Arc::new(config))
            }
        };
        Self { inner, ceiling: tuning.send_window.into() }
    }
}

impl ControllerFactory for CappedControllerFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let (inner, path) = match &self.inner {
            BaseController::Bbr(config) => {
                (Arc::clone(config).build(now, current_mtu), Some(PathEstimate::default()))
            }
            BaseController::Cubic(config) => (Arc::clone(config).build(now, current_mtu), None),
        };
        Box::new(CappedController { inner, path, ceiling: self.ceiling, acknowledged: 0 })
    }
}

/// A controller whose window has a ceiling, and grows with the path.
struct CappedController {
    inner: Box<dyn Controller>,
    /// The path as the controller does not know it, if it needs to.
    path: Option<PathEstimate>,
    ceiling: u64,
    /// Number of packets that were acknowledged on this path.
    acknowledged: u64,
}

/// Number of packets that were acknowledged on a connection's path, as its controller knows.
pub(crate) fn acknowledged_packets(controller: Box<dyn Controller>) -> u64 {
    controller.into_any().downcast::<CappedController>().map_or(0, |capped| capped.acknowledged)
}

impl Controller for CappedController {
    fn window(&self) -> u64 {
        let window = self.inner.window();
        let Some(path) = &self.path else { return window.min(self.ceiling) };
        let longer = path.window().map(|needed| needed.max(self.inner.initial_window()));
        let window = window.max(longer.unwrap_or_default()).min(self.ceiling);
        // BBR's is twice what the path holds.
        if path.is_probing() { window / 2 } else { window }
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window().min(self.ceiling)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), ..*self })
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acknowledged += 1;
        if let Some(path) = &mut self.path {
            path.acknowledged((now, sent), bytes, app_limited, rtt.min());
        }
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuning::Tuning;

    fn build(
        congestion: CongestionControl,
        initial_window: u32,
        send_window: u32,
    ) -> Box<dyn Controller> {
        let tuning = ClassTuning {
            congestion,
            initial_window,
            send_window,
            ..Tuning::default().interactive
        };
        Arc::new(CappedControllerFactory::from(&tuning)).build(Instant::now(), 1200)
    }

    #[test]
    fn a_window_never_passes_the_ceiling() {
        for congestion in [CongestionControl::Bbr, CongestionControl::Cubic] {
            let free = build(congestion, 60_000, 1 << 20);
            assert_eq!(free.window(), 60_000);
            let mut capped = build(congestion, 60_000, 50_000);
            for n in 0..1000 {
                capped.on_sent(Instant::now(), 1200, n);
                assert_eq!(capped.window(), 50_000);
            }
            assert_eq!(capped.clone_box().window(), 50_000);
            assert_eq!(capped.metrics().congestion_window, 50_000);
        }
    }
}
