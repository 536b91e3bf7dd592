//! `adit node`: runs the daemon.
//!
//! Exit status: 0 it has drained, 1 it could not start (with everything that was in the way), 128 + N it
//! was ended at once by signal N, the second one.

use std::path::PathBuf;
use std::process::ExitCode;

use adit_daemon::process::{self, Ended};

/// Run a node: carry streams between this cluster and those it is linked with
///
/// Ends on SIGTERM or SIGINT: takes nothing new, lets streams finish for limits.drain, then resets what is
/// left; a second signal ends it at once. SIGHUP reads the file again, which happens by itself when it
/// changes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 it was asked to end and has drained, 1 it could not start, 128 + N it was \
                  ended at once by a second signal N."
)]
pub(crate) struct Args {
    /// The node's configuration file; adit check FILE says what is wrong with one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs it until it has drained.
///
/// # Errors
/// All that keeps it from starting.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    Ok(match process::run(&args.config) {
        Ok(Ended::Drained { .. }) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce { signal }) => ExitCode::from(128 + signal),
        Err(error) => {
            eprintln!("{error}\nadit: the node did not start");
            ExitCode::FAILURE
        }
    })
}
