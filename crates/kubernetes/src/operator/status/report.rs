//! The status of a cluster, as `adit status` prints it.

use serde::Serialize;

use crate::api::{CONTROLLER, NAMESPACE};

/// State of one cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The context by which it was asked.
    pub context: String,
    /// Its name; `None` if it has none yet, or its configuration is wrong.
    pub cluster: Option<String>,
    /// The pods of its controller.
    pub controller: PodCounts,
    /// The pods of its nodes.
    pub nodes: PodCounts,
    /// Errors of its configuration, each with key, line and column.
    pub errors: Vec<String>,
    /// Warnings of its configuration.
    pub warnings: Vec<String>,
    /// Problems of the controller, and of the nodes' certificates.
    pub troubles: Vec<String>,
    /// Since when nobody has updated what follows, in words, if no controller is active.
    pub stale: Option<String>,
    /// Its links.
    pub links: Vec<StatusItem>,
    /// Its exports.
    pub exports: Vec<StatusItem>,
    /// Its imports.
    pub imports: Vec<StatusItem>,
}

/// Number of pods that there should be, and of those that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PodCounts {
    /// True if the Deployment or DaemonSet exists.
    pub installed: bool,
    /// Ready pods.
    pub ready: i32,
    /// All pods that there should be.
    pub total: i32,
}

/// A link, export or import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusItem {
    /// Its name: a cluster, or `NAMESPACE/NAME`.
    pub name: String,
    /// A detail in a few words: to whom, from where, at which address.
    pub detail: String,
    /// Its first problem, and what else nodes report of it.
    pub problem: Option<String>,
    /// The cause that it waits for, if that is its only problem: the cause is told there.
    pub waits_for: Option<String>,
    /// The cluster that an import is from.
    #[serde(skip)]
    pub(super) from: Option<String>,
    /// True if its problem is that a link is down.
    #[serde(skip)]
    pub(super) is_down: bool,
    /// True if its only problem is that its callers are refused because of its link.
    #[serde(skip)]
    pub(super) is_refused_by_link: bool,
    /// Conditions about problems that only nodes know, for when the nodes' own reports cannot be
    /// read.
    #[serde(skip)]
    pub(super) fallback: Option<String>,
    /// Refused callers, if something else is wrong as well: how many, and since when.
    #[serde(skip)]
    pub(super) refused: Option<(u64, String)>,
}

impl StatusItem {
    /// Returns the order: items with a problem come first, then those that wait for another.
    pub(super) fn sort_rank(&self) -> u8 {
        match (&self.problem, &self.waits_for) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) => 2,
        }
    }

    /// Returns an item with this problem, or without one.
    #[must_use]
    pub fn new(name: String, detail: String, problem: Option<String>) -> Self {
        Self {
            name,
            detail,
            problem,
            waits_for: None,
            from: None,
            is_down: false,
            is_refused_by_link: false,
            fallback: None,
            refused: None,
        }
    }
}

impl ClusterStatus {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let items = self.links.iter().chain(&self.exports).chain(&self.imports);
        self.problems().is_empty() && items.into_iter().all(|item| item.problem.is_none())
    }

    /// Returns the problems of the cluster as a whole.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.errors.clone();
        for (what, pods) in [("controller", self.controller), ("node", self.nodes)] {
            let PodCounts { installed, ready, total } = pods;
            if !installed {
                problems.push(format!("adit-{what} is not installed"));
            } else if total == 0 && what == "controller" {
                problems.push(format!(
                    "no controller is active: Deployment {CONTROLLER} asks for 0 pods: \
                     kubectl -n {NAMESPACE} scale deployment/{CONTROLLER} --replicas=2"
                ));
            } else if total == 0 {
                problems.push(format!("adit-{what} has no pods"));
            } else if ready < total {
                problems.push(format!("{ready} of {total} {what} pods are ready"));
            }
        }
        problems.extend(self.troubles.iter().cloned());
        problems
    }
}
