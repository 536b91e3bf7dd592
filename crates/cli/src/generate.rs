//! `adit completions` and `adit man`: what a release carries beside the binary, made from its own arguments.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::output::print;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Write the man pages, one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The folder, which is there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completions of `command`.
///
/// # Errors
/// Only if they cannot be printed.
pub(crate) fn completions(
    args: &CompletionsArgs,
    mut command: clap::Command,
) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "adit", &mut text);
    print(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the man pages of `command` and its subcommands.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn man(args: &ManArgs, command: clap::Command) -> anyhow::Result<ExitCode> {
    clap_mangen::generate_to(command, &args.folder)
        .with_context(|| format!("cannot write man pages into {}", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs { folder: folder.path().to_owned() };
        man(&args, Cli::command()).unwrap();
        let shown = Cli::command();
        let shown: Vec<&str> = shown
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(clap::Command::get_name)
            .collect();
        assert!(shown.contains(&"migrate") && !shown.contains(&"man"));
        for shell in clap_complete::Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "adit", &mut text);
            let text = String::from_utf8(text).unwrap();
            for name in &shown {
                assert!(text.contains(name), "{shell}: {name}");
            }
        }
        for name in &shown {
            let page = folder.path().join(format!("adit-{name}.1"));
            assert!(page.exists(), "{}", page.display());
        }
        let missing = ManArgs { folder: folder.path().join("missing") };
        assert!(man(&missing, Cli::command()).unwrap_err().to_string().contains("missing"));
    }
}
