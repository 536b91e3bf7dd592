//! `adit crds`: the definitions of Adit's own kinds, for `kubectl apply`. `daemonset/crds` holds
//! its output.

use std::process::ExitCode;

use crate::output::print;

/// Print the CustomResourceDefinitions, YAML
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints them.
///
/// # Errors
/// Only if they cannot be printed.
pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    print(&documents()?)?;
    Ok(ExitCode::SUCCESS)
}

fn documents() -> anyhow::Result<String> {
    let definitions = adit_kubernetes::api::definitions();
    let documents = definitions.iter().map(adit_config::to_yaml);
    let documents: Vec<String> = documents.collect::<Result<_, _>>()?;
    Ok(documents.join("---\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manifests_have_what_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../daemonset/crds/crds.yaml");
        let current = std::fs::read_to_string(path).unwrap() == super::documents().unwrap();
        assert!(current, "adit crds > daemonset/crds/crds.yaml");
    }

    #[test]
    fn definitions_come_back_from_what_is_printed() {
        for definition in adit_kubernetes::api::definitions() {
            let text = adit_config::to_yaml(&definition).unwrap();
            assert!(text.starts_with("apiVersion: apiextensions.k8s.io/v1\n"), "{text}");
            assert!(text.contains("scope: Cluster"), "{text}");
        }
    }
}
