//! The ways that are compared: nothing in between, two haproxies, or two nodes of Adit, each with the
//! configuration that it comes with.

mod adit;
mod haproxy;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::process::{ChildProcess, ask, which};
use crate::test_bed::TestBed;

/// A way from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SubjectKind {
    /// The client connects to the server.
    Direct,
    /// Two haproxies, plain TCP between them.
    HaproxyTcp,
    /// Two haproxies, mutual TLS between them.
    HaproxyMtls,
    /// Two nodes.
    Adit,
    /// Two nodes whose packets may have 6500 bytes.
    AditJumbo,
}

impl SubjectKind {
    /// Its name, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct TCP",
            Self::HaproxyTcp => "haproxy TCP",
            Self::HaproxyMtls => "haproxy mTLS",
            Self::Adit => "adit",
            Self::AditJumbo => "adit, MTU 6500",
        }
    }
}

/// The programs that subjects are made of.
#[derive(Debug)]
pub(crate) struct Programs {
    adit: PathBuf,
    haproxy: Option<PathBuf>,
}

impl Programs {
    /// Finds them: adit by `ADIT_BIN` or beside this program, haproxy where the system has it.
    pub(crate) fn find() -> Result<Self> {
        let this = std::env::current_exe()?;
        let beside = || Some(this.parent()?.join("adit"));
        let adit = std::env::var_os("ADIT_BIN").map(PathBuf::from).or_else(beside);
        let adit = adit.filter(|path| path.is_file());
        let adit = adit.context(
            "no adit beside this program: cargo build --release --bin adit, or set ADIT_BIN",
        )?;
        Ok(Self { adit: adit.canonicalize()?, haproxy: which("haproxy") })
    }

    /// True if a subject can run here.
    pub(crate) fn have(&self, kind: SubjectKind) -> bool {
        let proxies = matches!(kind, SubjectKind::HaproxyTcp | SubjectKind::HaproxyMtls);
        !proxies || self.haproxy.is_some()
    }
}

/// A way from client to server that is up.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Which.
    pub(crate) kind: SubjectKind,
    /// The address for requests.
    pub(crate) rpc: SocketAddr,
    /// The address for bulk.
    pub(crate) bulk: SocketAddr,
    daemons: Vec<ChildProcess>,
}

impl Subject {
    /// Starts it, and waits until it carries bytes.
    pub(crate) fn start(kind: SubjectKind, place: &TestBed, programs: &Programs) -> Result<Self> {
        let mut subject = match kind {
            SubjectKind::Direct => {
                Self { kind, rpc: place.server, bulk: place.server, daemons: Vec::new() }
            }
            SubjectKind::HaproxyTcp | SubjectKind::HaproxyMtls => {
                let program = programs.haproxy.as_deref().context("haproxy is missing")?;
                haproxy::start(kind, place, program)?
            }
            SubjectKind::Adit | SubjectKind::AditJumbo => adit::start(kind, place, &programs.adit)?,
        };
        let up: Result<()> = ask(place.near.net(), "probe", &[subject.rpc, subject.bulk]);
        for daemon in &mut subject.daemons {
            daemon.still_runs()?;
        }
        let words = || subject.daemons.iter().map(ChildProcess::last_words).collect::<String>();
        up.with_context(|| format!("{} does not come up:\n{}", kind.name(), words()))?;
        Ok(subject)
    }

    /// The numbers of its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(ChildProcess::pid).collect()
    }
}
