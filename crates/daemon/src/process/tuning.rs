//! From the operator's limits to the transport's numbers.

use adit_config::config::LimitsConfig;
use adit_transport::Tuning;

/// The file's limits, over the transport's defaults for those that it does not name.
#[must_use]
pub fn tuning(limits: &LimitsConfig) -> Tuning {
    let mut tuning = Tuning::default();
    // The file's bounds keep both within 32 bits.
    tuning.interactive.stream_window = u32::try_from(limits.interactive_window).unwrap_or(u32::MAX);
    tuning.bulk.stream_window = u32::try_from(limits.bulk_window).unwrap_or(u32::MAX);
    // What is sent and not yet acknowledged fills at least one stream's window.
    tuning.interactive.send_window =
        tuning.interactive.send_window.max(tuning.interactive.stream_window);
    tuning.bulk.send_window = tuning.bulk.send_window.max(tuning.bulk.stream_window);
    tuning.streams = limits.streams_per_connection;
    tuning.keep_alive = limits.keep_alive;
    tuning.idle_timeout = limits.idle_timeout();
    tuning.mtu.initial = limits.mtu.initial;
    tuning.mtu.max = limits.mtu.max;
    tuning.handshakes.timeout = limits.dial_timeout;
    tuning
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_config::config::MtuConfig;
    use std::time::Duration;

    #[test]
    fn the_files_limits_arrive() {
        let limits = LimitsConfig {
            interactive_window: 64 << 20,
            keep_alive: Duration::from_secs(4),
            mtu: MtuConfig { max: 6500, ..MtuConfig::default() },
            ..LimitsConfig::default()
        };
        let tuning = tuning(&limits);
        assert_eq!(
            (tuning.interactive.stream_window, tuning.interactive.send_window),
            (64 << 20, 64 << 20)
        );
        assert_eq!((tuning.keep_alive.as_secs(), tuning.idle_timeout.as_secs()), (4, 8));
        assert_eq!((tuning.mtu.initial, tuning.mtu.max), (1200, 6500));
        assert_eq!(
            tuning.bulk,
            adit_transport::tuning::ClassTuning {
                stream_window: 8 << 20,
                ..Tuning::default().bulk
            }
        );
    }
}
