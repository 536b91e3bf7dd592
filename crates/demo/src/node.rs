//! A node of the story: a child process that can be started, asked, killed and stopped.
//!
//! It owns the process and the only way to it: the admin socket. The process is ended when this is
//! dropped, however that comes about; that it also ends when the demo itself is killed is the
//! launcher's part (see [`crate::NodeLauncher`]).

use std::fs::OpenOptions;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use adit_daemon::admin::client::{self, AdminAddress, AdminClientError};
use adit_daemon::status::StatusDocument;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::NodeLauncher;
use crate::folder::NodeSetup;
use crate::log::tail;

/// The pause before a node that is not as wanted is asked again.
const STATUS_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The time that a node may take to end after SIGTERM; with nothing to drain it needs milliseconds.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A node.
#[derive(Debug)]
pub(crate) struct DemoNode {
    pub(crate) place: NodeSetup,
    launch: NodeLauncher,
    child: Option<Child>,
    admin: AdminAddress,
}

impl DemoNode {
    /// A node that is not started yet.
    pub(crate) fn new(place: NodeSetup, launch: NodeLauncher) -> Self {
        let admin = AdminAddress::from(place.socket.as_path());
        Self { place, launch, child: None, admin }
    }

    /// Starts the process. The ports that were held for it are its own from now on.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let name = self.place.name;
        let log = OpenOptions::new().create(true).append(true).open(&self.place.log)?;
        let mut command = Command::from((self.launch)(&self.place.config));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which then ends its nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        self.place.held.clear();
        self.child = Some(command.spawn().with_context(|| format!("{name} cannot be started"))?);
        Ok(())
    }

    /// The process ID, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The node's status document of this moment.
    ///
    /// # Errors
    ///
    /// If it does not answer, or not with a status.
    pub(crate) async fn status(&self) -> Result<StatusDocument, AdminClientError> {
        client::status(&self.admin).await
    }

    /// Asks until the status is as wanted; `what` says what that is.
    ///
    /// # Errors
    ///
    /// If it is not in time, with the problems that the node reports; at once if the process has ended.
    pub(crate) async fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&StatusDocument) -> bool,
    ) -> anyhow::Result<StatusDocument> {
        let (name, deadline) = (self.place.name, Instant::now() + within);
        loop {
            let status = self.status().await;
            if let Ok(status) = &status
                && wanted(status)
            {
                return Ok(status.clone());
            }
            if let Some(child) = &mut self.child
                && let Some(ended) = child.try_wait()?
            {
                bail!(
                    "{name} ended by itself ({ended}); its last words:\n{}",
                    tail(&self.place.log)
                );
            }
            if Instant::now() >= deadline {
                let why = match status {
                    Ok(status) => problems(&status),
                    Err(error) => error.to_string(),
                };
                bail!("{name}: not {what} within {} s: {why}", within.as_secs());
            }
            sleep(STATUS_POLL_INTERVAL).await;
        }
    }

    /// Kills the process as a crash would, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Instant> {
        let mut child = self.child.take().context("it is not running")?;
        let at = Instant::now();
        child.start_kill()?;
        child.wait().await?;
        Ok(at)
    }

    /// Asks the process to leave, and waits; kills it when it does not.
    ///
    /// # Errors
    ///
    /// If it had to be killed.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // The process is our child and not waited for yet, so the number is still its own.
            kill_process(pid, Signal::TERM).ok();
        }
        match timeout(LEAVE_TIMEOUT, child.wait()).await {
            Ok(ended) => Ok(Some(ended?)),
            Err(_) => {
                child.kill().await?;
                bail!("{} did not leave within {} s", self.place.name, LEAVE_TIMEOUT.as_secs())
            }
        }
    }

    /// The exit status, if the process has ended by itself.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        let ended = self.child.as_mut()?.try_wait().ok().flatten();
        if ended.is_some() {
            self.child = None;
        }
        ended
    }
}

/// The problems that a node reports of itself, worst first, in one line.
pub(crate) fn problems(status: &StatusDocument) -> String {
    let all: Vec<String> = status
        .problems
        .iter()
        .map(|p| format!("{}: {}", p.about, p.reason.sentence))
        .chain(
            (!status.node.waiting_for.is_empty())
                .then(|| format!("waiting for {}", status.node.waiting_for.join(", "))),
        )
        .collect();
    if all.is_empty() { "it reports no problem".into() } else { all.join("; ") }
}

/// The innermost cause of an error: what the operating system said.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
