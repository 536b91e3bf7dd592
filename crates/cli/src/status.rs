//! `adit status`: the state of a node, problems first.
//!
//! Finds the daemon, asks it, and leaves the words to [`page`]; with a context it asks an API
//! server instead ([`cluster`]). Exit status: 0 all is well, 1 something is not, 2 the daemon
//! cannot be asked.

mod cluster;
mod page;
pub(crate) mod tables;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_config::config::AdminConfig;
use adit_core::text::escape;
use adit_daemon::admin::client::{self, AdminAddress, AdminClientError};
use adit_daemon::status::StatusSeverity;

use crate::cluster_args::KubeconfigArgs;
use crate::output::print;

/// Show the state of a node or a cluster: links, imports, exports, and problems first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 all is well, 1 something is wrong or connections of callers are being refused (until 8 s after the last, or twice the pause between the last two), 2 the daemon, or a cluster, cannot be asked. What is only doubtful (a cluster's warnings, a node's notes) leaves it at 0."
)]
pub(crate) struct Args {
    /// The node's admin socket, or the loopback address that its admin server listens on
    ///
    /// Without it and without --config: /run/adit/admin.sock.
    #[arg(long, env = "ADIT_ADMIN", value_name = "SOCKET|IP:PORT")]
    admin: Option<String>,
    /// The node's configuration file, which says where its admin server is
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Ask a cluster's API server instead, by its kubeconfig context; may be given several times
    #[arg(long, value_name = "CONTEXT", conflicts_with = "config")]
    context: Vec<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// Print the whole status document
    #[arg(long)]
    json: bool,
}

/// Exit status if the daemon cannot be asked.
const UNREACHABLE: u8 = 2;

/// Asks and shows.
///
/// # Errors
/// If the answer cannot be printed.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !args.context.is_empty() {
        return cluster::run(&args.context, &args.kubeconfig, args.json);
    }
    let (address, origin) = match admin_address(args.admin.as_deref(), args.config.as_deref()) {
        Ok(found) => found,
        Err(report) => {
            eprintln!("{report}\nadit: the configuration does not say where the daemon is");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = match runtime.block_on(client::status(&address)) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("adit: {}", escape(&error.to_string()));
            eprintln!("  hint: {}", hint(&error, origin));
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    if args.json {
        print(&(serde_json::to_string_pretty(&status)? + "\n"))?;
    } else {
        print(&page::render(&status, tables::Style::for_output(&std::io::stdout())))?;
    }
    let well = status.problems.iter().all(|p| p.severity == StatusSeverity::Notice);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Source of the daemon's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressSource {
    Default,
    Option,
    Config,
}

/// Returns where the daemon's admin server is: as named, or as its configuration file says, or the default.
///
/// # Errors
/// If the file has errors.
pub(crate) fn admin_address(
    admin: Option<&str>,
    config: Option<&Path>,
) -> Result<(AdminAddress, AddressSource), adit_config::ConfigReport> {
    if let Some(admin) = admin {
        return Ok((AdminAddress::parse(admin), AddressSource::Option));
    }
    let Some(file) = config else {
        return Ok((AdminAddress::default(), AddressSource::Default));
    };
    let (config, _) = adit_config::load(file)?;
    let address = match config.admin {
        AdminConfig::Socket(path) => AdminAddress::Socket(path),
        AdminConfig::Listen(address) => AdminAddress::Tcp(address),
    };
    Ok((address, AddressSource::Config))
}

/// Returns advice about a daemon that cannot be asked.
fn hint(error: &AdminClientError, origin: AddressSource) -> String {
    use std::io::ErrorKind;
    let cause = match error {
        AdminClientError::Unreachable { error, .. }
            if error.kind() == ErrorKind::PermissionDenied =>
        {
            "only the user that runs the daemon may ask it: try sudo"
        }
        AdminClientError::Unreachable { error, .. }
            if error.kind() == ErrorKind::ConnectionRefused =>
        {
            "nobody listens there (any more): start adit node"
        }
        AdminClientError::Unreachable { .. } => "adit node seems not to be running here",
        AdminClientError::Silent(..) => "it may be stopped (SIGSTOP) or starved; look at its log",
        AdminClientError::NotAdit { .. } | AdminClientError::Refused(_) => {
            "is this the admin socket, and not another server's or the metrics address?"
        }
    };
    let place = match origin {
        AddressSource::Default => {
            "; if it listens elsewhere, name its socket with --admin or ADIT_ADMIN, or its file with --config; \
             for a cluster, name its kubeconfig context with --context"
        }
        AddressSource::Option => "; it was named by --admin or ADIT_ADMIN",
        AddressSource::Config => "; it is where the configuration file puts it",
    };
    format!("{cause}{place}")
}

/// Returns whether standard output is a terminal for which colour was not declined
/// (<https://no-color.org>).
fn wants_colour(out: &impl IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_looked_for_where_it_was_said_to_be() {
        let (address, origin) = admin_address(None, None).unwrap();
        assert_eq!(
            (address.to_string().as_str(), origin),
            ("/run/adit/admin.sock", AddressSource::Default)
        );
        let (address, _) = admin_address(Some("127.0.0.1:9901"), None).unwrap();
        assert!(matches!(address, AdminAddress::Tcp(_)));

        let folder = std::env::temp_dir().join(format!("adit-status-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("edge.yaml");
        std::fs::write(&file, "cluster: edge\ntrustDomain: e.example\nnode: {name: e1, listen: \"127.0.0.1:1\", identity: i}\nadmin: {socket: a.sock}\n").unwrap();
        let (address, origin) = admin_address(None, Some(&file)).unwrap();
        assert_eq!(
            (address, origin),
            (AdminAddress::Socket(folder.join("a.sock")), AddressSource::Config)
        );
        std::fs::write(&file, "nonsense: true\n").unwrap();
        assert!(admin_address(None, Some(&file)).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_hint_fits_the_trouble() {
        let refused = |kind: std::io::ErrorKind| AdminClientError::Unreachable {
            address: AdminAddress::default(),
            error: kind.into(),
        };
        for (kind, word) in [
            (std::io::ErrorKind::NotFound, "not to be running"),
            (std::io::ErrorKind::PermissionDenied, "sudo"),
            (std::io::ErrorKind::ConnectionRefused, "nobody listens"),
        ] {
            let hint = hint(&refused(kind), AddressSource::Default);
            assert!(hint.contains(word) && hint.contains("ADIT_ADMIN"), "{hint}");
        }
    }
}
