//! An answer of an admin server that has no end: lines that come for as long as both sides stay.

use std::fmt;

use http_body_util::{BodyExt, Limited};
use hyper::Method;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{AdminAddress, AdminClientError, REQUEST_TIMEOUT, connect, make_request, refusal};

/// The longest line, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// The most of an error that is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// Lines of an admin server, as they come.
#[derive(Debug)]
pub struct AdminLines {
    address: AdminAddress,
    body: Incoming,
    /// Bytes that came and were not given out.
    left: Vec<u8>,
    /// Drives the connection, and ends with this.
    _connection: JoinSet<()>,
}

/// Asks, and gives back the lines of the answer.
pub(super) async fn follow(
    address: &AdminAddress,
    path: &str,
    body: &str,
) -> Result<AdminLines, AdminClientError> {
    let within = REQUEST_TIMEOUT;
    timeout(within, begin(address, path, body))
        .await
        .unwrap_or_else(|_| Err(AdminClientError::Silent(address.clone(), within)))
}

async fn begin(
    address: &AdminAddress,
    path: &str,
    body: &str,
) -> Result<AdminLines, AdminClientError> {
    let odd = |error: &dyn fmt::Display| AdminClientError::NotAdit {
        address: address.clone(),
        error: error.to_string(),
    };
    let stream = connect(address).await?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| odd(&e))?;
    let mut connection = JoinSet::new();
    connection.spawn(async move {
        // How it ends shows when its body is read.
        driver.await.ok();
    });
    let request = make_request(Method::POST, path, body).map_err(|e| odd(&e))?;
    let response = sender.send_request(request).await.map_err(|e| odd(&e))?;
    let status = response.status();
    if !status.is_success() {
        let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        return Err(refusal(address, status, &body.map_err(|e| odd(&e))?.to_bytes()));
    }
    let (address, body) = (address.clone(), response.into_body());
    Ok(AdminLines { address, body, left: Vec::new(), _connection: connection })
}

impl AdminLines {
    /// The next line that is not empty, without its end; `None` once the server has ended.
    ///
    /// # Errors
    /// If what comes is no line.
    pub async fn next(&mut self) -> Result<Option<String>, AdminClientError> {
        let odd =
            |error: String| AdminClientError::NotAdit { address: self.address.clone(), error };
        loop {
            if let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.left.drain(..=end).collect();
                let line = String::from_utf8(line).map_err(|error| odd(error.to_string()))?;
                if line.trim().is_empty() {
                    continue;
                }
                return Ok(Some(line.trim_end().to_owned()));
            }
            if self.left.len() > MAX_LINE {
                return Err(odd(format!("a line of more than {MAX_LINE} bytes")));
            }
            // A connection that breaks is one that has ended: the process does not take leave.
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            if let Ok(bytes) = frame.into_data() {
                self.left.extend_from_slice(&bytes);
            }
        }
    }
}
