//! Streams that local workloads open in vain: bounded here, before a peer counts them.
//!
//! A peer counts by node what was reset before it answered, or asked for without a right, and sends a node
//! away that does much of it; it knows no better. So a workload that connects and resets without end would
//! take the imports of all others on its node. The node keeps within what a peer never takes amiss, and each
//! namespace within its part of that: new connections from a namespace that has spent its part are refused
//! until it has been quiet for as long as it owes.

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::code::Code;
use adit_core::name::{ClusterName, Namespace};
use adit_runtime::Mutex;
use adit_transport::links::{ServeOutcome, TOLERATED_RATE};
use tokio::time::Instant;

use super::failure::FlowFailure;

/// The streams that all workloads of a node may open in vain: three quarters of what a peer allows each connection
/// whatever a node's siblings do.
const ALLOWED: RateLimit = RateLimit {
    burst: TOLERATED_RATE.burst / 4 * 3,
    per_second: TOLERATED_RATE.per_second / 4 * 3,
};
/// A stream that was given up later, and unanswered, is a caller that ran out of patience.
pub(super) const FUTILE_LIFETIME: Duration = Duration::from_secs(10);
/// The most that a namespace owes: it may have opened thousands before the first came to nothing.
const MAX_DEBT_DELAY: Duration = Duration::from_secs(60);

/// A namespace, and the cluster at which it opens streams in vain. Refusals of one cluster have no bearing on streams
/// to another, or it could have those refused by refusing its own.
type Debtor = (ClusterName, Namespace);

/// The debts of a node's namespaces.
#[derive(Debug)]
pub(super) struct FutileStreams {
    began: Instant,
    /// When each will owe nothing, and how its last stream ended. No more than there are linked clusters and
    /// namespaces with workloads here.
    quit_at: Mutex<HashMap<Debtor, Debt>>,
}

/// The debt of a namespace at a cluster.
#[derive(Debug, Clone, Copy)]
struct Debt {
    until: Duration,
    /// The last stream's end, which the refusals that follow from it must not hide.
    last: Code,
}

impl FutileStreams {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), quit_at: Mutex::default() }
    }

    /// Decides if a workload of that namespace may open a stream to that cluster now.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(super) fn admit(&self, debtor: &Debtor) -> Result<(), FlowFailure> {
        let (now, all) = (self.began.elapsed(), self.all());
        let last = all.get(debtor).map(|debt| debt.last);
        let debt = all.get(debtor).map(|debt| debt.until.saturating_sub(now));
        let (cluster, namespace) = debtor;
        let sharers = all.iter().filter(|((c, _), debt)| c == cluster && debt.until > now).count();
        let burst = usize::try_from(ALLOWED.burst).unwrap_or(1) / sharers.max(1);
        let most = each(sharers).saturating_mul(u32::try_from(burst.max(1)).unwrap_or(1));
        match debt.filter(|debt| *debt >= most) {
            None => Ok(()),
            Some(debt) => {
                let seconds = (debt - most).as_secs() + 1;
                let cause = match last {
                    Some(Code::OverLimit) => format!(
                        "{cluster} refuses further streams, since a limit of {cluster} is reached, and workloads in \
                         namespace {namespace} ask on"
                    ),
                    _ => format!(
                        "workloads in namespace {namespace} reset connections to {cluster} without an answer, or ask \
                         for what they may not have there, too often"
                    ),
                };
                let reason = format!("{cause}; new ones are refused for {seconds} s");
                Err(FlowFailure::new(Code::OverLimit, reason))
            }
        }
    }

    /// A stream for a workload of that namespace came to nothing at that cluster, with this code.
    pub(super) fn note(&self, debtor: &Debtor, code: Code) {
        let (now, mut all) = (self.began.elapsed(), self.all());
        all.retain(|_, debt| debt.until > now);
        let is_new = !all.contains_key(debtor);
        let sharers = all.keys().filter(|(cluster, _)| *cluster == debtor.0).count();
        let debt = all.entry(debtor.clone()).or_insert(Debt { until: now, last: code });
        let owed = each(sharers + usize::from(is_new));
        debt.until = (debt.until.max(now) + owed).min(now + MAX_DEBT_DELAY);
        debt.last = code;
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Debtor, Debt>> {
        self.quit_at.lock()
    }
}

/// The time that it takes one of so many namespaces to make good for one stream.
fn each(sharers: usize) -> Duration {
    let sharers = u32::try_from(sharers.max(1)).unwrap_or(u32::MAX);
    Duration::from_secs(1).saturating_mul(sharers) / ALLOWED.per_second.max(1)
}

/// True if a peer counts a stream that ended so, unanswered, after so long, as opened in vain.
pub(super) fn is_futile(code: Code, after: Duration) -> bool {
    let gave_up = code == Code::SourceReset && after < FUTILE_LIFETIME;
    gave_up || matches!(ServeOutcome::refused(code), ServeOutcome::InVain(_))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn namespace(name: &str) -> Debtor {
        ("bank".parse().unwrap(), name.parse().unwrap())
    }

    /// The number of streams in vain, of so many that each end before the next, that reach the wire.
    fn storm(vain: &FutileStreams, of: &str, streams: u32) -> u32 {
        (0..streams)
            .filter(|_| {
                vain.admit(&namespace(of)).map(|()| vain.note(&namespace(of), Code::Denied)).is_ok()
            })
            .count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_stays_below_what_a_peer_takes_amiss_and_others_go_on() {
        let vain = FutileStreams::new();
        let mut reached = 0;
        for _ in 0..1000 {
            reached += storm(&vain, "evil", 50);
            assert_eq!(vain.admit(&namespace("good")), Ok(()));
            advance(Duration::from_millis(10)).await;
        }
        assert!(reached <= ALLOWED.burst + 10 * ALLOWED.per_second + 1, "{reached}");
        assert!(reached >= 10 * ALLOWED.per_second);
        storm(&vain, "evil", 50);
        let elsewhere = ("shop".parse().unwrap(), "evil".parse().unwrap());
        assert_eq!(vain.admit(&elsewhere), Ok(()), "what one cluster refuses counts at no other");
        let refused = vain.admit(&namespace("evil")).unwrap_err();
        assert_eq!(refused.code, Code::OverLimit);
        assert!(refused.reason.contains("namespace evil"), "{}", refused.reason);
        advance(Duration::from_secs(5)).await;
        assert_eq!(vain.admit(&namespace("evil")), Ok(()), "after a while it may again");
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_that_do_it_together_have_no_more_and_owe_no_more_than_a_minute() {
        let vain = FutileStreams::new();
        let mut reached = 0;
        for _ in 0..200 {
            reached += (0..20).map(|n| storm(&vain, &format!("evil-{n}"), 20)).sum::<u32>();
            advance(Duration::from_millis(100)).await;
        }
        // Whoever comes first knows of nobody else yet.
        assert!(reached <= 4 * ALLOWED.burst + 20 * ALLOWED.per_second, "{reached}");
        for _ in 0..100_000 {
            vain.note(&namespace("many-at-once"), Code::Denied);
        }
        assert!(vain.admit(&namespace("many-at-once")).is_err());
        advance(MAX_DEBT_DELAY).await;
        assert_eq!(vain.admit(&namespace("many-at-once")), Ok(()));
        vain.note(&namespace("many-at-once"), Code::Denied);
        assert_eq!(vain.all().len(), 1, "who owes nothing is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_the_other_cluster_is_named_as_the_cause() {
        let (vain, debtor) = (FutileStreams::new(), namespace("busy"));
        while vain.admit(&debtor).is_ok() {
            vain.note(&debtor, Code::OverLimit);
        }
        let reason = vain.admit(&debtor).unwrap_err().reason;
        assert!(
            reason.starts_with("bank refuses further streams, since a limit of bank"),
            "{reason}"
        );
        vain.note(&debtor, Code::Denied);
        let reason = vain.admit(&debtor).unwrap_err().reason;
        assert!(reason.starts_with("workloads in namespace busy reset"), "{reason}");
    }

    #[test]
    fn callers_that_wait_and_services_that_fail_are_not_in_vain() {
        let early = Duration::from_secs(1);
        assert!(is_futile(Code::SourceReset, early) && is_futile(Code::Denied, early));
        assert!(!is_futile(Code::SourceReset, FUTILE_LIFETIME));
        for code in [Code::Finished, Code::BackendRefused, Code::NoBackend, Code::LinkDown] {
            assert!(!is_futile(code, early), "{code:?}");
        }
    }
}
