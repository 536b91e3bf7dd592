//! The start of a process beside another one of its node: it gets from that one the sockets that must not close, and
//! takes over once it could serve as well ([`super::handover`] has the words).

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_config::Config;
use adit_config::config::AdminConfig;
use adit_core::snapshot::Snapshot;
use adit_host::ipc::{IpcConnection, IpcListener};
use adit_transport::{NodeSecret, Tls, Worker};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bind::{self, BindErrors, BoundSockets, InheritedSockets};
use super::data_plane::NodeDataPlane;
use super::handover;
use super::handover::holder::{self, NodeSockets, Successor};
use super::handover::requester::{HandoverReply, Succession, request_handover};

/// A process asks another one for its sockets, or tries to bind them, this often.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// A program that is no node of ours may have an address that this one wants for this long, from the first attempt.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(10);
/// A process waits this long for the first view of each linked cluster before it takes over: one may be away.
const FIRST_VIEWS_TIMEOUT: Duration = Duration::from_secs(3);
/// A process that has given up on this one may take this long to see that another listener is where its own was.
const LOOK_TIMEOUT: Duration = IpcListener::ACCEPT_TIMEOUT.saturating_mul(2);
/// The extension of the file beside the admin socket that is there while a process waits for one that hands nothing
/// over to end.
pub const WAITING_EXTENSION: &str = "waiting";

/// The processes of one node, each of which takes over from the one before.
#[derive(Debug, Clone)]
pub(super) struct ProcessChain {
    /// The folder in which they find each other.
    pub(super) folder: PathBuf,
    /// The place of this process among them: a later one is higher.
    pub(super) turn: u64,
    /// True if somebody starts the next process when this one is asked to end.
    pub(super) expects_successor: bool,
}

impl ProcessChain {
    /// Joins the chain in `folder`, as the process that `pod` runs.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn join(folder: &Path, pod: &str, followed: bool) -> Result<Self, String> {
        let turn = handover::turn(folder, pod).map_err(|error| {
            format!("cannot write {}: {error}", folder.join(handover::TURNS).display())
        })?;
        Ok(Self { folder: folder.to_owned(), turn, expects_successor: followed })
    }
}

/// All that binding a node's sockets takes.
pub(super) struct BindInputs<'a> {
    pub(super) config: &'a Config,
    pub(super) workers: Vec<Worker>,
    pub(super) secret: &'a NodeSecret,
    pub(super) tls: Tls,
}

impl BindInputs<'_> {
    fn bind(&self, given: InheritedSockets) -> Result<BoundSockets, BindErrors> {
        bind::bind_all(self.config, self.workers.clone(), self.secret, self.tls.clone(), given)
    }
}

/// Binds all sockets of a node, with those that the process before it gives. A process that gives nothing and lives is
/// waited for; `pause` waits, and returns true if this process is asked to end meanwhile: then the result is `None`.
///
/// # Errors
/// Everything that is in the way and that waiting will not mend.
pub(super) fn bind(
    needs: &BindInputs<'_>,
    chain: Option<&ProcessChain>,
    mut pause: impl FnMut(Duration) -> bool,
) -> Result<Option<(BoundSockets, Option<Succession>)>, Vec<String>> {
    let Some(chain) = chain else {
        let bound =
            needs.bind(InheritedSockets::default()).map_err(|obstacles| obstacles.messages)?;
        return Ok(Some((bound, None)));
    };
    let mut waiting = PredecessorWait::new(needs.config);
    loop {
        let (given, succession, refusal) = match request_handover(&chain.folder, chain.turn) {
            HandoverReply::Inherited(it) => (it.sockets, Some(it.succession), None),
            HandoverReply::NoPredecessor => (InheritedSockets::default(), None, None),
            HandoverReply::Refused(why) => (InheritedSockets::default(), None, Some(why)),
        };
        match needs.bind(given) {
            Ok(bound) => return Ok(Some((bound, succession))),
            Err(obstacles) if obstacles.in_use => waiting.note(&obstacles, refusal)?,
            Err(obstacles) => return Err(obstacles.messages),
        }
        if pause(RETRY_INTERVAL) {
            return Ok(None);
        }
    }
}

/// A wait for the process before this one to end.
struct PredecessorWait<'a> {
    config: &'a Config,
    began: Option<Instant>,
    /// The file that tells probes that nothing is wrong with this process.
    file: Option<PathBuf>,
}

impl<'a> PredecessorWait<'a> {
    fn new(config: &'a Config) -> Self {
        let file = match &config.admin {
            AdminConfig::Socket(path) => Some(path.with_extension(WAITING_EXTENSION)),
            AdminConfig::Listen(_) => None,
        };
        let waiting = Self { config, began: None, file };
        waiting.remove();
        waiting
    }

    fn note(&mut self, obstacles: &BindErrors, refusal: Option<String>) -> Result<(), Vec<String>> {
        // A node of an earlier version has our public server's address as well; another program does not.
        let is_node = refusal.is_some()
            || self.config.metrics.is_some_and(|address| TcpListener::bind(address).is_err());
        if self.began.is_none() {
            let why = refusal.unwrap_or_else(|| "nobody hands it over".to_owned());
            let what = obstacles.messages.join("; ");
            tracing::warn!(why, "waiting for the process before this one to end: {what}");
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        if is_node && let Some(file) = &self.file {
            // Whoever brings the new before it ends the old has to be told to do that.
            std::fs::write(file, b"").ok();
        } else if began.elapsed() >= IN_USE_TIMEOUT {
            return Err(obstacles.messages.clone());
        }
        Ok(())
    }

    fn remove(&self) {
        if let Some(file) = &self.file {
            std::fs::remove_file(file).ok();
        }
    }
}

impl Drop for PredecessorWait<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Takes over from the process before this one, if there is one, and accepts connections from then on. Then other
/// processes find this one. The caller keeps the result until the end.
pub(super) async fn take_over(
    node: &NodeDataPlane,
    snapshot: &watch::Receiver<Arc<Snapshot>>,
    succession: Option<Succession>,
    chain: Option<&ProcessChain>,
) -> (Option<IpcListener>, Option<Succession>) {
    let path = chain.map(|chain| chain.folder.join(handover::SOCKET));
    let open = || {
        let bound = IpcListener::bind(path.as_deref()?);
        bound.inspect_err(|error| tracing::error!(%error, "nobody will be able to take over")).ok()
    };
    let (mut succession, mut listener) = (succession, None);
    if let Some(handed_over) = succession.take() {
        wait_for_first_views(snapshot.clone()).await;
        let ready = spawn_blocking(move || (handed_over.announce_ready(), handed_over)).await;
        let stepped_aside = ready.as_ref().is_ok_and(|(stepped_aside, _)| *stepped_aside);
        succession = ready.ok().map(|(_, handed_over)| handed_over);
        let lives = || path.as_deref().is_some_and(|path| IpcConnection::connect(path).is_ok());
        if !stepped_aside && lives() {
            // It did not wait for so long, but looks at the listener: two that read would answer for each other.
            listener = open();
            sleep(LOOK_TIMEOUT).await;
        }
    }
    node.endpoints.resume_reading();
    node.begin();
    let listener = listener.or_else(open);
    if let Some(handed_over) = succession.take() {
        let taken = move || {
            handed_over.confirm_taken();
            handed_over
        };
        succession = spawn_blocking(taken).await.ok();
        tracing::info!("took over from the process before this one");
    }
    (listener, succession)
}

/// Waits for the first view of each linked cluster, at most [`FIRST_VIEWS_TIMEOUT`].
async fn wait_for_first_views(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let all = |snapshot: &Arc<Snapshot>| {
        snapshot.links.keys().all(|link| snapshot.views.contains_key(link))
    };
    if timeout(FIRST_VIEWS_TIMEOUT, snapshots.wait_for(all)).await.is_err() {
        tracing::info!("taking over although some linked clusters have not been heard");
    }
}

/// Hands over to the process that comes next, on a thread of its own. The receiver gets the one that has taken over.
pub(super) fn hand_over(
    listener: Option<IpcListener>,
    chain: Option<&ProcessChain>,
    mut sockets: NodeSockets,
    stop: CancellationToken,
) -> io::Result<mpsc::Receiver<Successor>> {
    let (tell, successors) = mpsc::channel(1);
    if let Some((listener, turn)) = listener.zip(chain.map(|chain| chain.turn)) {
        std::thread::Builder::new()
            .name("handover".into())
            .spawn(move || holder::serve(listener, turn, &mut sockets, &tell, &stop))?;
    }
    Ok(successors)
}
