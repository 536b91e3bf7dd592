//! Two clusters on loopback with real agents, told step by step: `adit demo`.
//!
//! It is the product's own path, not a rehearsal of it: every node is a process of the `adit` binary
//! with a configuration file, agents and callers speak A2A with the official SDK, and what is told was
//! measured or read from the nodes' own logs and status. Each step is a check; the first that fails
//! ends the story with its reason.
//!
//! * [`run`] is the whole of it. `story` tells and checks, in order.
//! * `stage` makes certificates and configuration; `node` owns the child processes; `ports` holds
//!   what they will listen on; `log` reads what they wrote.
//! * `agents` and `caller` are the A2A workloads, which know nothing of Adit.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustls::crypto::aws_lc_rs;
use tokio::signal::unix::{Signal, SignalKind, signal};

mod agents;
mod caller;
mod folder;
mod log;
mod narrate;
mod node;
mod ports;
mod story;

use self::narrate::Narrator;
use self::story::DemoResources;

/// Makes the command that starts a node from its configuration file: a command that becomes `adit node --config FILE`.
/// Its input, output and process group are set by the demo. To end with the demo even if that is killed,
/// it calls [`end_with_parent`] before it becomes the node.
pub type NodeLauncher = fn(&Path) -> std::process::Command;

/// Ties this process, and whatever it becomes by `exec`, to the process `parent` that started it: the
/// kernel kills it when the thread that started it ends.
///
/// # Errors
///
/// If the kernel refuses, or `parent` has ended already.
pub fn end_with_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Asked too late, the kernel says nothing: the parent is another process then.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::other("the demo has ended already"))
    }
}

/// The options of a demo.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// True to leave after the last step instead of staying up.
    pub once: bool,
    /// True if the output is a terminal that shows colours.
    pub colour: bool,
    /// The words that run this program, for the commands that a reader is told to try.
    pub program: String,
    /// The function that starts a node.
    pub launch: NodeLauncher,
}

/// The end of a demo that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoEnd {
    /// Every step held, and everything was ended again.
    Told,
    /// A signal ended it before the last step.
    Interrupted,
}

/// The step at which the demo failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("step {step} ({title}) failed: {reason:#}")]
pub struct DemoFailure {
    /// The number of the step; 0 before the first.
    pub step: u32,
    /// The title of the step.
    pub title: &'static str,
    /// The reason of the failure.
    pub reason: anyhow::Error,
    /// The folder with configuration and logs, which is kept.
    pub kept: Option<PathBuf>,
}

/// Tells the story on `out` and returns when it has ended and every process that it started, too.
///
/// Installs aws-lc-rs as this process's crypto provider if there is none yet. Call it from the thread
/// that lives as long as the process: a node ends with the thread that started it.
///
/// # Errors
///
/// The first step that did not hold.
pub async fn run(
    options: &DemoOptions,
    out: Box<dyn Write + Send>,
) -> Result<DemoEnd, DemoFailure> {
    // An error means that somebody has installed one already, which is as good.
    aws_lc_rs::default_provider().install_default().ok();
    let mut tell = Narrator::new(out, options.colour);
    let mut world = match DemoResources::new() {
        Ok(world) => world,
        Err(reason) => {
            return Err(DemoFailure { step: 0, title: "Setting up", reason, kept: None });
        }
    };
    let told = play(&mut world, &mut tell, options).await;
    let left = world.stop_nodes().await;
    match told.and_then(|end| left.map(|()| end)) {
        Ok(end) => {
            drop(world);
            if end == DemoEnd::Told {
                tell.plain("\nAll nodes have left; nothing is left behind.");
            }
            Ok(end)
        }
        Err(reason) => {
            let (step, title) = tell.under_way();
            Err(DemoFailure { step, title, reason, kept: Some(world.keep()) })
        }
    }
}

async fn play(
    world: &mut DemoResources,
    tell: &mut Narrator,
    options: &DemoOptions,
) -> Result<DemoEnd, anyhow::Error> {
    let mut signals = StopSignals::new().context("signals cannot be received")?;
    let told = tokio::select! {
        told = Box::pin(story::tell(world, tell, options)) => told,
        () = signals.any() => return Ok(DemoEnd::Interrupted),
    };
    let cast = told?;
    if !options.once {
        story::hold(world, &cast, tell, options, signals.any()).await;
    }
    Ok(DemoEnd::Told)
}

/// The signals with which people and supervisors end a program.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
