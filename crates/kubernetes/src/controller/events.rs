//! Events: what an operator must know, told once and not in each round.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::lease::within;
use super::plan::Complaint;
use crate::api::shortened;

/// The most Events that wait to be written, so that a wrong rule for a thousand Services is no flood.
const MOST: usize = 50;

async fn write(client: Client, mut posted: mpsc::Receiver<(String, Event)>) {
    while let Some((namespace, event)) = posted.recv().await {
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        if let Err(error) = within(api.create(&PostParams::default(), &event)).await {
            tracing::debug!(%error, reason = event.reason, "an Event could not be written");
        }
    }
}

type Topic = (Option<String>, Option<String>, Option<String>, String);

/// Tells, and remembers what it told.
pub(super) struct Reporter {
    post: mpsc::Sender<(String, Event)>,
    instance: String,
    told: BTreeMap<Topic, String>,
}

impl Reporter {
    /// A reporter, whose Events are written by one of `tasks`: no round waits for them.
    pub(super) fn new(client: Client, instance: String, tasks: &mut JoinSet<()>) -> Self {
        let (post, posted) = mpsc::channel(MOST);
        tasks.spawn(write(client, posted));
        Self { post, instance, told: BTreeMap::new() }
    }

    /// Tells what is new among all that is wrong now; what has ended may be told again later.
    pub(super) fn tell(&mut self, complaints: &[Complaint]) {
        let mut now = BTreeMap::new();
        for complaint in complaints {
            let Complaint { about, reason, note } = complaint;
            let topic =
                (about.kind.clone(), about.namespace.clone(), about.name.clone(), reason.clone());
            let before = self.told.get(&topic);
            if before != Some(note) {
                // Where too many wait to be written, it is told in a later round.
                if self.post.try_send(self.event(about, reason, note)).is_err() {
                    continue;
                }
                tracing::warn!(
                    about = about.name,
                    namespace = about.namespace,
                    kind = about.kind,
                    reason,
                    "{note}"
                );
            }
            now.insert(topic, note.clone());
        }
        self.told = now;
    }

    fn event(&self, about: &ObjectReference, reason: &str, note: &str) -> (String, Event) {
        let name = about.name.as_deref().unwrap_or("adit");
        // Events of what has no namespace belong into this one.
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
            reporting_instance: Some(self.instance.clone()),
            action: Some("Reconcile".into()),
            reason: Some(reason.into()),
            regarding: Some(about.clone()),
            note: Some(shortened(note).into()),
            type_: Some("Warning".into()),
            ..Event::default()
        };
        (namespace, event)
    }
}
