//! `adit invitation`: what `adit invite` and `adit join` start in the pods of nodes. Not for people.

use std::process::ExitCode;

use adit_daemon::admin::client::AdminAddress;
use adit_daemon::invitation::{inviter, joiner};
use tokio::io::{BufReader, stdin, stdout};
use tokio::runtime::Builder;

/// The processes that adit invite and adit join start in the pods of nodes
#[derive(Debug, clap::Args)]
pub(crate) struct InvitationArgs {
    #[command(subcommand)]
    side: InvitationSide,
}

#[derive(Debug, clap::Subcommand)]
enum InvitationSide {
    /// Keep an invitation at this node, for as long as standard input is open
    Serve {
        /// The admin server of this node's daemon
        #[arg(long, value_name = "SOCKET", default_value = AdminAddress::DEFAULT_SOCKET)]
        admin: String,
    },
    /// Dial the cluster that made a token, which standard input says
    Use,
}

/// Runs one of them.
///
/// # Errors
/// If standard input is not a command's.
pub(crate) fn run(args: &InvitationArgs) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let input = BufReader::new(stdin());
        match &args.side {
            InvitationSide::Serve { admin } => {
                inviter::run(&AdminAddress::parse(admin), input, stdout()).await?;
            }
            InvitationSide::Use => joiner::run(input, stdout()).await?,
        }
        anyhow::Ok(())
    });
    // A thread may be waiting for standard input, which ends no sooner than the command.
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}
