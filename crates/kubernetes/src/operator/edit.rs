//! Changes of the ConfigMap: computed from its present content, checked as a whole, written or
//! printed.
//!
//! A change is a function from the document to the keys that become different. It is called again
//! if somebody else wrote in between, and never brings an error that was not there before.

use std::collections::BTreeMap;

use adit_config::ClusterReport;

use super::context::{ConfigDocument, Context, ContextError};
use crate::api::{CONFIG_MAP, NAMESPACE};

/// Keys and their new text; `None` removes a key.
pub type ConfigChanges = BTreeMap<String, Option<String>>;

/// Most attempts while somebody else writes in between.
const MAX_ATTEMPTS: u32 = 10;

/// The reason why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The cluster cannot be asked.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The configuration has errors, or would have.
    #[error("context {context}: {what}\n{report}")]
    Configuration {
        /// The context.
        context: String,
        /// Says whether the errors are there already.
        what: &'static str,
        /// All errors.
        report: Box<ClusterReport>,
    },
    /// The object is declared in a key that is not the commands' own.
    #[error(
        "context {context}: {what} is declared in key {key} of the ConfigMap, which this command does not touch\n  \
         hint: change it there, or take it out there first"
    )]
    DeclaredElsewhere {
        /// The context.
        context: String,
        /// The object.
        what: String,
        /// The key.
        key: String,
    },
    /// Another Service is exported under the name.
    #[error(
        "context {context}: another Service is exported as {name}, by key {key} of the ConfigMap\n  \
         hint: give another name (--as), or take that back first: adit export {name} --remove"
    )]
    NameTaken {
        /// The context.
        context: String,
        /// The name.
        name: String,
        /// The key.
        key: String,
    },
    /// Somebody else changes the ConfigMap all the time.
    #[error("context {0}: the ConfigMap changes all the time; try again")]
    Contended(String),
}

/// Result of a change.
#[derive(Debug, Clone, Default)]
pub struct EditOutcome {
    /// The changed keys; empty if everything was so already.
    pub changes: ConfigChanges,
    /// The document after the change.
    pub after: ConfigDocument,
}

/// Makes a change; with `dry` it is only computed.
///
/// # Errors
/// [`EditError`], see there.
pub async fn edit(
    context: &Context,
    dry: bool,
    change: impl Fn(&ConfigDocument) -> Result<ConfigChanges, EditError>,
) -> Result<EditOutcome, EditError> {
    for _ in 0..MAX_ATTEMPTS {
        let document = context.document().await?;
        let changes = effective_changes(&document, change(&document)?);
        let after = document.with_changes(&changes);
        reject_new_errors(context, &document, &after)?;
        if changes.is_empty() || dry || context.write(&document, &changes).await? {
            return Ok(EditOutcome { changes, after });
        }
    }
    Err(EditError::Contended(context.name.clone()))
}

/// Keeps the changes that make a difference.
fn effective_changes(document: &ConfigDocument, changes: ConfigChanges) -> ConfigChanges {
    changes.into_iter().filter(|(key, text)| document.data.get(key) != text.as_ref()).collect()
}

fn reject_new_errors(
    context: &Context,
    before: &ConfigDocument,
    after: &ConfigDocument,
) -> Result<(), EditError> {
    let errors = |document: &ConfigDocument| match document.parse() {
        Ok(_) => (0, None),
        Err(report) => (report.errors().count(), Some(report)),
    };
    match (errors(before), errors(after)) {
        ((before, _), (now, Some(report))) if now > before => Err(EditError::Configuration {
            context: context.name.clone(),
            what: "this would make the configuration wrong, so nothing was changed:",
            report: report.into(),
        }),
        _ => Ok(()),
    }
}

/// Returns the manifest that makes the same changes, for a repository. Removed keys are only named.
#[must_use]
pub fn manifest(context: &str, changes: &ConfigChanges) -> String {
    let name = changes.keys().next_back().map_or("", |key| key.trim_end_matches(".yaml"));
    let mut text = format!(
        "# For context {context}. Keys of others stay as they are if it has a field manager of its own:\n\
         # kubectl --context {context} apply --server-side --field-manager adit-{} -f FILE\n",
        name.chars().take(100).collect::<String>()
    );
    for (key, _) in changes.iter().filter(|(_, text)| text.is_none()) {
        text += &format!("# Key {key} goes: take it out of what declares it.\n");
    }
    text += &format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {CONFIG_MAP}\n  namespace: {NAMESPACE}\n"
    );
    let kept: Vec<_> =
        changes.iter().filter_map(|(key, text)| Some((key, text.as_ref()?))).collect();
    text += if kept.is_empty() { "data: {}\n" } else { "data:\n" };
    for (key, value) in kept {
        text += &format!("  {key}: |\n");
        // Fragments of ours are plain lines.
        text.extend(value.lines().map(|line| format!("    {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_holds_the_fragment_as_it_is() {
        let changes = ConfigChanges::from([
            ("cluster.yaml".to_owned(), Some("cluster: edge\n".to_owned())),
            ("link-bank.yaml".to_owned(), Some("links:\n  - cluster: bank\n".to_owned())),
            ("old.yaml".to_owned(), None),
        ]);
        let text = manifest("kind-edge", &changes);
        assert!(text.contains("--context kind-edge") && text.contains("# Key old.yaml goes"));
        assert!(text.ends_with(
            "data:\n  cluster.yaml: |\n    cluster: edge\n  link-bank.yaml: |\n    links:\n      - cluster: bank\n"
        ));
    }

    #[test]
    fn what_is_so_already_is_no_change() {
        let text = |s: &str| Some(s.to_owned());
        let mut document = ConfigDocument::default();
        document.data.insert("a.yaml".into(), "x".into());
        let wanted = ConfigChanges::from([
            ("a.yaml".to_owned(), text("x")),
            ("b.yaml".to_owned(), text("y")),
            ("c.yaml".to_owned(), None),
        ]);
        assert_eq!(
            effective_changes(&document, wanted),
            ConfigChanges::from([("b.yaml".to_owned(), text("y"))])
        );
    }
}
