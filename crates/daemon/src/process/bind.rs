//! Everything that a node listens on, bound at once, so that all that is in the way is told at once.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use adit_config::Config;
use adit_config::config::Admin;
use adit_host::tcp;
use adit_transport::{Endpoints, NodeSecret, OsNet, Tls, Worker};

use super::servers;
use super::tuning::tuning;
use crate::admin::socket::AdminSocket;

/// All of it.
#[derive(Debug)]
pub(super) struct Bound {
    /// Where peers dial us and we dial them.
    pub(super) endpoints: Endpoints,
    /// The admin server.
    pub(super) admin: servers::Admin,
    /// The public server.
    pub(super) public: Option<TcpListener>,
}

/// Binds it.
///
/// # Errors
/// Everything that is in the way, each with its key in the file and what to do.
pub(super) fn all(
    config: &Config,
    workers: Vec<Worker>,
    secret: &NodeSecret,
    tls: Tls,
) -> Result<Bound, Vec<String>> {
    let mut errors = Vec::new();
    let mut tell = |key: &str, address: SocketAddr, error: &io::Error| {
        errors.push(format!("{key}: cannot listen on {address}: {}", explain(error)));
    };
    // The data path listens on each of these once per worker; here each is asked for alone, for a moment.
    for address in wanted(config) {
        if let Err(error) = tcp::listen(address, false) {
            tell("imports", address, &error);
        }
    }
    let public = config.metrics.map(|address| {
        tcp::listen(address, false).inspect_err(|error| tell("metrics.listen", address, error)).ok()
    });
    // The transport gives up at the first address that it cannot have.
    for address in &config.node.listen {
        if let Err(error) = UdpSocket::bind(address) {
            tell("node.listen", *address, &error);
        }
    }
    let admin = match &config.admin {
        Admin::Socket(path) => AdminSocket::bind(path)
            .map(servers::Admin::Socket)
            .map_err(|e| errors.push(format!("admin.socket: {e}")))
            .ok(),
        Admin::Listen(address) => tcp::listen(*address, false)
            .map(servers::Admin::Tcp)
            .map_err(|e| {
                errors.push(format!("admin.listen: cannot listen on {address}: {}", explain(&e)))
            })
            .ok(),
    };
    let (true, Some(admin)) = (errors.is_empty(), admin) else { return Err(errors) };
    let net = Arc::new(OsNet);
    let endpoints =
        Endpoints::bind(net, workers, &config.node.listen, secret, tls, tuning(&config.limits))
            .map_err(|e| vec![format!("node.listen: {e}")])?;
    Ok(Bound { endpoints, admin, public: public.flatten() })
}

/// The local addresses of all imports.
fn wanted(config: &Config) -> BTreeSet<SocketAddr> {
    config.imports.iter().flat_map(|i| &i.ports).flat_map(|p| &p.listen).copied().collect()
}

/// What the operating system said, with what to do about it.
fn explain(error: &io::Error) -> String {
    let advice = if error.kind() == io::ErrorKind::AddrInUse {
        "another process listens there; stop it or choose another port"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "this machine has no such address; add it or choose another"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one or grant it"
    } else {
        return error.to_string();
    };
    format!("{error}: {advice}")
}
