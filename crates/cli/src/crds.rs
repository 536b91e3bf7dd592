//! `adit crds`: the definitions of Adit's own kinds, for `kubectl apply`. What `daemonset/crds` holds.

use std::process::ExitCode;

use crate::output::print;

/// Print the CustomResourceDefinitions, YAML
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints them.
///
/// # Errors
/// Only where they cannot be printed.
pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let definitions = adit_kubernetes::api::definitions();
    let documents = definitions.iter().map(adit_config::to_yaml);
    let documents: Vec<String> = documents.collect::<Result<_, _>>()?;
    print(&documents.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn definitions_come_back_from_what_is_printed() {
        for definition in adit_kubernetes::api::definitions() {
            let text = adit_config::to_yaml(&definition).unwrap();
            assert!(text.starts_with("apiVersion: apiextensions.k8s.io/v1\n"), "{text}");
            assert!(text.contains("scope: Cluster"), "{text}");
        }
    }
}
