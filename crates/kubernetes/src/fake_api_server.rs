//! A fake API server for tests: it keeps objects in memory, and fails on request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A fault instead of the normal answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// An error of the API.
    Status(u16),
    /// Another's answer, to whom the request is passed: its status and text.
    Passed(u16, String),
    /// Nothing, for ever.
    Silence,
    /// A watch that is accepted and brings nothing.
    Stall,
    /// A field that another manager holds.
    Held(&'static str),
    /// Success, though all stays as it was.
    Unchanged,
    /// None: the request panics.
    Panic,
    /// The normal answer, after so long.
    Late(Duration),
}

type FakeResponse = UnsyncBoxBody<bytes::Bytes, Infallible>;
type Rule = Box<dyn FnMut(&Method, &str) -> Option<Fault> + Send>;

#[derive(Default)]
struct FakeState {
    /// By collection (`GROUP/RESOURCE`), namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    requests: Vec<String>,
    watchers: Vec<(Query, mpsc::Sender<String>)>,
    rules: Vec<Rule>,
    /// Rights that nobody has, as `VERB RESOURCE`; everybody has all others.
    denied: Vec<String>,
    /// The minor version that the server tells; 33 if empty.
    minor: String,
}

/// The server. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct FakeApiServer(Arc<Mutex<FakeState>>);

/// The parts of a request.
#[derive(Debug, Clone)]
struct Query {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    labels: Option<String>,
    field: Option<String>,
    watch: bool,
    /// True if an object is applied on the server's side.
    applies: bool,
    dry: bool,
}

impl Query {
    fn of(uri: &http::Uri) -> Self {
        let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let group = if parts[0] == "api" { String::new() } else { parts[1].to_owned() };
        parts.drain(..if parts[0] == "api" { 2 } else { 3 });
        let mut namespace = None;
        if parts[0] == "namespaces" && parts.len() > 2 {
            namespace = Some(parts[1].to_owned());
            parts.drain(..2);
        }
        let owned = |part: Option<&&str>| part.map(|p| (*p).to_owned());
        let query = uri.query().unwrap_or_default();
        let parameter = |name: &str| {
            let found = query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")));
            found.map(decoded)
        };
        Self {
            collection: format!("{group}/{}", parts[0]),
            namespace,
            name: owned(parts.get(1)),
            subresource: owned(parts.get(2)),
            labels: parameter("labelSelector"),
            field: parameter("fieldSelector"),
            watch: parameter("watch").is_some(),
            applies: false,
            dry: parameter("dryRun").is_some(),
        }
    }

    fn fits(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let namespace = self.namespace.as_ref().is_none_or(|n| meta["namespace"] == **n);
        let named = self.field.as_ref().and_then(|f| f.strip_prefix("metadata.name="));
        let labels = self.labels.as_ref().is_none_or(|selector| {
            if let Some((key, values)) = selector.split_once(" in ") {
                let value = meta["labels"][key].as_str().unwrap_or("\0");
                return values.trim_matches(['(', ')']).split(',').any(|v| v == value);
            }
            let (key, value) = selector.split_once('=').unwrap_or((selector, ""));
            meta["labels"][key].as_str() == Some(value)
        });
        namespace && labels && named.is_none_or(|n| meta["name"] == n)
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).unwrap()
}

impl FakeApiServer {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Answers requests for which `rule` returns a fault with that fault.
    pub(crate) fn fail(&self, rule: impl FnMut(&Method, &str) -> Option<Fault> + Send + 'static) {
        self.inner().rules.push(Box::new(rule));
    }

    /// Takes a right from everybody: `VERB RESOURCE`.
    pub(crate) fn deny(&self, right: &str) {
        self.inner().denied.push(right.to_owned());
    }

    /// Tells another minor version of Kubernetes.
    pub(crate) fn set_minor_version(&self, minor: &str) {
        self.inner().minor = minor.to_owned();
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.inner().rules.clear();
    }

    /// Puts an object there, as any client might.
    pub(crate) fn put(&self, collection: &str, object: Value) -> Value {
        let key = |part: &str| object["metadata"][part].as_str().unwrap_or_default().to_owned();
        let key = (collection.to_owned(), key("namespace"), key("name"));
        let mut inner = self.inner();
        let event = if inner.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        inner.store(key, object, event)
    }

    pub(crate) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        self.inner().remove(&key);
    }

    pub(crate) fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        self.inner().objects.get(&key).cloned()
    }

    /// All objects of a collection.
    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        let inner = self.inner();
        let all = inner.objects.iter().filter(|((c, ..), _)| c == collection);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// `METHOD PATH` of all requests so far that fit.
    pub(crate) fn requests(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        self.inner().requests.iter().filter(|r| fits(r)).cloned().collect()
    }

    /// Ends all watches with `410 Gone`.
    pub(crate) fn expire_watches(&self) {
        let gone = json!({"type": "ERROR", "object": status(410)});
        for (_, watcher) in std::mem::take(&mut self.inner().watchers) {
            drop(watcher.try_send(format!("{gone}\n")));
        }
    }

    fn inner(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap()
    }

    async fn answer(self, request: Request<Body>) -> Response<FakeResponse> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let fault = {
            let mut inner = self.inner();
            inner.requests.push(format!("{} {path}", parts.method));
            inner.rules.iter_mut().find_map(|rule| rule(&parts.method, &path))
        };
        if parts.uri.path() == "/version" {
            return json_answer(200, &self.inner().version());
        }
        let mut query = Query::of(&parts.uri);
        query.applies = parts.headers.get("content-type").is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.starts_with("application/apply-patch"))
        });
        match fault {
            Some(Fault::Status(code)) => return json_answer(code, &status(code)),
            Some(Fault::Passed(code, text)) => return text_answer(code, text),
            Some(Fault::Held(field)) => {
                let mut conflict = status(409);
                conflict["details"] = json!({"causes": [{
                    "reason": "FieldManagerConflict", "field": field, "message": "conflict with \"kubectl\"",
                }]});
                return json_answer(409, &conflict);
            }
            Some(Fault::Silence) => return std::future::pending().await,
            Some(Fault::Unchanged) => {
                let (code, answer) = self.inner().serve(&Method::GET, &query, Value::Null);
                return json_answer(code, &answer);
            }
            Some(Fault::Panic) => panic!("as this test wants it"),
            Some(Fault::Stall) => return stream_answer(stream::pending().boxed()),
            Some(Fault::Late(late)) => tokio::time::sleep(late).await,
            None => {}
        }
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
        if query.watch {
            let (send, receive) = mpsc::channel(1000);
            self.inner().watchers.push((query, send));
            let lines = stream::unfold(receive, |mut receive| async move {
                let line: String = receive.recv().await?;
                Some((line, receive))
            });
            return stream_answer(lines.boxed());
        }
        let (code, answer) = self.inner().serve(&parts.method, &query, body);
        json_answer(code, &answer)
    }
}

impl FakeState {
    fn serve(&mut self, method: &Method, query: &Query, mut body: Value) -> (u16, Value) {
        let name = query.name.clone().or_else(|| body["metadata"]["name"].as_str().map(Into::into));
        let namespace = query.namespace.clone().unwrap_or_default();
        let key = (query.collection.clone(), namespace, name.clone().unwrap_or_default());
        let stored = self.objects.get(&key).cloned();
        if key.0 == "authorization.k8s.io/selfsubjectaccessreviews" {
            return (201, self.review(body));
        }
        match (method.as_str(), stored) {
            ("GET", _) if query.name.is_none() => {
                let all = self.objects.iter().filter(|((c, ..), _)| *c == query.collection);
                let items: Vec<Value> =
                    all.map(|(_, o)| o.clone()).filter(|o| query.fits(o)).collect();
                let version = self.version.to_string();
                (200, json!({"metadata": {"resourceVersion": version}, "items": items}))
            }
            ("GET", Some(object)) => (200, object),
            ("POST", None) => {
                if !key.1.is_empty() {
                    body["metadata"]["namespace"] = key.1.clone().into();
                }
                if key.0 == "/services" {
                    body["spec"]["ipFamilies"] = json!(["IPv4"]);
                }
                (201, self.store(key, body, "ADDED"))
            }
            ("POST", Some(_)) => (409, status(409)),
            ("PUT", Some(old)) => {
                let sent = &body["metadata"]["resourceVersion"];
                if !sent.is_null() && *sent != old["metadata"]["resourceVersion"] {
                    return (409, status(409));
                }
                let mut fresh =
                    if query.subresource.is_some() { old.clone() } else { body.clone() };
                fresh["status"] = if query.subresource.is_some() {
                    body["status"].take()
                } else {
                    old["status"].clone()
                };
                (200, self.store(key, fresh, "MODIFIED"))
            }
            ("PATCH", old) if old.is_some() || query.applies => {
                let old = old.unwrap_or_default();
                let sent = &body["metadata"]["resourceVersion"];
                if !sent.is_null() && *sent != old["metadata"]["resourceVersion"] {
                    return (409, status(409));
                }
                let event = if old.is_null() { "ADDED" } else { "MODIFIED" };
                let mut fresh = old;
                merge(&mut fresh, body);
                let fresh = if query.dry { fresh } else { self.store(key, fresh, event) };
                (200, fresh)
            }
            ("DELETE", Some(_)) => {
                self.remove(&key);
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            _ => (404, status(404)),
        }
    }

    /// Answers a question for a right.
    fn review(&self, mut body: Value) -> Value {
        let asked = &body["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default();
        let right = format!("{} {}", text("verb"), text("resource"));
        let denied = self.denied.contains(&right) || (right == "* *" && !self.denied.is_empty());
        body["status"] = json!({"allowed": !denied});
        body
    }

    fn version(&self) -> Value {
        let minor = if self.minor.is_empty() { "33" } else { &self.minor };
        json!({
            "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0"), "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        })
    }

    fn store(&mut self, key: (String, String, String), mut object: Value, event: &str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        self.objects.insert(key.clone(), object.clone());
        self.tell(&key, event, &object);
        object
    }

    fn remove(&mut self, key: &(String, String, String)) {
        if let Some(mut object) = self.objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.tell(key, "DELETED", &object);
        }
    }

    fn tell(&mut self, key: &(String, String, String), event: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": event, "object": object}));
        self.watchers.retain(|(query, watcher)| {
            let told = query.collection == key.0 && query.fits(object);
            !told || watcher.try_send(line.clone()).is_ok()
        });
    }
}

/// Merges a patch into an object: `null` removes, and lists are replaced.
fn merge(object: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *object = patch;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut object[key], value);
        }
    }
}

fn status(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": format!("the test says {code}"), "reason": reason})
}

fn json_answer(code: u16, body: &Value) -> Response<FakeResponse> {
    text_answer(code, body.to_string())
}

fn text_answer(code: u16, text: String) -> Response<FakeResponse> {
    let body = Full::from(text.into_bytes()).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn stream_answer(lines: stream::BoxStream<'static, String>) -> Response<FakeResponse> {
    let frames =
        lines.map(|line| Ok::<_, Infallible>(http_body::Frame::data(line.into_bytes().into())));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// Waits until it is so; fails after a minute.
pub(crate) async fn eventually(what: &str, so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within a minute");
}
