//! An attempt to dial: names are resolved and addresses raced.
//!
//! Owns the dialler's endpoints and what became of earlier attempts. A QUIC connection that is made goes to
//! the caller, which exchanges hellos on it and says whether it is the one that was wanted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::{Class, Seed};
use adit_core::spiffe::TrustDomain;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use super::history::{DialFailure, DialHistory, REFUSED_HERE_PREFIX, REFUSED_THERE_PREFIX};
use super::in_flight::InFlightDials;
use crate::endpoint::{CloseReason, DialError, DialRequest, Endpoints, QuicConnection};
use crate::links::certificate_refusal::refusal_code;
use crate::links::connections::PeerConnection;
use crate::links::metrics::LinkMetrics;

/// While one address does not answer, the next is tried beside it (RFC 8305 §5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The time that the resolver has for a name, from when it is asked.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// More addresses than this are not tried in one attempt.
pub(crate) const MAX_ADDRESSES: usize = 32;

/// The dialler of a node.
#[derive(Debug)]
pub(crate) struct Dialer {
    endpoints: Endpoints,
    metrics: LinkMetrics,
    pub(crate) history: DialHistory,
    pub(crate) in_flight: Arc<InFlightDials>,
}

/// The target of an attempt.
pub(crate) struct DialTarget<'a> {
    pub(crate) cluster: &'a ClusterName,
    /// The node that must answer; any node of the cluster if `None`.
    pub(crate) node: Option<&'a NodeName>,
    /// The trust domain of the certificate that must be shown. Without one no dial can succeed.
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) class: Class,
    pub(crate) worker: usize,
    pub(crate) slot: u64,
}

/// The address that failed, and how.
pub(crate) type AddressFailure = (String, DialFailure);

impl Dialer {
    pub(crate) fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            metrics: LinkMetrics,
            history: DialHistory::default(),
            in_flight: Arc::default(),
        }
    }

    /// The addresses of all seeds. A name is asked for anew each time; while there is no answer the last
    /// one counts. Names without any are added to `failures`.
    pub(crate) async fn resolve(
        &self,
        seeds: &[Seed],
        failures: &mut Vec<AddressFailure>,
    ) -> Vec<SocketAddr> {
        let each = seeds.iter().map(async |seed| match seed {
            Seed::Address(address) => Ok(vec![*address]),
            Seed::Name { host, port } => {
                let asked = timeout(RESOLVE_TIMEOUT, self.endpoints.resolve(host, *port)).await;
                let answer = match asked {
                    Ok(Ok(addresses)) if addresses.is_empty() => Err("no addresses".to_owned()),
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => {
                        Err(format!("the resolver did not answer within {RESOLVE_TIMEOUT:?}"))
                    }
                };
                let text = answer.as_ref().err().cloned().unwrap_or_default();
                let known = self.history.record_resolved((host.clone(), *port), answer.ok());
                let failure = DialFailure::new(Code::LinkDown, text);
                known.ok_or_else(|| (seed.to_string(), failure))
            }
        });
        let mut addresses = Vec::new();
        for answer in join_all(each).await {
            match answer {
                Ok(some) => addresses.extend(some),
                Err(failed) => failures.push(failed),
            }
        }
        addresses
    }

    /// Makes one attempt, and records its result. `establish` makes a connection of one that answered, or
    /// says why it is not the one that is wanted; then the next address is tried. `failures` are those of
    /// names that could not be resolved.
    pub(crate) async fn attempt<F>(
        &self,
        target: &DialTarget<'_>,
        mut addresses: Vec<SocketAddr>,
        mut failures: Vec<AddressFailure>,
        establish: impl Fn(QuicConnection) -> F,
    ) -> Result<Arc<PeerConnection>, DialFailure>
    where
        F: Future<Output = Result<Arc<PeerConnection>, DialFailure>>,
    {
        addresses.truncate(MAX_ADDRESSES);
        // All addresses and the hello together have as long as one handshake.
        let within = self.endpoints.tuning().handshakes.timeout;
        let raced = timeout(within, self.race(target, &addresses, &mut failures, establish)).await;
        let result = match raced {
            Ok(Some(conn)) => Ok(conn),
            Ok(None) => Err(attempt_failure(target, &addresses, failures, None)),
            Err(_) => Err(attempt_failure(target, &addresses, failures, Some(within))),
        };
        let cluster = target.cluster;
        self.history.record_attempt(cluster, result.as_ref().map(drop));
        self.metrics.dialled(cluster, result.as_ref().map(drop).map_err(|f| f.code));
        match &result {
            Ok(conn) => {
                tracing::debug!(peer = %conn.peer.id, remote = %conn.peer.remote, "dialled");
            }
            Err(failure) => tracing::debug!(%cluster, error = %failure, "dial failed"),
        }
        result
    }

    /// Dials one address after the other, each beside those that have not answered yet. The first that
    /// answers as the right peer wins; nobody else ever receives a hello. `None` if all failed.
    async fn race<F>(
        &self,
        target: &DialTarget<'_>,
        addresses: &[SocketAddr],
        failures: &mut Vec<AddressFailure>,
        establish: impl Fn(QuicConnection) -> F,
    ) -> Option<Arc<PeerConnection>>
    where
        F: Future<Output = Result<Arc<PeerConnection>, DialFailure>>,
    {
        let trust_domain = target.trust_domain.as_ref()?;
        let dial = |address: SocketAddr| async move {
            let request = DialRequest { address, trust_domain, class: target.class };
            (address, self.endpoints.dial(target.worker, request).await)
        };
        let mut queue = addresses.iter().copied();
        let mut under_way = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            let more = queue.len() > 0;
            if !more && under_way.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                Some(answer) = under_way.next() => {
                    let (address, dialled): (SocketAddr, _) = answer;
                    let ready = match dialled {
                        Ok(quic) => establish(quic).await,
                        Err(error) => Err(DialFailure::from(error)),
                    };
                    match ready {
                        Ok(conn) => return Some(conn),
                        Err(failure) => failures.push((address.to_string(), failure)),
                    }
                    next = Instant::now();
                }
                () = sleep_until(next), if more => {
                    under_way.extend(queue.next().map(dial));
                    next = Instant::now() + CONNECTION_ATTEMPT_DELAY;
                }
            }
        }
    }
}

impl DialFailure {
    /// The failure of a dial in which one side refused the other's certificate, if that ended the connection.
    pub(crate) fn of_certificate(closed: &CloseReason) -> Option<Self> {
        let (code, why) = closed.refused_certificate()?;
        let prefix =
            if code == Code::RefusedByPeer { REFUSED_THERE_PREFIX } else { REFUSED_HERE_PREFIX };
        Some(Self::new(refusal_code(code, why), format!("{prefix}{why}")))
    }
}

impl From<DialError> for DialFailure {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::Closed(closed) => {
                if let Some(failure) = Self::of_certificate(closed) {
                    return failure;
                }
            }
            DialError::TimedOut(_) => {
                return Self { is_silent: true, ..Self::new(error.code(), error.to_string()) };
            }
            DialError::Socket(_)
            | DialError::Address(_)
            | DialError::TooManyPieces
            | DialError::WrongCluster { .. }
            | DialError::Identity(_) => {}
        }
        Self::new(error.code(), error.to_string())
    }
}

/// The result of a failed attempt: the code of the first failure, and what each address said.
fn attempt_failure(
    target: &DialTarget<'_>,
    addresses: &[SocketAddr],
    failures: Vec<AddressFailure>,
    silent_for: Option<Duration>,
) -> DialFailure {
    // The hello may be what was waited for.
    let is_silent = !addresses.is_empty() && failures.iter().all(|(_, f)| f.is_silent);
    let mut texts: Vec<String> = failures.iter().map(|(a, f)| format!("{a}: {}", f.text)).collect();
    if let Some(silent_for) = silent_for {
        let answered = |a: &SocketAddr| failures.iter().any(|(other, _)| *other == a.to_string());
        let silent = addresses.iter().filter(|a| !answered(a));
        texts.extend(silent.map(|a| format!("{a}: no answer within {silent_for:?}")));
    }
    if texts.is_empty() {
        texts.push(match target.node {
            Some(node) => format!("there is no address at which node {node} can be dialled"),
            None => format!("no seed of {} has an address", target.cluster),
        });
    }
    let code = failures.first().map_or(Code::LinkDown, |(_, f)| f.code);
    DialFailure { is_silent, ..DialFailure::new(code, texts.join("; ")) }
}
