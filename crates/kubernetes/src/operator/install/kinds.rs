//! The kinds of which the manifests are made, and where objects of each are reached.
//!
//! A closed list, so that nothing has to be discovered and a manifest of another kind is an error of this build.

use kube::api::{Api, ApiResource, DynamicObject};

use crate::api::NAMESPACE;
use crate::operator::context::Context;

/// A kind of the manifests.
#[derive(Debug, PartialEq, Eq)]
pub struct ObjectKind {
    /// Its group and version, as `apiVersion` has them.
    pub api_version: &'static str,
    /// Its name.
    pub kind: &'static str,
    /// Its name in paths and in rights.
    pub plural: &'static str,
    /// True if its objects are in a namespace, which is Adit's.
    pub is_namespaced: bool,
}

const fn cluster(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> ObjectKind {
    ObjectKind { api_version, kind, plural, is_namespaced: false }
}

const fn namespaced(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> ObjectKind {
    ObjectKind { api_version, kind, plural, is_namespaced: true }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ADMISSION: &str = "admissionregistration.k8s.io/v1";

/// All kinds, in the order in which their objects are applied: what others stand on comes first, and what runs comes last.
pub static KINDS: [ObjectKind; 16] = [
    cluster("v1", "Namespace", "namespaces"),
    cluster("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
    cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
    cluster(ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    cluster(ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    namespaced("v1", "ServiceAccount", "serviceaccounts"),
    cluster(RBAC, "ClusterRole", "clusterroles"),
    cluster(RBAC, "ClusterRoleBinding", "clusterrolebindings"),
    namespaced(RBAC, "Role", "roles"),
    namespaced(RBAC, "RoleBinding", "rolebindings"),
    namespaced("v1", "ConfigMap", "configmaps"),
    namespaced("v1", "Service", "services"),
    namespaced("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    namespaced("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    namespaced("apps/v1", "Deployment", "deployments"),
    namespaced("apps/v1", "DaemonSet", "daemonsets"),
];

impl ObjectKind {
    /// Finds a kind by its names in an object.
    #[must_use]
    pub fn find(api_version: &str, kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.api_version == api_version && known.kind == kind)
    }

    /// Returns its group; empty for the core's.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Returns its place in the order of applying.
    #[must_use]
    pub fn rank(&self) -> usize {
        KINDS.iter().position(|known| known == self).unwrap_or(KINDS.len())
    }

    /// Returns its name as rights are given: `deployments.apps`.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.group() {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Returns the API of its objects in a cluster.
    pub(super) fn api(&self, context: &Context) -> Api<DynamicObject> {
        let version = self.api_version.rsplit('/').next().unwrap_or_default();
        let resource = ApiResource {
            group: self.group().to_owned(),
            version: version.to_owned(),
            api_version: self.api_version.to_owned(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        };
        let client = context.client().clone();
        match self.is_namespaced {
            true => Api::namespaced_with(client, NAMESPACE, &resource),
            false => Api::all_with(client, &resource),
        }
    }
}
