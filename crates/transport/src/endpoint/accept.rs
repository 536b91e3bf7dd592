//! Peers that knock: who is let in to a handshake, and what becomes of it.
//!
//! Anybody may send a first packet, from any address he likes to claim. So the number of handshakes
//! under way is bounded; beyond a part of that, strangers must first prove their address (Retry), of one
//! network only so many are let in, and
//! beyond all of it they are not answered. Every way in which an attempt ends is counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::snapshot::Class;
use adit_pki::VerifyError;
use quinn::ServerConfig;

use super::closed::Closed;
use super::connection::{Connection, Facts};
use super::{Endpoints, Shared};
use crate::cid;
use crate::tuning::Admission;

/// A peer that knocks, within the limits. Dropping it refuses.
#[derive(Debug)]
pub struct Incoming {
    quinn: quinn::Incoming,
    class: Class,
    place: Place,
    worker: usize,
    shared: Arc<Shared>,
}

/// Why a peer that knocked did not become a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The handshake took too long.
    #[error("the handshake did not end within {0:?}")]
    TimedOut(Duration),
    /// The handshake failed: a certificate that is not believed, no protocol in common, a peer that
    /// gave up.
    #[error("{0}")]
    Closed(Closed),
    /// The handshake succeeded and yet there is no readable identity; not met in practice.
    #[error("the peer's certificate cannot be read: {0}")]
    Identity(VerifyError),
}

impl Endpoints {
    /// The next peer that knocks at this worker, after the limits; `None` once the endpoints are
    /// closed. To be called in a loop, on the worker's own runtime; the handshake is for another task.
    /// Waits for ever where the node does not listen.
    pub async fn accept(&self, worker: usize) -> Option<Incoming> {
        let endpoints = self.0.servers.get(worker)?;
        loop {
            let quinn = match endpoints.as_slice() {
                [] => std::future::pending().await,
                [only] => only.accept().await,
                several => {
                    let each = several.iter().map(|endpoint| Box::pin(endpoint.accept()));
                    futures_util::future::select_all(each).await.0
                }
            }?;
            if let Some(incoming) = self.admit(worker, quinn) {
                return Some(incoming);
            }
            // A flood must not keep the worker from its connections.
            tokio::task::consume_budget().await;
        }
    }

    fn admit(&self, worker: usize, quinn: quinn::Incoming) -> Option<Incoming> {
        let (gate, bounds) = (&self.0.gate, &self.0.tuning.admission);
        let proved = quinn.remote_address_validated();
        if self.0.draining.load(Ordering::Relaxed) {
            gate.draining.fetch_add(1, Ordering::Relaxed);
            quinn.refuse();
        } else if !proved && gate.unproved.load(Ordering::Relaxed) >= bounds.retry_above {
            gate.retried.fetch_add(1, Ordering::Relaxed);
            // An address that is not proved can always be asked to; the error would be that it cannot.
            drop(quinn.retry());
        } else if let Some(place) = Gate::enter(gate, quinn.remote_address().ip(), proved, bounds) {
            let class = cid::class_of(&quinn.orig_dst_cid());
            return Some(Incoming { quinn, class, place, worker, shared: Arc::clone(&self.0) });
        } else {
            gate.busy.fetch_add(1, Ordering::Relaxed);
            // A peer sends it again, and there may be a place by then; anybody else is not owed an answer.
            quinn.ignore();
        }
        None
    }
}

impl Incoming {
    /// Where the peer claims to be.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        let address = self.quinn.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// [`AcceptError`], see there.
    pub async fn accept(self) -> Result<Connection, AcceptError> {
        let Self { quinn, class, place, worker, shared } = self;
        let epoch = shared.tls.verifier.epoch();
        let connected = shake_hands(quinn, class, &shared).await;
        // Whatever it came to, it is no handshake under way any more.
        drop(place);
        let counter = match &connected {
            Ok(_) => &shared.gate.accepted,
            Err(AcceptError::TimedOut(_)) => &shared.gate.timed_out,
            Err(AcceptError::Closed(_) | AcceptError::Identity(_)) => &shared.gate.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (quinn, peer) = connected?;
        let worker = shared.workers[worker].clone();
        let facts = Facts {
            id: shared.next_id(),
            class,
            dialled: false,
            worker,
            epoch,
            streams: shared.tuning.all_streams(),
            stream_window: shared.tuning.lane(class).stream_window,
        };
        Ok(Connection::new(quinn, peer, facts))
    }
}

async fn shake_hands(
    quinn: quinn::Incoming,
    class: Class,
    shared: &Shared,
) -> Result<(quinn::Connection, adit_pki::PeerIdentity), AcceptError> {
    let closed = |error| AcceptError::Closed(Closed::from_quinn(&error, None));
    let connecting = quinn.accept_with(shared.answers.of(class)).map_err(closed)?;
    let limit = shared.tuning.admission.timeout;
    let quinn = tokio::time::timeout(limit, connecting)
        .await
        .map_err(|_| AcceptError::TimedOut(limit))?
        .map_err(closed)?;
    let peer = super::dial::identity(&quinn).map_err(AcceptError::Identity)?;
    Ok((quinn, peer))
}

/// How peers are answered, by class.
pub(super) struct Answers {
    pub(super) interactive: Arc<ServerConfig>,
    pub(super) bulk: Arc<ServerConfig>,
}

impl Answers {
    fn of(&self, class: Class) -> Arc<ServerConfig> {
        Arc::clone(match class {
            Class::Interactive => &self.interactive,
            Class::Bulk => &self.bulk,
        })
    }
}

/// How many handshakes are under way, over all endpoints of a node, and what became of the others.
#[derive(Debug, Default)]
pub(super) struct Gate {
    handshakes: AtomicUsize,
    unproved: AtomicUsize,
    /// Of those that are proved, how many are from each network.
    sources: Mutex<HashMap<IpAddr, usize>>,
    pub(super) accepted: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) draining: AtomicU64,
}

impl Gate {
    /// A place among the handshakes under way, if one is free.
    fn enter(gate: &Arc<Self>, ip: IpAddr, proved: bool, bounds: &Admission) -> Option<Place> {
        let source = proved.then(|| network(ip));
        gate.unproved.fetch_add(usize::from(!proved), Ordering::Relaxed);
        let before = gate.handshakes.fetch_add(1, Ordering::Relaxed);
        let same = source.map_or(0, |source| {
            let mut sources = gate.sources();
            let same = sources.entry(source).or_insert(0);
            *same += 1;
            *same
        });
        // Registered first and checked after: dropping it gives the place back.
        let place = Place { gate: Arc::clone(gate), source };
        (before < bounds.handshakes && same <= bounds.per_source).then_some(place)
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn under_way(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }
}

/// One handshake under way.
#[derive(Debug)]
struct Place {
    gate: Arc<Gate>,
    /// Whence, where that is proved.
    source: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.handshakes.fetch_sub(1, Ordering::Relaxed);
        self.gate.unproved.fetch_sub(usize::from(self.source.is_none()), Ordering::Relaxed);
        if let Some(source) = self.source
            && let Entry::Occupied(mut same) = self.gate.sources().entry(source)
        {
            *same.get_mut() -= 1;
            if *same.get() == 0 {
                same.remove();
            }
        }
    }
}

/// What one owner of addresses has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_ipv6_are_one_source_and_in_ipv4_they_are_not() {
        let network = |ip: &str| network(ip.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:a::1"), network("2001:db8:1:2:b::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
