//! Asks a node's admin server: what `adit status`, the demo and tests use.
//!
//! `lines`: an answer that has no end.

mod lines;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::doctor::facts::ProbeFacts;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

pub use self::lines::AdminLines;
use super::answer::ErrorBody;
use super::probe::ProbeRequest;
use super::public::ReadinessAnswer;
use super::tap::TapRequest;
use crate::status::StatusDocument;
use crate::status::sample::NodeSample;

/// The daemon answers from memory; a second is long, and a person waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A probe waits for another cluster, and for its backends.
const PROBE_TIMEOUT: Duration = Duration::from_secs(45);
/// A document of ten thousand imports has some 5 MB.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Where an admin server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A Unix socket's path.
    Socket(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

impl AdminAddress {
    /// Where a daemon is that was told nothing else.
    pub const DEFAULT_SOCKET: &str = "/run/adit/admin.sock";

    /// `IP:PORT` is an address; anything else is a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Socket(PathBuf::from(text)), Self::Tcp)
    }
}

impl Default for AdminAddress {
    fn default() -> Self {
        Self::Socket(PathBuf::from(Self::DEFAULT_SOCKET))
    }
}

impl From<&Path> for AdminAddress {
    fn from(path: &Path) -> Self {
        Self::Socket(path.to_owned())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// Nobody is there, or nobody whom this user may ask.
    #[error("cannot reach the daemon at {address}: {error}")]
    Unreachable {
        /// Where it was looked for.
        address: AdminAddress,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Somebody is there who does not answer.
    #[error("the daemon at {} does not answer within {} s", .0, .1.as_secs())]
    Silent(AdminAddress, Duration),
    /// The answer is not one of an admin server.
    #[error("what answers at {address} is not an adit daemon: {error}")]
    NotAdit {
        /// Where it was looked for.
        address: AdminAddress,
        /// The fault of the answer.
        error: String,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
}

/// The status document of the node at `address`.
///
/// # Errors
/// If nobody answers there, or it is no daemon.
pub async fn status(address: &AdminAddress) -> Result<StatusDocument, AdminClientError> {
    let body = request(address, Method::GET, "/v1/status", "").await?;
    serde_json::from_slice(&body)
        .map_err(|e| AdminClientError::NotAdit { address: address.clone(), error: e.to_string() })
}

/// The readiness of the node at `address`, with the reasons that are left.
///
/// # Errors
/// If nobody answers there, or it is no daemon.
pub async fn readiness(address: &AdminAddress) -> Result<ReadinessAnswer, AdminClientError> {
    let body = request(address, Method::GET, "/v1/ready", "").await?;
    serde_json::from_slice(&body)
        .map_err(|e| AdminClientError::NotAdit { address: address.clone(), error: e.to_string() })
}

/// Tells what would become of a stream, as the node at `address` finds when it tries.
///
/// # Errors
/// If nobody answers there, it is no daemon, or the question makes no sense.
pub async fn probe(
    address: &AdminAddress,
    request: &ProbeRequest,
) -> Result<ProbeFacts, AdminClientError> {
    let odd = |e: serde_json::Error| AdminClientError::NotAdit {
        address: address.clone(),
        error: e.to_string(),
    };
    let body = serde_json::to_string(request).map_err(odd)?;
    let answer = request_within(PROBE_TIMEOUT, address, Method::POST, "/v1/probe", &body).await;
    let body = answer.map_err(|error| unless_too_old(error, "be asked to try a stream"))?;
    serde_json::from_slice(&body).map_err(odd)
}

/// The node at `address` at this moment, in few words.
///
/// # Errors
/// If nobody answers there, it is no daemon, or one of an earlier version.
pub async fn sample(address: &AdminAddress) -> Result<NodeSample, AdminClientError> {
    let answer = request(address, Method::GET, "/v1/traffic", "").await;
    let body = answer.map_err(|error| unless_too_old(error, "tell who talks with whom"))?;
    let traffic = serde_json::from_slice(&body);
    let traffic = traffic.map_err(|e| AdminClientError::NotAdit {
        address: address.clone(),
        error: e.to_string(),
    })?;
    Ok(NodeSample::new(status(address).await?, traffic))
}

/// Follows streams of the node at `address` from now on: a [`TapEvent`](super::tap::TapEvent) in each line.
///
/// # Errors
/// If nobody answers there, it is no daemon or one of an earlier version, or there are enough taps.
pub async fn tap(
    address: &AdminAddress,
    request: &TapRequest,
) -> Result<AdminLines, AdminClientError> {
    let body = serde_json::to_string(request).map_err(|e| AdminClientError::NotAdit {
        address: address.clone(),
        error: e.to_string(),
    })?;
    let lines = lines::follow(address, "/v1/tap", &body).await;
    lines.map_err(|error| unless_too_old(error, "let its streams be followed"))
}

/// Sends one request and gives back the body of a successful answer.
///
/// # Errors
/// If nobody answers, it is no daemon, or the daemon refuses.
pub async fn request(
    address: &AdminAddress,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Bytes, AdminClientError> {
    request_within(REQUEST_TIMEOUT, address, method, path, body).await
}

/// The error, or that a daemon does not have the path because it is older.
fn unless_too_old(error: AdminClientError, what: &str) -> AdminClientError {
    let missing = format!("HTTP status {}", StatusCode::NOT_FOUND);
    if matches!(&error, AdminClientError::NotAdit { error, .. } if *error == missing) {
        let sentence = format!("this daemon is of an earlier version, and cannot {what}");
        return AdminClientError::Refused(sentence);
    }
    error
}

async fn request_within(
    within: Duration,
    address: &AdminAddress,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Bytes, AdminClientError> {
    let exchange = async {
        let stream = connect(address).await?;
        exchange(address, stream, method, path, body).await
    };
    tokio::time::timeout(within, exchange)
        .await
        .unwrap_or_else(|_| Err(AdminClientError::Silent(address.clone(), within)))
}

/// A connection to the server.
trait AdminStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> AdminStream for S {}

async fn connect(address: &AdminAddress) -> Result<Box<dyn AdminStream>, AdminClientError> {
    let stream: io::Result<Box<dyn AdminStream>> = match address {
        AdminAddress::Socket(socket) => match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error),
        },
        AdminAddress::Tcp(tcp) => match TcpStream::connect(tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error),
        },
    };
    stream.map_err(|error| AdminClientError::Unreachable { address: address.clone(), error })
}

/// The request with its body.
fn make_request(
    method: Method,
    path: &str,
    body: &str,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    Request::builder().method(method).uri(path).header("host", "localhost").body(body)
}

/// The error of an answer that is no success.
fn refusal(address: &AdminAddress, status: StatusCode, body: &[u8]) -> AdminClientError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(refusal) if status != StatusCode::NOT_FOUND => AdminClientError::Refused(refusal.error),
        Ok(_) | Err(_) => AdminClientError::NotAdit {
            address: address.clone(),
            error: format!("HTTP status {status}"),
        },
    }
}

async fn exchange(
    address: &AdminAddress,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Bytes, AdminClientError> {
    let odd = |error: &dyn fmt::Display| AdminClientError::NotAdit {
        address: address.clone(),
        error: error.to_string(),
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| odd(&e))?;
    let request = make_request(method, path, body).map_err(|e| odd(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| odd(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((status, body.map_err(|e| odd(&e))?.to_bytes()))
    };
    // The connection has to be driven for the answer to come; its own end is no news.
    let driven = async {
        drop(connection.await);
        std::future::pending().await
    };
    let (status, body) =
        tokio::select! { biased; answer = answer => answer?, never = driven => never };
    if status.is_success() { Ok(body) } else { Err(refusal(address, status, &body)) }
}
