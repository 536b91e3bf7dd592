//! The pods that may read a node's metrics: those of namespaces that an administrator has labelled.
//!
//! A node watches its own pods alone, and whoever scrapes it is a pod of any node. So the API server is asked who has the
//! address of a connection: once for each that is let in, and again by name (which is cheap) after [`ANSWER_LIFETIME`].
//! While it does not answer, what it said last holds. Strangers have it asked [`LOOKUPS`] at most, whatever they do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_runtime::Mutex;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, timeout};

use crate::client::describe_error;

/// The label, with value `true`, of namespaces whose pods may read metrics; NetworkPolicy `adit-controller` names it, too.
pub const METRICS_LABEL: &str = "adit.dev/metrics";

/// A pod is let in for this long before it is looked at again.
const ANSWER_LIFETIME: Duration = Duration::from_secs(300);
/// The same for an address that is no such pod's: it may be in a moment, and a stranger's costs one look-up each time.
const STRANGER_LIFETIME: Duration = Duration::from_secs(10);
/// A look-up; whoever connects waits for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Look-ups for all addresses together.
const LOOKUPS: RateLimit = RateLimit { burst: 8, per_second: 2 };
/// Addresses that are remembered.
const MAX_ANSWERS: usize = 256;

/// A pod that may read metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReaderPod {
    namespace: String,
    name: String,
    uid: String,
}

/// The answer about an address; `None` if it is no pod's that may.
#[derive(Debug, Clone)]
struct PodAnswer {
    pod: Option<ReaderPod>,
    until: Instant,
}

#[derive(Debug, Default)]
struct ReaderAnswers {
    lookups: TokenBucket,
    by_address: HashMap<IpAddr, PodAnswer>,
    /// True if it is logged that look-ups fail.
    is_failure_logged: bool,
}

/// The pods that may read metrics, as far as somebody has asked. Cheap to clone.
#[derive(Clone)]
pub struct ReaderPods {
    client: Client,
    known: Arc<Mutex<ReaderAnswers>>,
    began: Instant,
}

impl std::fmt::Debug for ReaderPods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReaderPods").field("known", &self.known).finish_non_exhaustive()
    }
}

impl ReaderPods {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, known: Arc::default(), began: Instant::now() }
    }

    /// True if `ip`, in its canonical form, is the address of a pod that may read metrics. Takes three seconds at most.
    pub async fn admits(&self, ip: IpAddr) -> bool {
        let last = {
            let mut known = self.known.lock();
            let last = match known.by_address.get(&ip) {
                Some(answer) if Instant::now() < answer.until => return answer.pod.is_some(),
                last => last.and_then(|answer| answer.pod.clone()),
            };
            if !known.lookups.try_take(self.began.elapsed(), LOOKUPS) {
                return last.is_some();
            }
            last
        };
        match timeout(LOOKUP_TIMEOUT, self.look_up(ip, last.as_ref())).await {
            Ok(Ok(pod)) => {
                let is_reader = pod.is_some();
                self.remember(ip, pod);
                is_reader
            }
            Ok(Err(error)) => {
                self.log_failure(&describe_error(&error));
                last.is_some()
            }
            Err(_) => {
                self.log_failure("the API server does not answer");
                last.is_some()
            }
        }
    }

    /// Logs that look-ups fail, once until one succeeds.
    fn log_failure(&self, reason: &str) {
        if !std::mem::replace(&mut self.known.lock().is_failure_logged, true) {
            tracing::warn!(
                reason,
                "it is not known whose pod asks for metrics, so only those that were let in before still are: \
                 the node has to get Namespaces and list Pods (daemonset/base/node.yaml)"
            );
        }
    }

    fn remember(&self, ip: IpAddr, pod: Option<ReaderPod>) {
        let lifetime = if pod.is_some() { ANSWER_LIFETIME } else { STRANGER_LIFETIME };
        let answer = PodAnswer { pod, until: Instant::now() + lifetime };
        let mut known = self.known.lock();
        known.is_failure_logged = false;
        let answers = &mut known.by_address;
        if answers.len() >= MAX_ANSWERS && !answers.contains_key(&ip) {
            answers.retain(|_, known| known.pod.is_some());
            if answers.len() >= MAX_ANSWERS {
                return;
            }
        }
        answers.insert(ip, answer);
    }

    /// The pod that has the address, if it may; `last` is the one that had it.
    async fn look_up(
        &self,
        ip: IpAddr,
        last: Option<&ReaderPod>,
    ) -> Result<Option<ReaderPod>, kube::Error> {
        if let Some(last) = last {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &last.namespace);
            let found = pods.get_opt(&last.name).await?;
            let is_same = |pod: &Pod| pod.uid().as_deref() == Some(&*last.uid) && has(pod, ip);
            if found.as_ref().is_some_and(is_same) {
                return Ok(self.is_labelled(&last.namespace).await?.then(|| last.clone()));
            }
        }
        let all: Api<Pod> = Api::all(self.client.clone());
        let at = ListParams::default().fields(&format!("status.podIP={ip}"));
        // Several only while one is ending: whoever speaks from there may be any of them.
        let found = all.list(&at).await?.items.into_iter().filter(|pod| has(pod, ip));
        let mut reader = None;
        for pod in found {
            let namespace = pod.namespace().unwrap_or_default();
            if !self.is_labelled(&namespace).await? {
                return Ok(None);
            }
            let uid = pod.uid().unwrap_or_default();
            reader = Some(ReaderPod { namespace, name: pod.name_any(), uid });
        }
        Ok(reader)
    }

    async fn is_labelled(&self, namespace: &str) -> Result<bool, kube::Error> {
        let found = Api::<Namespace>::all(self.client.clone()).get_opt(namespace).await?;
        Ok(found.is_some_and(|n| n.labels().get(METRICS_LABEL).is_some_and(|v| v == "true")))
    }
}

/// True if a pod with a network of its own has the address now.
fn has(pod: &Pod, ip: IpAddr) -> bool {
    let is_on_host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default();
    let Some(status) = pod.status.as_ref().filter(|_| !is_on_host) else { return false };
    let addresses = status.pod_ips.iter().flatten().map(|a| &a.ip).chain(&status.pod_ip);
    let is_there = |text: &String| text.parse::<IpAddr>().is_ok_and(|a| a.to_canonical() == ip);
    status.phase.as_deref() == Some("Running") && addresses.into_iter().any(is_there)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fake_api_server::{FakeApiServer, Fault};

    fn pod(server: &FakeApiServer, namespace: &str, name: &str, ip: &str, is_on_host: bool) {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "uid": format!("{name}-1")},
            "spec": {"hostNetwork": is_on_host, "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        });
        server.put("/pods", object);
    }

    fn namespace(server: &FakeApiServer, name: &str, label: &str) {
        let labels = json!({METRICS_LABEL: label});
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        });
        server.put("/namespaces", object);
    }

    /// A Prometheus that may, a pod of a tenant, and a Prometheus on the host's network.
    fn cluster() -> FakeApiServer {
        let server = FakeApiServer::default();
        namespace(&server, "monitoring", "true");
        namespace(&server, "tenant", "false");
        pod(&server, "monitoring", "prometheus", "10.244.0.7", false);
        pod(&server, "monitoring", "on-host", "172.18.1.9", true);
        pod(&server, "tenant", "curious", "10.244.0.8", false);
        server
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_labelled_namespaces_may_read_and_nobody_else() {
        let server = cluster();
        let pods = ReaderPods::new(server.client());
        assert!(pods.admits(ip("10.244.0.7")).await);
        for other in ["10.244.0.8", "172.18.1.9", "192.0.2.1"] {
            assert!(!pods.admits(ip(other)).await, "{other}");
        }
        // Two pods claim one address: it may be the tenant's.
        pod(&server, "tenant", "twin", "10.244.0.7", false);
        assert!(!ReaderPods::new(server.client()).admits(ip("10.244.0.7")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_looked_at_again_and_let_in_while_nobody_can_say() {
        let server = cluster();
        let pods = ReaderPods::new(server.client());
        let prometheus = ip("10.244.0.7");
        assert!(pods.admits(prometheus).await);
        let asked = server.requests(|_| true).len();
        for _ in 0..100 {
            assert!(pods.admits(prometheus).await);
        }
        assert_eq!(server.requests(|_| true).len(), asked, "the answer is remembered");
        server.fail(|_, _| Some(Fault::Silence));
        tokio::time::advance(2 * ANSWER_LIFETIME).await;
        assert!(pods.admits(prometheus).await, "the API server is away");
        server.heal();
        namespace(&server, "monitoring", "false");
        assert!(!pods.admits(prometheus).await, "the label was taken back");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_the_api_server_asked_now_and_then_and_keep_nobody_out() {
        let server = cluster();
        let pods = ReaderPods::new(server.client());
        assert!(pods.admits(ip("10.244.0.7")).await);
        tokio::time::advance(2 * ANSWER_LIFETIME).await;
        let before = server.requests(|_| true).len();
        for n in 0..10_000_u32 {
            let stranger = IpAddr::V4(std::net::Ipv4Addr::from_bits(0xC000_0200 + n));
            assert!(!pods.admits(stranger).await);
        }
        assert_eq!(server.requests(|_| true).len() - before, LOOKUPS.burst as usize);
        assert!(pods.admits(ip("10.244.0.7")).await, "what was said last holds");
        assert!(pods.known.lock().by_address.len() <= MAX_ANSWERS);
    }
}
