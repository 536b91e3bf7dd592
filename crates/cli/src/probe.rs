//! `adit probe`: asks the daemon of this pod by its own admin socket whether it lives, or is ready.
//!
//! Pods of one node share its network, so an address does not tell which of them answers. Exit
//! status: 0 yes, 1 no, or it cannot be asked.

use std::path::Path;
use std::process::ExitCode;

use adit_daemon::admin::client::{self, AdminAddress};
use adit_daemon::node::WAITING_EXTENSION;

/// Say whether the daemon of this pod lives, or may be sent work
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The question
    question: ProbeQuestion,
    /// The node's admin socket, or the loopback address that its admin server listens on
    #[arg(long, env = "ADIT_ADMIN", value_name = "SOCKET|IP:PORT", default_value = AdminAddress::DEFAULT_SOCKET)]
    admin: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ProbeQuestion {
    /// The daemon answers at all.
    Live,
    /// The daemon waits for nothing.
    Ready,
}

/// Asks. A process that waits for one of an earlier version (which hands nothing over) to end is as
/// ready as it can be: an operator that starts the new before it ends the old would otherwise wait
/// for ever.
///
/// # Errors
/// If there is no runtime.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if Path::new(&args.admin).with_extension(WAITING_EXTENSION).exists() {
        return Ok(ExitCode::SUCCESS);
    }
    let address = AdminAddress::parse(&args.admin);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let waiting_for = match runtime.block_on(client::readiness(&address)) {
        Ok(readiness) => readiness.waiting_for,
        Err(error) => {
            eprintln!("adit: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    if let ProbeQuestion::Ready = args.question
        && !waiting_for.is_empty()
    {
        eprintln!("adit: waiting for {}", waiting_for.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
