//! The manifests of `daemonset/`, as Kustomize renders them.
//!
//! The files are part of this program, so that there is one source. Of Kustomize this does what those files use (a
//! namespace, labels, an image), and a key that it does not know is an error, so that no rendering is ever half of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::kinds::ObjectKind;

/// The name of the image in the base, which is nobody's: an overlay says which it is.
const BASE_IMAGE: &str = "adit";

/// A file of the manifests.
macro_rules! manifest {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../daemonset/", $path))
    };
}

/// A kustomization with what it names as its resources.
struct ManifestLayer {
    kustomization: &'static str,
    resources: &'static [(&'static str, LayerResource)],
}

enum LayerResource {
    File(&'static str),
    Layer(&'static ManifestLayer),
}

static DEFINITIONS: ManifestLayer = ManifestLayer {
    kustomization: manifest!("crds/kustomization.yaml"),
    resources: &[("crds.yaml", LayerResource::File(manifest!("crds/crds.yaml")))],
};

static BASE: ManifestLayer = ManifestLayer {
    kustomization: manifest!("base/kustomization.yaml"),
    resources: &[
        ("namespace.yaml", LayerResource::File(manifest!("base/namespace.yaml"))),
        ("../crds", LayerResource::Layer(&DEFINITIONS)),
        ("policies.yaml", LayerResource::File(manifest!("base/policies.yaml"))),
        ("config.yaml", LayerResource::File(manifest!("base/config.yaml"))),
        ("node.yaml", LayerResource::File(manifest!("base/node.yaml"))),
        ("controller.yaml", LayerResource::File(manifest!("base/controller.yaml"))),
    ],
};

/// The overlay that names the image which `daemonset/image/build` makes.
const LOADED_IMAGE: &str = manifest!("overlays/kind/kustomization.yaml");

/// The manifests cannot be rendered: this build was made from files that do not fit each other.
#[derive(Debug, thiserror::Error)]
#[error(
    "the manifests that this program carries cannot be used: {0}\n  hint: take another build of it"
)]
pub struct ManifestError(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    namespace: Option<String>,
    resources: Vec<String>,
    #[serde(default)]
    labels: Vec<KustomizationLabels>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KustomizationLabels {
    pairs: BTreeMap<String, String>,
    #[serde(default)]
    include_templates: bool,
}

#[derive(Deserialize)]
struct ImageOverlay {
    images: Vec<ImageChoice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageChoice {
    new_name: String,
    new_tag: String,
}

/// Choices that an overlay makes.
#[derive(Debug, Clone, Default)]
pub struct ManifestOptions {
    /// The image of controller and nodes; `None` leaves the base's name, which no cluster can pull.
    pub image: Option<String>,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`; `None` leaves it to Kubernetes.
    pub pull_policy: Option<String>,
}

/// An object of the manifests.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestObject {
    /// Its kind.
    pub kind: &'static ObjectKind,
    /// Its name.
    pub name: String,
    /// All of it, as it is applied.
    pub value: Value,
}

impl ManifestObject {
    /// Returns its name for people: `DaemonSet adit-node`.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} {}", self.kind.kind, self.name)
    }
}

/// Returns the image that `daemonset/image/build` makes.
///
/// # Errors
/// If this build carries no such name.
pub fn default_image() -> Result<String, ManifestError> {
    let overlay: ImageOverlay = single("overlays/kind", LOADED_IMAGE)?;
    let missing = || ManifestError("overlays/kind names no image".to_owned());
    let ImageChoice { new_name, new_tag } = overlay.images.first().ok_or_else(missing)?;
    Ok(format!("{new_name}:{new_tag}"))
}

/// Renders all objects, in the order in which they are applied.
///
/// # Errors
/// If this build's files do not fit each other.
pub fn render(options: &ManifestOptions) -> Result<Vec<ManifestObject>, ManifestError> {
    let mut objects = render_layer("base", &BASE)?;
    for object in &mut objects {
        choose_image(&mut object.value, options);
    }
    // Stable: objects of a kind stay in the order of the files.
    objects.sort_by_key(|object| object.kind.rank());
    Ok(objects)
}

/// Writes objects as one YAML file.
///
/// # Errors
/// If a value has no form in YAML.
pub fn to_yaml(objects: &[ManifestObject]) -> Result<String, ManifestError> {
    let documents = objects.iter().map(|object| {
        adit_config::to_yaml(&object.value).map_err(|error| ManifestError(error.to_string()))
    });
    Ok(documents.collect::<Result<Vec<_>, _>>()?.join("---\n"))
}

fn single<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, ManifestError> {
    let documents = adit_config::from_yaml::<T>(text);
    let documents = documents.map_err(|error| ManifestError(format!("{name}: {error}")))?;
    let count = documents.len();
    let [document] = <[T; 1]>::try_from(documents)
        .map_err(|_| ManifestError(format!("{name} has {count} documents")))?;
    Ok(document)
}

fn render_layer(name: &str, layer: &ManifestLayer) -> Result<Vec<ManifestObject>, ManifestError> {
    let kustomization: Kustomization = single(name, layer.kustomization)?;
    let mut objects = Vec::new();
    for resource in &kustomization.resources {
        match layer.resources.iter().find(|(known, _)| known == resource) {
            Some((_, LayerResource::File(text))) => objects.extend(parse_file(resource, text)?),
            Some((_, LayerResource::Layer(inner))) => {
                objects.extend(render_layer(resource, inner)?);
            }
            None => return Err(ManifestError(format!("{name}: {resource} is missing"))),
        }
    }
    for ManifestObject { kind, value, .. } in &mut objects {
        if let Some(namespace) = kustomization.namespace.as_ref().filter(|_| kind.is_namespaced) {
            value["metadata"]["namespace"] = json!(namespace);
        }
        for KustomizationLabels { pairs, include_templates } in &kustomization.labels {
            for (key, label) in pairs {
                value["metadata"]["labels"][key] = json!(label);
                if *include_templates && value["spec"]["template"].is_object() {
                    value["spec"]["template"]["metadata"]["labels"][key] = json!(label);
                }
            }
        }
    }
    Ok(objects)
}

fn parse_file(name: &str, text: &str) -> Result<Vec<ManifestObject>, ManifestError> {
    let values = adit_config::from_yaml::<Value>(text);
    let values = values.map_err(|error| ManifestError(format!("{name}: {error}")))?;
    let object = |value: Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&value["apiVersion"]), text(&value["kind"]));
        let unknown = || ManifestError(format!("{name}: {api_version} {kind} is no known kind"));
        let kind = ObjectKind::find(&api_version, &kind).ok_or_else(unknown)?;
        Ok(ManifestObject { kind, name: text(&value["metadata"]["name"]), value })
    };
    values.into_iter().map(object).collect()
}

/// Sets image and pull policy of the containers that have the base's image.
fn choose_image(value: &mut Value, options: &ManifestOptions) {
    for list in ["initContainers", "containers"] {
        let containers = value.pointer_mut(&format!("/spec/template/spec/{list}"));
        for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
            if container["image"] != BASE_IMAGE {
                continue;
            }
            if let Some(image) = &options.image {
                container["image"] = json!(image);
            }
            if let Some(policy) = &options.pull_policy {
                container["imagePullPolicy"] = json!(policy);
            }
        }
    }
}
