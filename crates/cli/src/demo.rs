//! `adit demo`: two clusters on loopback, without Kubernetes, without root, without a file to
//! write.
//!
//! The story is in `adit-demo`. Here are arguments, the terminal, and the start of a node, which
//! must end with the demo even if that is killed.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use adit_demo::{DemoEnd, DemoOptions};
use anyhow::Context as _;

/// Two clusters on loopback: watch agents of one talk to agents of the other
///
/// Needs nothing but this program: no Kubernetes, no root, no file. It makes two clusters with an
/// authority each, starts two nodes for one and one for the other as processes of their own, and
/// tells step by step what agents do across the link, until a node is killed and comes back. Every
/// step is a check. Everything lies in one temporary folder, which is removed at the end.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 all steps held, 1 a step failed (its reason, and where logs \
                        are kept, is told), 130 interrupted."
)]
pub(crate) struct Args {
    /// Leave after the last step instead of staying up
    #[arg(long)]
    once: bool,
    /// Become `adit node --config FILE`, which ends when the process PARENT does
    #[arg(long, hide = true, value_names = ["FILE", "PARENT"], num_args = 2, conflicts_with = "once")]
    become_node: Option<Vec<String>>,
}

/// Runs the command.
///
/// # Errors
///
/// The first step that did not hold.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some([config, parent]) = args.become_node.as_deref() {
        return become_node(Path::new(config), parent);
    }
    let options = DemoOptions {
        once: args.once,
        colour: std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        program: program(),
        launch,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match runtime.block_on(adit_demo::run(&options, Box::new(std::io::stdout()))) {
        Ok(DemoEnd::Told) => Ok(ExitCode::SUCCESS),
        Ok(DemoEnd::Interrupted) => Ok(ExitCode::from(130)),
        Err(failed) => {
            let kept = failed.kept.as_ref();
            let kept = kept.map(|folder| format!("\nConfiguration and logs: {}", folder.display()));
            Err(anyhow::anyhow!("{failed}{}", kept.unwrap_or_default()))
        }
    }
}

/// Returns this program as a reader would type it: relative to the present folder if it is below
/// that.
fn program() -> String {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("adit"));
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| own.strip_prefix(here).ok().map(Path::to_owned));
    below.unwrap_or(own).display().to_string()
}

/// The running program itself, even if its file was replaced or removed since it was started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A child can ask the kernel to end it with its parent only for itself, so this program is started
/// first and then becomes the node.
fn launch(config: &Path) -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.args(["demo", "--become-node"]).arg(config).arg(std::process::id().to_string());
    command
}

fn become_node(config: &Path, parent: &str) -> anyhow::Result<ExitCode> {
    let parent = parent.parse().context("PARENT is a process ID")?;
    adit_demo::end_with_parent(parent).context("cannot be tied to the demo")?;
    // By its own path if that is still there, so that `ps` and `top` show it by its name.
    let mut error = None;
    for program in [std::env::current_exe().ok(), Some(THIS_PROGRAM.into())].into_iter().flatten() {
        let node = ["node", "--config"];
        error = Some(Command::new(program).arg0("adit").args(node).arg(config).exec());
    }
    Err(error.context("no program")?).context("cannot become a node")
}
