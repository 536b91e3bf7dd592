//! Everything that a node listens on, bound at once, so that all that is in the way is told at once.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use adit_config::Config;
use adit_config::config::AdminConfig;
use adit_dataplane::listeners::InheritedListeners;
use adit_host::tcp;
use adit_transport::endpoint::{BindError, UdpInheritance};
use adit_transport::{Endpoints, NodeSecret, OsUdpNetwork, Tls, Worker};

use super::servers;
use crate::admin::socket::AdminSocket;
use crate::process::tuning::tuning;

/// All of it.
#[derive(Debug)]
pub(super) struct BoundSockets {
    /// The QUIC sockets, at which peers dial us and from which we dial them.
    pub(super) endpoints: Endpoints,
    /// The admin server.
    pub(super) admin: servers::AdminBinding,
    /// The public server.
    pub(super) public: Option<TcpListener>,
    /// Sockets of imports that an earlier process gave.
    pub(super) imports: InheritedListeners,
}

/// Sockets that a process got from the one before it, which need not be bound.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets {
    /// Sockets of imports.
    pub(super) tcp: InheritedListeners,
    /// The public server's.
    pub(super) public: Option<(SocketAddr, OwnedFd)>,
    /// The QUIC sockets.
    pub(super) udp: Option<UdpInheritance>,
}

/// Everything that is in the way of binding, each with its key in the file and what to do.
#[derive(Debug, Default)]
pub(super) struct BindErrors {
    pub(super) messages: Vec<String>,
    /// True if another process is all that is in the way: it may end.
    pub(super) in_use: bool,
}

impl BindErrors {
    fn add(&mut self, key: &str, address: SocketAddr, error: &io::Error) {
        let taken = error.kind() == io::ErrorKind::AddrInUse;
        self.in_use = taken && (self.in_use || self.messages.is_empty());
        self.messages.push(format!("{key}: cannot listen on {address}: {}", explain(error)));
    }

    fn push(&mut self, text: String) {
        self.in_use = false;
        self.messages.push(text);
    }
}

/// Binds the sockets that are not `given`.
///
/// # Errors
/// Everything that is in the way.
pub(super) fn bind_all(
    config: &Config,
    workers: Vec<Worker>,
    secret: &NodeSecret,
    tls: Tls,
    given: InheritedSockets,
) -> Result<BoundSockets, BindErrors> {
    let InheritedSockets { tcp: imports, public, udp } = given;
    let mut obstacles = BindErrors::default();
    // The data path listens on each of these once per worker; here each is asked for alone, for a moment.
    for address in
        import_addresses(config).into_iter().filter(|address| !imports.contains_key(address))
    {
        if let Err(error) = tcp::listen(address, false) {
            obstacles.add("imports", address, &error);
        }
    }
    let public = config.metrics.and_then(|address| {
        if let Some((_, socket)) = public.filter(|(given, _)| *given == address) {
            return Some(TcpListener::from(socket));
        }
        tcp::listen(address, false)
            .inspect_err(|error| obstacles.add("metrics.listen", address, error))
            .ok()
    });
    // The transport gives up at the first address that it cannot have.
    let is_given =
        |address| udp.iter().flat_map(|udp| &udp.sockets).any(|(given, _)| given == address);
    for address in config.node.listen.iter().filter(|address| !is_given(*address)) {
        if let Err(error) = UdpSocket::bind(address) {
            obstacles.add("node.listen", *address, &error);
        }
    }
    let admin = match &config.admin {
        AdminConfig::Socket(path) => AdminSocket::bind(path)
            .map(servers::AdminBinding::Socket)
            .map_err(|e| obstacles.push(format!("admin.socket: {e}")))
            .ok(),
        AdminConfig::Listen(address) => tcp::listen(*address, false)
            .map(servers::AdminBinding::Tcp)
            .map_err(|e| obstacles.add("admin.listen", *address, &e))
            .ok(),
    };
    let (true, Some(admin)) = (obstacles.messages.is_empty(), admin) else { return Err(obstacles) };
    let net = Arc::new(OsUdpNetwork);
    let (listen, tuning) = (&config.node.listen, tuning(&config.limits));
    let endpoints = Endpoints::bind_after(net, workers, listen, secret, tls, tuning, udp);
    let endpoints = endpoints.map_err(|error| {
        let in_use = matches!(&error, BindError::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse);
        BindErrors { messages: vec![format!("node.listen: {error}")], in_use }
    })?;
    Ok(BoundSockets { endpoints, admin, public, imports })
}

/// The local addresses of all imports.
fn import_addresses(config: &Config) -> BTreeSet<SocketAddr> {
    config.imports.iter().flat_map(|i| &i.ports).flat_map(|p| &p.listen).copied().collect()
}

/// The error of the operating system, with what to do about it.
fn explain(error: &io::Error) -> String {
    let advice = if error.kind() == io::ErrorKind::AddrInUse {
        "another process listens there; stop it or choose another port; if it is this node's own older process, start \
         this one with --take-over"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "this machine has no such address; add it or choose another"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one or grant it"
    } else {
        return error.to_string();
    };
    format!("{error}: {advice}")
}
