//! Arguments by which commands reach clusters (kubeconfig and context, as kubectl has them), and
//! the report of a change.

use std::future::Future;
use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_kubernetes::operator::context::{Context, ContextError};
use adit_kubernetes::operator::edit::{ConfigChanges, EditOutcome, manifest};

use crate::output::print;

/// The kubeconfig in which contexts are looked up.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct KubeconfigArgs {
    /// The kubeconfig; without it KUBECONFIG and ~/.kube/config, as kubectl does
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// The cluster that a command is for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The cluster's kubeconfig context; without it the current one
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) kubeconfig: KubeconfigArgs,
}

impl KubeconfigArgs {
    pub(crate) async fn connect(&self, context: Option<&str>) -> Result<Context, ContextError> {
        Context::connect(self.kubeconfig.as_deref(), context).await
    }
}

impl ClusterArgs {
    pub(crate) async fn connect(&self) -> Result<Context, ContextError> {
        self.kubeconfig.connect(self.context.as_deref()).await
    }
}

/// Exit status if a command is used wrongly.
pub(crate) const MISUSED: u8 = 2;
/// Exit status of commands that show, if a cluster cannot be asked.
pub(crate) const UNREACHABLE: u8 = 2;
/// Exit status if something was changed, and not all of it.
pub(crate) const UNFINISHED: u8 = 3;

/// Turns the result of changing clusters into an exit status: an error after the first change is not the same as one
/// before it.
pub(crate) fn exit_status(done: anyhow::Result<()>, is_changed: bool) -> anyhow::Result<ExitCode> {
    match done {
        Err(error) if is_changed => {
            eprintln!("adit: {error:#}");
            Ok(ExitCode::from(UNFINISHED))
        }
        Err(error) => Err(error.context("nothing was changed")),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Asks a person whether to go on. Where nobody can be asked, the answer is no.
///
/// # Errors
/// If the terminal cannot be read or written.
pub(crate) fn confirm() -> std::io::Result<bool> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(false);
    }
    write!(stderr(), "Go on? [y/N] ")?;
    stderr().flush()?;
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

/// Runs a future that asks an API server or a daemon.
pub(crate) fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

/// Reports a change that was made, or prints it if `print_only` is set.
pub(crate) fn report_edit(
    context: &Context,
    edited: &EditOutcome,
    print_only: bool,
    done: &str,
) -> anyhow::Result<()> {
    let Context { name, .. } = context;
    if edited.changes.is_empty() {
        let line = format!("context {name}: nothing to change\n");
        return print(&if print_only { format!("# {line}") } else { line });
    }
    if print_only {
        return print(&manifest(name, &edited.changes));
    }
    print(&format!("context {name}: {done} ({})\n", describe_keys(&edited.changes)))
}

/// Describes the changed keys.
fn describe_keys(changes: &ConfigChanges) -> String {
    let one = |(key, text): (&String, &Option<String>)| match text {
        Some(_) => format!("wrote key {key}"),
        None => format!("took out key {key}"),
    };
    let all: Vec<_> = changes.iter().map(one).collect();
    format!("{} in ConfigMap adit-system/adit", all.join(", "))
}

/// The step after a link, which every command says that has made one.
pub(crate) const NEXT_STEP: &str =
    "next: `adit export NAMESPACE/NAME --context CONTEXT --to CLUSTER --allow SERVICEACCOUNT`\n";

/// The longest time that a command waits.
const MAX_WAIT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a time as options have it: a whole number and its unit, a day at most.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    adit_config::parse_duration(text, &(Duration::ZERO..=MAX_WAIT_TIMEOUT))
}
