//! An agent that serves requests, and remembers what was delivered to it.
//!
//! A request is its number (8 bytes, big-endian) and any body, to the end. The answer is the SHA-256 of all of it,
//! then as many bytes as the body has. So a client knows of each answer whether it is whole, and the agent
//! of each number how often it arrived.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_dataplane::tcp::{ReadBuffer, Tcp, TcpAcceptor, TcpNetwork};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use crate::net::pipe::{MemoryPipe, Pipes};
use crate::workload::pattern;

/// The requests that have been delivered, by number: also what was not answered.
#[derive(Debug, Clone, Default)]
pub struct Delivered(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Delivered {
    /// The number of times that each request has arrived.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn all(&self) -> BTreeMap<u64, u32> {
        self.0.lock().unwrap().clone()
    }
}

/// Serves at an address, in the background, for as long as the runtime lives.
///
/// # Panics
/// Where somebody serves there already.
pub fn serve(pods: &Pipes, at: SocketAddr, delivered: &Delivered) {
    let (tasks, delivered) = (TaskTracker::new(), delivered.clone());
    let listener = pods.listen(at, false).expect("a free address");
    tasks.clone().spawn(async move {
        while let Ok(pipe) = listener.accept().await {
            let delivered = delivered.clone();
            // A request that breaks off is not answered: its client knows.
            tasks.spawn(async move { drop(answer(&pipe, &delivered).await) });
        }
    });
}

async fn answer(pipe: &MemoryPipe, delivered: &Delivered) -> io::Result<()> {
    let (mut room, mut request) = (ReadBuffer::new(), Vec::new());
    let mut counted = false;
    while let Some(bytes) = pipe.read(&mut room).await? {
        request.extend_from_slice(&bytes);
        if let Some(number) = request.first_chunk().filter(|_| !counted) {
            counted = true;
            let number = u64::from_be_bytes(*number);
            *delivered.0.lock().unwrap().entry(number).or_default() += 1;
        }
    }
    pipe.write(&mut [expected(&request)]).await?;
    pipe.finish().await
}

fn expected(request: &[u8]) -> Bytes {
    let body = request.get(8..).unwrap_or_default();
    Sha256::digest(request).iter().chain(body).copied().collect()
}

/// The end of a request, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The whole answer came, and its end.
    Answered,
    /// A reset.
    Reset,
    /// A clean end of anything but the right answer: what must never be.
    Wrong(usize),
    /// Nothing at all, for a minute.
    Never,
}

/// Asks with a request of this number and so many bytes.
///
/// # Panics
/// Where `from` is no address.
pub async fn ask(
    pods: &Pipes,
    from: &str,
    to: SocketAddr,
    number: u64,
    len: u64,
) -> RequestOutcome {
    let Ok(pipe) = pods.connect(from.parse().expect("an address"), to).await else {
        return RequestOutcome::Reset;
    };
    let request: Bytes =
        number.to_be_bytes().into_iter().chain((0..len).map(|at| pattern(at ^ number))).collect();
    let (mut room, mut got) = (ReadBuffer::new(), Vec::new());
    let asking = async {
        pipe.write(&mut [request.clone()]).await?;
        pipe.finish().await
    };
    let hearing = async {
        while let Some(bytes) = pipe.read(&mut room).await? {
            got.extend_from_slice(&bytes);
        }
        Ok::<_, io::Error>(())
    };
    let both = async { tokio::try_join!(asking, hearing) };
    match tokio::time::timeout(Duration::from_secs(60), both).await {
        Ok(Ok(_)) if got == expected(&request) => RequestOutcome::Answered,
        Ok(Ok(_)) => RequestOutcome::Wrong(got.len()),
        Ok(Err(_)) => RequestOutcome::Reset,
        Err(_) => RequestOutcome::Never,
    }
}
