//! Shares out the memory that this process may have: buffers, connections and streams, a third for each.
//!
//! Peers decide how much of each they take, up to its bound. So the bounds have to fit into the memory limit of the
//! process's control group together, or two clusters that each keep to their own would have the kernel end it. Without
//! a limit the configured bounds hold as they are.

use adit_config::config::LimitsConfig;
use adit_transport::links::LinkSettings;

/// The memory of a process at rest, with the views of some clusters and the handshakes of strangers; an eighth of the
/// memory where that is less.
const AT_REST: u64 = 64 << 20;
/// The cost of one connection at its largest beside the budgets: what quinn and TLS keep (58 KiB, measured), and the
/// windows of one whose cluster's budget is spent.
const OF_CONNECTION: u64 = 128 << 10;
/// The cost of one stream: some 7 KiB (measured), and the rounding of what it holds.
const OF_STREAM: u64 = 8 << 10;
/// Of connections there are as many as this at least, or no link would work.
const LEAST_CONNECTIONS: usize = 64;

/// The bounds that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryShares {
    /// See [`LimitsConfig::process_buffer`].
    pub(super) process_buffer: u64,
    /// See [`LimitsConfig::peer_buffer`].
    pub(super) peer_buffer: u64,
    /// See [`LinkSettings::max_connections`]; those with siblings may be a quarter as many.
    pub(super) connections: usize,
}

/// The most of `wanted` streams that there is memory for.
pub(super) fn streams(limit: Option<u64>, wanted: usize) -> usize {
    limit.map_or(wanted, |limit| wanted.min(at_most(limit / 3, OF_STREAM)).max(1))
}

impl MemoryShares {
    /// The configured bounds, as far as there is memory for them.
    pub(super) fn fit(limit: Option<u64>, limits: &LimitsConfig, settings: &LinkSettings) -> Self {
        let (process_buffer, peer_buffer) = (limits.process_buffer, limits.peer_buffer);
        let connections = settings.max_connections;
        let Some(limit) = limit else { return Self { process_buffer, peer_buffer, connections } };
        let third = limit / 3;
        // Siblings have theirs beside those of linked clusters.
        let for_connections = third.saturating_sub(AT_REST.min(limit / 8)) / 5 * 4;
        let process_buffer = process_buffer.min(third);
        Self {
            process_buffer,
            peer_buffer: peer_buffer.min(process_buffer),
            connections: connections
                .min(at_most(for_connections, OF_CONNECTION))
                .max(LEAST_CONNECTIONS),
        }
    }

    /// Has the node keep to them, and says in the log what was taken.
    pub(super) fn apply(
        limit: Option<u64>,
        limits: &mut LimitsConfig,
        settings: &mut LinkSettings,
    ) {
        let fit = Self::fit(limit, limits, settings);
        let Self { process_buffer, peer_buffer, connections } = fit;
        let configured = (limits.process_buffer, limits.peer_buffer);
        (limits.process_buffer, limits.peer_buffer) = (process_buffer, peer_buffer);
        settings.max_connections = connections;
        if (process_buffer, peer_buffer) != configured {
            let (process, peer) = configured;
            tracing::warn!(
                limit,
                process_buffer,
                peer_buffer,
                "limits.processBuffer ({process}) and limits.peerBuffer ({peer}) do not fit the memory limit of this \
                 process, of which buffers have a third: less is taken; raise the limit, or set them lower"
            );
        }
        tracing::info!(
            limit,
            process_buffer,
            peer_buffer,
            connections,
            "memory is shared out among what peers may have"
        );
    }
}

fn at_most(bytes: u64, each: u64) -> usize {
    usize::try_from(bytes / each).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn all_that_peers_may_have_fits_the_memory_whatever_it_is() {
        for limit in [128, 256, 512, 768, 1024, 4096, 65_536].map(|n| n * MIB) {
            for wanted in [32, 256, 1 << 16] {
                let limits = LimitsConfig {
                    process_buffer: wanted * MIB,
                    peer_buffer: wanted * MIB / 2,
                    ..LimitsConfig::default()
                };
                let settings = LinkSettings::default();
                let fit = MemoryShares::fit(Some(limit), &limits, &settings);
                let connections = fit.connections as u64 * 5 / 4 * OF_CONNECTION;
                let streams = streams(Some(limit), 1 << 20) as u64 * OF_STREAM;
                let all = AT_REST.min(limit / 8) + fit.process_buffer + connections + streams;
                assert!(all <= limit + MIB, "{all} of {limit}: {fit:?}");
                assert!(fit.peer_buffer <= fit.process_buffer);
                assert!(fit.process_buffer <= limits.process_buffer);
            }
        }
    }

    #[test]
    fn the_shipped_memory_has_room_for_the_shipped_limits() {
        let (limits, settings) = (LimitsConfig::default(), LinkSettings::default());
        let fit = MemoryShares::fit(Some(768 * MIB), &limits, &settings);
        assert_eq!((fit.process_buffer, fit.peer_buffer), (256 * MIB, 32 * MIB));
        assert!(fit.connections >= 1_000, "{fit:?}");
        assert_eq!(streams(Some(768 * MIB), 32_768), 32_768);
        let free = MemoryShares::fit(None, &limits, &settings);
        assert_eq!((free.process_buffer, free.connections), (256 * MIB, settings.max_connections));
    }
}
