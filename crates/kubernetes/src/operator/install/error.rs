//! The reasons why a cluster is not installed.

use super::manifests::ManifestError;
use crate::operator::context::ContextError;
use crate::operator::link::LinkError;

/// The oldest Kubernetes that the manifests work on, as minor version of 1.
pub const OLDEST_MINOR: u32 = 33;

/// The reason why a cluster was not installed. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The cluster cannot be asked, or refused a request.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// This build's manifests are unusable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The cluster's identity cannot be determined or written.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The API server is too old.
    #[error(
        "context {context}: its API server is Kubernetes {version}, and Adit needs 1.{OLDEST_MINOR} or later\n  \
         hint: upgrade that cluster first"
    )]
    ServerTooOld {
        /// The context.
        context: String,
        /// The version that the server tells.
        version: String,
    },
    /// Rights are missing.
    #[error(
        "context {context}: its user lacks rights:\n  {}\n  hint: this takes an administrator of the cluster; \
         `kubectl --context {context} auth whoami` says who you are there",
        missing.join("\n  ")
    )]
    MissingRights {
        /// The context.
        context: String,
        /// The missing rights, each as `VERBS on RESOURCES`.
        missing: Vec<String>,
    },
    /// Objects of these names are there and are not Adit's.
    #[error(
        "context {context}: {} there already and not Adit's (without label app.kubernetes.io/part-of=adit)\n  hint: \
         remove or rename what has the name; if it is left over from Adit, --force-conflicts takes it over",
        describe_taken(objects)
    )]
    NameTaken {
        /// The context.
        context: String,
        /// The objects.
        objects: Vec<String>,
    },
    /// Adit's namespace is about to go.
    #[error(
        "context {context}: namespace adit-system is being removed there\n  hint: wait until it is gone; `adit uninstall \
         --context {context}` says what holds it"
    )]
    BeingRemoved {
        /// The context.
        context: String,
    },
    /// Adit is installed there in another form.
    #[error(
        "context {context}: Adit is installed there already, and differs from what this would apply in {differing} objects\n  \
         hint: `adit upgrade --context {context}` says what would change, and changes it; `adit link` links as it is"
    )]
    InstalledOtherwise {
        /// The context.
        context: String,
        /// Number of objects that differ.
        differing: usize,
    },
    /// Fields are held by others.
    #[error(
        "context {context}: others have set what would be changed:\n  {}\n  hint: let whoever set it give it up, or take \
         it over with --force-conflicts; after an installation by `kubectl apply` that is once",
        fields.join("\n  ")
    )]
    FieldConflict {
        /// The context.
        context: String,
        /// The fields with their holders.
        fields: Vec<String>,
    },
    /// Somebody else changes the same objects at this moment.
    #[error(
        "context {context}: somebody else changes {object} at the same time\n  hint: run the same command again when \
         they are done"
    )]
    Contended {
        /// The context.
        context: String,
        /// The object.
        object: String,
    },
    /// An object could not be written, after others were.
    #[error(
        "{error}\n  {done} of {all} objects were written before; run the same command again, which does the rest"
    )]
    HalfDone {
        /// Number of objects that were written.
        done: usize,
        /// Number of all objects.
        all: usize,
        /// The problem.
        error: Box<Self>,
    },
    /// Controller or nodes did not become ready in time.
    #[error(
        "not ready in time:\n  {}\n  hint: the manifests are applied and stay; run the same command again to wait on",
        waiting.join("\n  ")
    )]
    NotReady {
        /// The missing things, by cluster.
        waiting: Vec<String>,
    },
    /// Something is left of an installation that is being removed.
    #[error(
        "context {context}: still there: {}\n  hint: what was deleted goes on going; run the same command again to wait \
         on. A namespace that does not end says why: `kubectl --context {context} get namespace adit-system -o yaml`",
        left.join(", ")
    )]
    NotRemoved {
        /// The context.
        context: String,
        /// The things that are left.
        left: Vec<String>,
    },
}

impl InstallError {
    /// Returns whether something was written before it happened.
    #[must_use]
    pub fn is_half_done(&self) -> bool {
        matches!(self, Self::HalfDone { .. } | Self::NotReady { .. } | Self::NotRemoved { .. })
    }
}

fn describe_taken(objects: &[String]) -> String {
    let verb = if objects.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", objects.join(", "))
}
