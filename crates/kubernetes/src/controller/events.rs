//! Events: warnings for operators, written once and not in each pass, and again while they last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_runtime::Tasks;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::plan::ObjectWarning;
use super::request::with_timeout;
use crate::api::truncated;

/// Most Events that wait to be written: a wrong rule for a thousand Services must not become a
/// flood.
const MAX_PENDING: usize = 50;
/// From an Event of a lasting warning to the next one of it. Kubernetes keeps an Event for an hour.
const RENEW_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// The interval at which a warning that ends and comes back is written in the long run: a tenant that makes it come
/// and go must not get as many Events as he likes.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Number of Events of such a warning that are written without that interval: of two faults with one cause that
/// follow each other both are told at once.
const REPEAT_BURST: u32 = 3;
/// From a failed write of an Event to the next attempt.
const RETRY_BACKOFF: Duration = Duration::from_secs(20);

/// Events about the objects of one namespace, and log lines about them: a tenant may have thousands of Services that are
/// wrong, and word what is wrong with each anew as often as he writes. The rest is written as time passes.
const ALLOWED_OF_NAMESPACE: RateLimit = RateLimit { burst: 50, per_second: 1 };

/// The object of a warning, its reason, and its cause if it has one.
type WarningKey = (Option<String>, Option<String>, Option<String>, String, Option<String>);

fn warning_key(complaint: &ObjectWarning) -> WarningKey {
    let ObjectWarning { about, reason, cause, .. } = complaint;
    let (kind, namespace) = (about.kind.clone(), about.namespace.clone());
    (kind, namespace, about.name.clone(), reason.clone(), cause.clone())
}

/// Writes Events, and reports of each whether it was written.
async fn write_events(
    client: Client,
    instance: String,
    mut posted: mpsc::Receiver<ObjectWarning>,
    written: mpsc::Sender<(ObjectWarning, bool)>,
) {
    while let Some(complaint) = posted.recv().await {
        let (namespace, event) = warning_event(&instance, &complaint);
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let done = with_timeout(api.create(&PostParams::default(), &event)).await;
        if let Err(error) = &done {
            tracing::debug!(%error, reason = event.reason, "an Event could not be written");
        }
        if written.send((complaint, done.is_ok())).await.is_err() {
            return;
        }
    }
}

/// State of one warning.
struct ReportedWarning {
    complaint: ObjectWarning,
    since: Instant,
    /// True if an Event was written.
    written: bool,
    /// True if the last pass had it.
    lasts: bool,
    /// The time at which it may be written as often at once as one that never was.
    repaid_at: Instant,
    /// When to write the next Event; `None` while one is being written.
    next: Option<Instant>,
}

/// Writes Events, and remembers which warnings were written.
pub(super) struct EventReporter {
    post: mpsc::Sender<ObjectWarning>,
    written: mpsc::Receiver<(ObjectWarning, bool)>,
    topics: BTreeMap<WarningKey, ReportedWarning>,
    began: Instant,
    /// By namespace, of those with warnings.
    rates: BTreeMap<Option<String>, NamespaceRate>,
}

/// The rates of what is written about the objects of one namespace.
#[derive(Debug, Default)]
struct NamespaceRate {
    events: TokenBucket,
    lines: TokenBucket,
}

impl EventReporter {
    /// Returns a reporter whose Events are written by one of `tasks`, so that no pass waits for
    /// them.
    pub(super) fn new(client: Client, instance: String, tasks: &mut Tasks) -> Self {
        let (post, posted) = mpsc::channel(MAX_PENDING);
        let (say, written) = mpsc::channel(MAX_PENDING);
        tasks.spawn("writing Events", write_events(client, instance, posted, say));
        Self::with(post, written)
    }

    fn with(
        post: mpsc::Sender<ObjectWarning>,
        written: mpsc::Receiver<(ObjectWarning, bool)>,
    ) -> Self {
        let (topics, rates) = (BTreeMap::new(), BTreeMap::new());
        Self { post, written, topics, began: Instant::now(), rates }
    }

    /// Writes what is new among the present warnings, and again what lasts. A warning that has
    /// ended may be written again later. One that could not be written yet still is, though it is
    /// over: a refused certificate, for instance, is a warning for one pass only.
    pub(super) fn report(&mut self, complaints: &[ObjectWarning]) {
        let (now, since) = (Instant::now(), self.began.elapsed());
        self.count_written(now);
        let mut lasting = BTreeSet::new();
        for complaint in complaints {
            let ObjectWarning { about, reason, cause, note } = complaint;
            let topic = warning_key(complaint);
            lasting.insert(topic.clone());
            // What has a cause keeps its first words for as long as it lasts.
            let is_news =
                |before: &ReportedWarning| cause.is_none() && before.complaint.note != *note;
            let before = self.topics.get(&topic);
            let repaid_at = before.map_or(now, |before| before.repaid_at.max(now));
            let comes_back = before.is_some_and(|before| before.written && !before.lasts);
            let due = repaid_at.checked_sub(REPEAT_INTERVAL * (REPEAT_BURST - 1));
            let is_new = before.is_none_or(is_news);
            if !is_new && !comes_back {
                continue;
            }
            let next = due.filter(|due| !is_new && *due > now).unwrap_or(now);
            let rate = self.rates.entry(about.namespace.clone()).or_default();
            if next == now && rate.lines.try_take(since, ALLOWED_OF_NAMESPACE) {
                tracing::warn!(
                    about = about.name,
                    namespace = about.namespace,
                    kind = about.kind,
                    reason,
                    "{note}"
                );
            }
            // What waits for its turn is told only if it lasts until then.
            let reported = ReportedWarning {
                complaint: complaint.clone(),
                since: now,
                written: next != now,
                lasts: true,
                repaid_at,
                next: Some(next),
            };
            self.topics.insert(topic, reported);
        }
        self.topics.retain(|topic, telling| {
            // A warning that is over and was written is kept only to decide when it may be written
            // again.
            let kept_until =
                if telling.written { telling.repaid_at } else { telling.since + RENEW_INTERVAL };
            telling.lasts = lasting.contains(topic);
            telling.lasts || now < kept_until
        });
        self.post_due(now);
    }

    /// Hands over the Events that are to be written now.
    fn post_due(&mut self, now: Instant) {
        let since = self.began.elapsed();
        for telling in self.topics.values_mut() {
            let is_over = telling.written && !telling.lasts;
            if is_over || telling.next.is_none_or(|next| now < next) {
                continue;
            }
            // If too many wait to be written, or its namespace has had many, it is written in a later pass.
            let Ok(place) = self.post.try_reserve() else { break };
            let namespace = telling.complaint.about.namespace.clone();
            let rate = self.rates.entry(namespace).or_default();
            if !rate.events.try_take(since, ALLOWED_OF_NAMESPACE) {
                continue;
            }
            place.send(telling.complaint.clone());
            telling.next = None;
        }
        let named: BTreeSet<_> = self.topics.keys().map(|(_, namespace, ..)| namespace).collect();
        self.rates.retain(|namespace, _| named.contains(namespace));
    }

    /// Takes down which Events were written since the last pass, and which could not be.
    fn count_written(&mut self, now: Instant) {
        while let Ok((complaint, done)) = self.written.try_recv() {
            let Some(telling) = self.topics.get_mut(&warning_key(&complaint)) else { continue };
            if done {
                telling.repaid_at = telling.repaid_at.max(now) + REPEAT_INTERVAL;
            }
            if telling.complaint.note == complaint.note {
                telling.written |= done;
                telling.next = Some(now + if done { RENEW_INTERVAL } else { RETRY_BACKOFF });
            }
        }
    }
}

/// Returns an Event, and its namespace.
fn warning_event(instance: &str, complaint: &ObjectWarning) -> (String, Event) {
    let ObjectWarning { about, reason, note, .. } = complaint;
    let name = about.name.as_deref().unwrap_or("adit");
    // Events of a cluster-scoped object belong into this namespace.
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
    let random = getrandom::u64().unwrap_or_default();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{random:016x}")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some("adit.dev/controller".into()),
        reporting_instance: Some(instance.into()),
        action: Some("Reconcile".into()),
        reason: Some(reason.clone()),
        regarding: Some(about.clone()),
        note: Some(truncated(note).into()),
        type_: Some("Warning".into()),
        ..Event::default()
    };
    (namespace, event)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use tokio::time::advance;

    use super::*;

    fn warning(namespace: &str, nth: usize, note: &str) -> ObjectWarning {
        let about = ObjectReference {
            kind: Some("Service".into()),
            namespace: Some(namespace.into()),
            name: Some(format!("bot-{nth}")),
            ..ObjectReference::default()
        };
        ObjectWarning { about, reason: "Wrong".into(), cause: None, note: note.into() }
    }

    /// The Events of one pass, by namespace: those of `loud` and all others. All are written.
    fn pass(
        reporter: &mut EventReporter,
        posted: &mut mpsc::Receiver<ObjectWarning>,
        say: &mpsc::Sender<(ObjectWarning, bool)>,
        all: &[ObjectWarning],
    ) -> (usize, usize) {
        reporter.report(all);
        let mut counts = (0, 0);
        while let Ok(event) = posted.try_recv() {
            let is_loud = event.about.namespace.as_deref() == Some("loud");
            *(if is_loud { &mut counts.0 } else { &mut counts.1 }) += 1;
            say.try_send((event, true)).unwrap();
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_with_thousands_of_warnings_that_change_has_one_event_a_second_and_others_theirs()
     {
        let (post, mut posted) = mpsc::channel(MAX_PENDING);
        let (say, written) = mpsc::channel(MAX_PENDING);
        let mut reporter = EventReporter::with(post, written);
        let mut loud_and_other = (0, 0);
        for second in 0..60 {
            let note = format!("{second}");
            let mut all: Vec<_> = (0..1000).map(|nth| warning("loud", nth, &note)).collect();
            all.push(warning("quiet", second, ""));
            for _ in 0..4 {
                let (loud, other) = pass(&mut reporter, &mut posted, &say, &all);
                loud_and_other = (loud_and_other.0 + loud, loud_and_other.1 + other);
            }
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(loud_and_other, (50 + 59, 60));
        let rates = reporter.rates.len();
        assert_eq!(rates, 2);
    }
}
