//! Pieces of streams that cannot be put together, and whoever sends many of them.
//!
//! quinn keeps what arrives of a stream in order, up to a thousand pieces with gaps between them, and sorts all of them
//! again whenever they hold on to too much memory (0.11.19): each piece that comes then costs three microseconds of a
//! worker (measured), and a datagram carries a hundred. So what arrives is compared with what is taken. Each piece that
//! is taken was one, and pieces of [`MIN_PIECE`](super::pieces::MIN_PIECE) bytes are never too many; all others are
//! counted, for each connection and each cluster. An honest peer has hardly any: what is sent again after a loss, and
//! what a reader that stalls left until it was joined. A connection with many is ended; and since the next one costs a
//! handshake alone, its cluster's new connections are refused for a while
//! ([`BAR_BACKOFF`](super::pieces::BAR_BACKOFF)), longer each time.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::code::Code;
use tokio::time::sleep;

use super::inner::LinksInner;
use super::pieces::PiecesInVain;

/// The interval between two checks. A worker takes 160 datagrams of a connection at once.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The pieces in vain of one connection. Of 20,000 small pieces a second on a path that loses a tenth, 2,000 come
/// again.
const ALLOWED_OF_CONNECTION: RateLimit = RateLimit { burst: 32_768, per_second: 2_048 };
/// Those of all connections of a cluster.
const ALLOWED_OF_CLUSTER: RateLimit = RateLimit { burst: 131_072, per_second: 8_192 };
/// A connection with no more than this is not ended, even if its cluster has spent its allowance.
const NEVER_ENDED_WITHIN: u64 = 1_024;
const TOO_MANY: &str = "too many pieces of streams came that cannot be put together";

/// Looks at all connections until everything has ended.
pub(super) async fn watch(shared: Arc<LinksInner>) {
    loop {
        sleep(CHECK_INTERVAL).await;
        for conn in shared.connections.each() {
            let counts = conn.quic.piece_counts();
            let in_vain = conn.pieces.lock().update(counts, ALLOWED_OF_CONNECTION);
            let Some(PiecesInVain { new, debt, is_over }) = in_vain else { continue };
            let cluster_is_over =
                shared.peers.misuse.add_pieces(&conn.peer.cluster, new, ALLOWED_OF_CLUSTER);
            if is_over || (cluster_is_over && debt > NEVER_ENDED_WITHIN) {
                shared.peers.misuse.record_pieces(&conn.peer);
                tracing::warn!(peer = %conn.peer.id, debt, "connection ended: {TOO_MANY}");
                conn.quic.close(Code::ProtocolError, TOO_MANY);
            }
        }
    }
}
