//! `adit prepare`: makes a folder ready for a daemon that is not root.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

/// Make a folder for a node that is not root, and give it to it; needs root or CAP_CHOWN
///
/// The manifests run this before the daemon: the kubelet makes such folders for root alone.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The folder
    folder: PathBuf,
    /// Whom to give it to, user and group alike
    #[arg(long, value_name = "ID", default_value_t = 65532)]
    owner: u32,
}

/// Makes it. What is in it already is its owner's, and not even root looks into it without more rights.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { folder, owner } = args;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let context = || format!("cannot give {} to {owner}", folder.display());
    let found = folder.symlink_metadata().with_context(context)?;
    if (found.uid(), found.gid()) != (*owner, *owner) {
        chown(folder, Some(*owner), Some(*owner)).with_context(context)?;
    }
    Ok(ExitCode::SUCCESS)
}
