//! A cluster as its operator reaches it: a context of a kubeconfig, and the ConfigMap there.
//!
//! For the commands alone; nodes and controller use [`crate::client`]. Each key of the ConfigMap is written by
//! itself, and only if nobody has written the ConfigMap since it was read, so that commands never undo what
//! others wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, ClusterReport, ExportRule, Fragment, parse_fragment};
use adit_core::name::ServiceName;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::process::Command;

use crate::api::{CONFIG_MAP, NAMESPACE, SLICE_SERVICE};
use crate::client::describe_error;
use crate::config_map;

/// Field manager of the commands, as the API server records it.
const FIELD_MANAGER: &str = "adit-cli";
/// Longest time for connecting, and below for an answer: a person waits at a terminal.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of contexts that are named to somebody who named one that is not there.
const MAX_KNOWN: usize = 20;

/// Returns the parameters with which commands create and replace.
pub(super) fn post_parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Returns the parameters with which commands patch.
pub(super) fn patch_parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// The reason why a cluster cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The kubeconfig does not lead to a cluster.
    #[error(
        "{context} cannot be used: {error}\n  hint: the kubeconfig has {}; --kubeconfig or KUBECONFIG names another file",
        describe_known(known)
    )]
    Kubeconfig {
        /// The context.
        context: String,
        /// The contexts that the kubeconfig has.
        known: Vec<String>,
        /// The problem of the kubeconfig.
        error: Box<KubeconfigError>,
    },
    /// A request failed.
    #[error(
        "context {context}: cannot {doing}: {}\n  hint: {}",
        describe_error(error),
        hint(context, error)
    )]
    Request {
        /// The context.
        context: String,
        /// The operation that was attempted.
        doing: String,
        /// The error of the client.
        error: Box<kube::Error>,
    },
    /// Adit's namespace is missing.
    #[error(
        "context {context}: Adit is not installed there (no namespace {NAMESPACE})\n  hint: `adit install --context \
         {context}` first"
    )]
    NotInstalled {
        /// The context.
        context: String,
    },
}

impl ContextError {
    /// True if the request failed because a right is missing.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Request { error, .. } if matches!(&**error, kube::Error::Api(status) if status.code == 403))
    }
}

impl ContextError {
    /// True if the request failed because there is no such thing, or no such kind.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Request { error, .. } if matches!(&**error, kube::Error::Api(status) if status.code == 404))
    }
}

/// Describes the contexts of a kubeconfig.
fn describe_known(known: &[String]) -> String {
    match known {
        [] => "no context".to_owned(),
        [one] => format!("context {one}"),
        some => {
            let more = some.len().saturating_sub(MAX_KNOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = &some[..some.len().min(MAX_KNOWN)];
            format!("contexts {}{more}", named.join(", "))
        }
    }
}

fn hint(context: &str, error: &kube::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list is open and long")]
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "the user of context {context} lacks the right; ask that cluster's administrator"
            )
        }
        kube::Error::Api(status) if status.code == 401 => {
            format!("log in again: the API server does not know the user of context {context}")
        }
        kube::Error::Api(status) if status.code == 404 => {
            "is Adit's current version installed there?".to_owned()
        }
        _ => format!("try `kubectl --context {context} version`; is that cluster up?"),
    }
}

/// A cluster that commands can ask, by a context of a kubeconfig.
#[derive(Clone)]
pub struct Context {
    /// Name of the context.
    pub name: String,
    /// The kubeconfig that was named; `None` if it is found as kubectl finds it.
    pub(crate) kubeconfig: Option<PathBuf>,
    client: Client,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Context").field(&self.name).finish()
    }
}

/// An answer of which no more is read than is asked for.
#[derive(Debug)]
pub(super) struct BoundedAnswer {
    pub(super) is_success: bool,
    pub(super) status: u16,
    /// Its body; what is no UTF-8 is replaced. Empty if it is too long.
    pub(super) text: String,
    pub(super) is_too_long: bool,
}

/// The ConfigMap's data as it was read.
#[derive(Debug, Clone, Default)]
pub struct ConfigDocument {
    /// The fragments by key.
    pub data: BTreeMap<String, String>,
    /// Resource version of the ConfigMap; `None` if there is no ConfigMap.
    version: Option<String>,
}

impl ConfigDocument {
    /// Parses the document.
    ///
    /// # Errors
    /// See [`config_map::check_config`].
    pub fn parse(&self) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
        config_map::check_config(&self.data)
    }

    /// Returns the fragments that can be parsed, with their keys.
    pub(super) fn fragments(&self) -> impl Iterator<Item = (&String, Fragment)> {
        let all = self.data.iter().filter(|(key, _)| key.ends_with(".yaml"));
        all.filter_map(|(key, text)| Some((key, parse_fragment(key, text).ok()?)))
    }

    /// Returns whether a Service of any name is exported under this one.
    #[must_use]
    pub fn exports_as(&self, name: &ServiceName) -> bool {
        let is_it = |rule: &ExportRule| rule.alias.as_ref().is_some_and(|a| a.service == *name);
        self.fragments().any(|(_, fragment)| fragment.exports.iter().any(is_it))
    }

    /// Returns the document with some keys set, and others (`None`) removed.
    #[must_use]
    pub fn with_changes(&self, changes: &BTreeMap<String, Option<String>>) -> Self {
        let mut document = self.clone();
        for (key, text) in changes {
            match text {
                Some(text) => document.data.insert(key.clone(), text.clone()),
                None => document.data.remove(key),
            };
        }
        document
    }
}

impl Context {
    /// Connects to the context `name` of a kubeconfig, or to the current one. Without a file, the
    /// kubeconfig is found as kubectl finds it.
    ///
    /// # Errors
    /// If the kubeconfig has no such context, or one that cannot be used.
    pub async fn connect(file: Option<&Path>, name: Option<&str>) -> Result<Self, ContextError> {
        let shown =
            name.map_or_else(|| "the current context".to_owned(), |n| format!("context {n}"));
        let wrong = |error: KubeconfigError, known: &[String]| ContextError::Kubeconfig {
            context: shown.clone(),
            known: known.to_vec(),
            error: error.into(),
        };
        let read = file.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
        let kubeconfig = read.map_err(|error| wrong(error, &[]))?;
        let known: Vec<_> = kubeconfig.contexts.iter().map(|one| one.name.clone()).collect();
        let context = name.map(str::to_owned).or_else(|| kubeconfig.current_context.clone());
        let name = context.clone().unwrap_or_default();
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.map_err(|error| wrong(error, &known))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        let client = Client::try_from(config).map_err(|error| ContextError::Request {
            context: name.clone(),
            doing: "make a client".to_owned(),
            error: error.into(),
        })?;
        Ok(Self { name, kubeconfig: file.map(Path::to_owned), client })
    }

    /// Returns the command that runs `/adit` in a node's pod, still without arguments. `options` are those of `kubectl exec`.
    pub(super) fn command_in_node(&self, pod: &str, options: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(file) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        command.args(["--context", &self.name, "-n", NAMESPACE, "exec"]).args(options);
        command.args([pod, "-c", "node", "--", "/adit"]).kill_on_drop(true);
        command
    }

    /// Returns what is answered at a path below `base`, whatever its status, if it is text of at most so many bytes. Whoever answers
    /// may be a stranger, to whom the API server passes the request.
    pub(super) async fn get_bounded(
        &self,
        base: &str,
        path: &str,
        max_bytes: usize,
    ) -> Result<BoundedAnswer, ContextError> {
        let doing = self.request_error(&format!("get {base}/{path}"));
        let request = match kube::core::Request::new(base).get(path, &GetParams::default()) {
            Ok(request) => request.map(Body::from),
            Err(error) => return Err(doing(kube::Error::BuildRequest(error))),
        };
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => return Err(doing(error)),
        };
        let status = response.status();
        let (is_success, status) = (status.is_success(), status.as_u16());
        match Limited::new(response.into_body(), max_bytes).collect().await {
            Ok(read) => {
                let text = String::from_utf8_lossy(&read.to_bytes()).into_owned();
                Ok(BoundedAnswer { is_success, status, text, is_too_long: false })
            }
            Err(error) if error.is::<LengthLimitError>() => {
                Ok(BoundedAnswer { is_success, status, text: String::new(), is_too_long: true })
            }
            Err(error) => Err(doing(kube::Error::Service(error))),
        }
    }

    /// Returns a context whose API server is `client`'s.
    #[cfg(test)]
    pub(crate) fn of_client(name: &str, client: Client) -> Self {
        Self { name: name.to_owned(), kubeconfig: None, client }
    }

    /// Returns the client of its API server.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the API of a cluster-scoped kind.
    pub(crate) fn cluster_api<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Returns the API of a kind in Adit's namespace.
    pub(crate) fn system_api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.namespaced_api(NAMESPACE)
    }

    /// Returns the API of a kind in a namespace.
    pub(crate) fn namespaced_api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Lists all objects of a kind that `parameters` select; `what` names the kind for people.
    pub(crate) async fn list<K>(
        &self,
        parameters: &ListParams,
        what: &str,
    ) -> Result<Vec<K>, ContextError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let listed = self.cluster_api::<K>().list(parameters).await;
        listed.map(|list| list.items).map_err(self.request_error(&format!("list {what}")))
    }

    /// Returns all EndpointSlices of a Service.
    pub(crate) async fn slices_of(
        &self,
        service: &ServiceName,
    ) -> Result<Vec<EndpointSlice>, ContextError> {
        let slices = self.namespaced_api::<EndpointSlice>(service.namespace.as_str());
        let of_it = ListParams::default().labels(&format!("{SLICE_SERVICE}={}", service.name()));
        let listed = slices.list(&of_it).await;
        let list =
            listed.map_err(self.request_error(&format!("list EndpointSlices of {service}")))?;
        Ok(list.items)
    }

    /// Returns a function that adds to a request's error what was attempted.
    pub(crate) fn request_error(
        &self,
        doing: &str,
    ) -> impl FnOnce(kube::Error) -> ContextError + use<> {
        let (context, doing) = (self.name.clone(), doing.to_owned());
        move |error| ContextError::Request { context, doing, error: error.into() }
    }

    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// If it cannot be read, or Adit is not installed.
    pub async fn document(&self) -> Result<ConfigDocument, ContextError> {
        let map = self.system_api::<ConfigMap>().get_opt(CONFIG_MAP).await;
        if let Some(map) = map.map_err(self.request_error("read ConfigMap adit-system/adit"))? {
            let version = map.metadata.resource_version;
            return Ok(ConfigDocument { data: map.data.unwrap_or_default(), version });
        }
        let namespace = self.cluster_api::<Namespace>().get_opt(NAMESPACE).await;
        match namespace.map_err(self.request_error("read namespace adit-system"))? {
            Some(_) => Ok(ConfigDocument::default()),
            None => Err(ContextError::NotInstalled { context: self.name.clone() }),
        }
    }

    /// Writes the changes if the ConfigMap is still the one that `document` holds. Returns false if
    /// it is not.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn write(
        &self,
        document: &ConfigDocument,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<bool, ContextError> {
        let maps = self.system_api::<ConfigMap>();
        let done = match &document.version {
            Some(version) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "data": changes});
                maps.patch(CONFIG_MAP, &patch_parameters(), &Patch::Merge(&patch)).await
            }
            None => {
                let mut map = ConfigMap::default();
                map.metadata.name = Some(CONFIG_MAP.to_owned());
                map.data = Some(document.with_changes(changes).data);
                maps.create(&post_parameters(), &map).await
            }
        };
        match done {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(self.request_error("write ConfigMap adit-system/adit")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_names_a_wrong_context_or_server_is_told_what_there_is_and_what_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        // Nobody listens at this port.
        let text = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n\
                    users: [{name: u, user: {}}]\ncontexts: [{name: edge, context: {cluster: c, user: u}}, \
                    {name: bank, context: {cluster: c, user: u}}]\n";
        std::fs::write(&file, text).unwrap();
        let wrong = Context::connect(Some(&file), Some("bnak")).await.unwrap_err().to_string();
        assert!(wrong.contains("context bnak cannot be used"), "{wrong}");
        assert!(wrong.contains("the kubeconfig has contexts edge, bank;"), "{wrong}");
        let edge = Context::connect(Some(&file), Some("edge")).await.unwrap();
        let away = edge.document().await.unwrap_err().to_string();
        assert!(away.contains("Connection refused"), "{away}");
    }
}
