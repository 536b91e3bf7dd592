//! `adit prepare`: makes a folder ready for a daemon that is not root.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
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
    /// User and group to give it to
    #[arg(long, value_name = "ID", default_value_t = 65532)]
    owner: u32,
}

/// Makes the folder. Its present content belongs to its owner, and not even root reads it without
/// more rights.
///
/// # Errors
/// If the system refuses.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { folder, owner } = args;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let context = || format!("cannot give {} to {owner}", folder.display());
    let found = folder.symlink_metadata().with_context(context)?;
    if found.mode() & 0o077 != 0 {
        // The kubelet makes it open to everybody. A folder that was handed over before is its
        // owner's to close.
        match std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => {
                return Err(error)
                    .with_context(|| format!("cannot close {} to others", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if (found.uid(), found.gid()) != (*owner, *owner) {
        chown(folder, Some(*owner), Some(*owner)).with_context(context)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_made_for_everybody_is_closed() {
        let here = tempfile::tempdir().unwrap();
        let folder = here.path().join("state");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let owner = folder.metadata().unwrap().uid();
        run(&Args { folder: folder.clone(), owner }).unwrap();
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        let fresh = here.path().join("a/b");
        run(&Args { folder: fresh.clone(), owner }).unwrap();
        assert_eq!(fresh.metadata().unwrap().mode() & 0o777, 0o700);
    }
}
