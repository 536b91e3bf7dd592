//! Events: what an operator must know, told once and not in each round.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

use super::lease::within;
use super::plan::Complaint;

/// The longest text of an Event, in bytes.
const LONGEST_NOTE: usize = 1024;
/// The most Events that are made in one round, so that a wrong rule for a thousand Services is no flood.
const MOST: usize = 50;

type Topic = (Option<String>, Option<String>, Option<String>, String);

/// Tells, and remembers what it told.
pub(super) struct Reporter {
    client: Client,
    instance: String,
    told: BTreeMap<Topic, String>,
}

impl Reporter {
    pub(super) fn new(client: Client, instance: String) -> Self {
        Self { client, instance, told: BTreeMap::new() }
    }

    /// Tells what is new among all that is wrong now; what has ended may be told again later.
    pub(super) async fn tell(&mut self, complaints: &[Complaint]) {
        let mut now = BTreeMap::new();
        let mut fresh = Vec::new();
        for complaint in complaints {
            let Complaint { about, reason, note } = complaint;
            let topic =
                (about.kind.clone(), about.namespace.clone(), about.name.clone(), reason.clone());
            let before = self.told.get(&topic);
            if before != Some(note) {
                if fresh.len() == MOST {
                    continue;
                }
                fresh.push(complaint);
            }
            now.insert(topic, note.clone());
        }
        self.told = now;
        for Complaint { about, reason, note } in fresh {
            tracing::warn!(
                about = about.name,
                namespace = about.namespace,
                kind = about.kind,
                reason,
                "{note}"
            );
            let (namespace, event) = self.event(about, reason, note);
            let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
            if let Err(error) = within(api.create(&PostParams::default(), &event)).await {
                tracing::debug!(%error, reason, "an Event could not be written");
            }
        }
    }

    fn event(&self, about: &ObjectReference, reason: &str, note: &str) -> (String, Event) {
        let name = about.name.as_deref().unwrap_or("adit");
        // Events of what has no namespace belong into this one.
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let random = getrandom::u64().unwrap_or_default();
        let mut end = note.len().min(LONGEST_NOTE);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
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
            note: Some(note[..end].into()),
            type_: Some("Warning".into()),
            ..Event::default()
        };
        (namespace, event)
    }
}
