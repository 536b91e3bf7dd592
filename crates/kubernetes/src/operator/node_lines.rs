//! Nodes of a cluster that are followed: a command in each node's pod, and what it says, a document in each line.
//!
//! Nothing is installed for it: the command is the `/adit` that runs there, and it ends with the one here.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::context::{Context, ContextError};
use super::node_process::{NodeInput, NodeOutput, start};
use super::pod_state::{is_pod_ready, named};
use crate::api::NODE;

/// The longest line of a node, in bytes.
const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;

/// The pod of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FollowedPod {
    /// The node.
    pub node: String,
    /// The name of the pod.
    pub pod: String,
}

/// The lines of one node's command.
#[derive(Debug)]
pub struct NodeLines {
    output: NodeOutput,
    /// The command there ends when this does.
    _input: NodeInput,
}

/// Returns the pods of Adit's nodes by node, one for each: a ready one where there is one.
///
/// # Errors
/// If the cluster cannot be asked.
pub async fn node_pods(context: &Context) -> Result<Vec<FollowedPod>, ContextError> {
    let pods = context.system_api::<Pod>().list(&named(NODE)).await;
    let pods = pods.map_err(context.request_error("list the pods in namespace adit-system"))?;
    Ok(one_for_each_node(&pods.items))
}

fn one_for_each_node(pods: &[Pod]) -> Vec<FollowedPod> {
    let mut all: Vec<(bool, FollowedPod)> = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            all.push((!is_pod_ready(pod), FollowedPod { node, pod: pod.name_any() }));
        }
    }
    all.sort_by(|(a_waits, a), (b_waits, b)| a.node.cmp(&b.node).then(a_waits.cmp(b_waits)));
    all.dedup_by(|(_, later), (_, kept)| later.node == kept.node);
    all.into_iter().map(|(_, pod)| pod).collect()
}

impl FollowedPod {
    /// Starts `adit` with these words in the pod.
    ///
    /// # Errors
    /// If `kubectl` cannot be run.
    pub fn follow(&self, context: &Context, words: &[&str]) -> Result<NodeLines, String> {
        let (input, output) = start(context, &self.pod, words, MAX_LINE_BYTES)?;
        Ok(NodeLines { output, _input: input })
    }
}

impl NodeLines {
    /// The next document; may not be cancelled and called again.
    ///
    /// # Errors
    /// If the command has ended, with its last words.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        self.output.receive().await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_followed_once_by_a_pod_that_is_ready() {
        let pod = |name: &str, node: &str, ready: &str, deleted: Option<&str>| {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            let metadata = json!({"name": name, "deletionTimestamp": deleted});
            let spec = json!({"nodeName": node, "containers": []});
            let pod = json!({"metadata": metadata, "spec": spec, "status": status});
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let pods = [
            pod("b-new", "b", "False", None),
            pod("a-gone", "a", "True", Some("2026-01-01T00:00:00Z")),
            pod("b-old", "b", "True", None),
            pod("a", "a", "False", None),
        ];
        let found = one_for_each_node(&pods);
        let found: Vec<_> = found.iter().map(|one| (&*one.node, &*one.pod)).collect();
        assert_eq!(found, [("a", "a"), ("b", "b-old")]);
    }
}
