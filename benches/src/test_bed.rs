//! Where subjects run: two sides, the server on the far one.
//!
//! On loopback both sides are this machine's own network. For a WAN each is a network namespace, with
//! `wanlink` from the rig as the cable between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{ChildProcess, NetNamespace, run, which};

/// Half a round trip of the WAN, in milliseconds.
const ONE_WAY: &str = "25";

/// A side of the test bed.
#[derive(Debug)]
pub(crate) struct BedSide {
    namespace: Option<String>,
    /// The address at which the other side finds it.
    pub(crate) ip: Ipv4Addr,
}

impl BedSide {
    /// The namespace in which its programs run.
    pub(crate) fn net(&self) -> NetNamespace<'_> {
        self.namespace.as_deref()
    }
}

impl Drop for BedSide {
    fn drop(&mut self) {
        if let Some(name) = &self.namespace {
            run(Path::new("ip"), &["netns", "del", name]).ok();
        }
    }
}

/// Two sides and a server.
#[derive(Debug)]
pub(crate) struct TestBed {
    /// Logs, certificates, configurations.
    pub(crate) root: tempfile::TempDir,
    /// The server, as the far side's daemons dial it.
    pub(crate) server: SocketAddr,
    /// The side of the clients; before `far` and `_cable`, so that it goes first.
    pub(crate) near: BedSide,
    /// The side of the server.
    pub(crate) far: BedSide,
    _processes: Vec<ChildProcess>,
}

impl TestBed {
    /// Both sides on loopback.
    pub(crate) fn loopback() -> Result<Self> {
        let side = || BedSide { namespace: None, ip: Ipv4Addr::LOCALHOST };
        Self::new(side(), side(), Vec::new(), tempfile::tempdir()?)
    }

    /// Two namespaces, 50 ms of round trip and 500 Mbit/s apart, with this share of packets lost.
    pub(crate) fn wan(wanlink: &Path, loss: &str) -> Result<Self> {
        let root = tempfile::tempdir()?;
        let side = |end: u8| -> Result<BedSide> {
            let name = format!("bench-{}-{}-{end}", std::process::id(), loss.replace('.', ""));
            run(Path::new("ip"), &["netns", "add", &name])?;
            run(Path::new("ip"), &["-n", &name, "link", "set", "lo", "up"])?;
            Ok(BedSide { namespace: Some(name), ip: Ipv4Addr::new(10, 99, 0, end) })
        };
        let (near, far) = (side(1)?, side(2)?);
        let end = |side: &BedSide| format!("{}:wan", side.net().unwrap_or_default());
        let (a, b) = (end(&near), end(&far));
        // 4000 packets wait at most, as in the design's measurements.
        let options = ["--rate-mbit", "500", "--queue-bytes", "6000000", "--loss", loss];
        let args = [&["--a", &a, "--b", &b, "--delay-ms", ONE_WAY], &options[..]].concat();
        let mut cable =
            ChildProcess::start(None, &root.path().join("wanlink.log"), wanlink, &args)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !cable.last_words().contains("up") {
            cable.still_runs()?;
            ensure!(Instant::now() < deadline, "wanlink does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        for side in [&near, &far] {
            let (net, cidr) = (side.net().unwrap_or_default(), format!("{}/24", side.ip));
            run(Path::new("ip"), &["-n", net, "addr", "add", &cidr, "dev", "wan"])?;
        }
        Self::new(near, far, vec![cable], root)
    }

    fn new(
        near: BedSide,
        far: BedSide,
        cable: Vec<ChildProcess>,
        root: tempfile::TempDir,
    ) -> Result<Self> {
        let server = SocketAddr::from((far.ip, free_port()?));
        let (log, this) = (root.path().join("server.log"), std::env::current_exe()?);
        let process = ChildProcess::start(far.net(), &log, &this, &["serve", &server.to_string()])?;
        let processes = cable.into_iter().chain([process]).collect();
        Ok(Self { root, server, near, far, _processes: processes })
    }

    /// An address of the near side's own, which nothing uses.
    pub(crate) fn front(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
    }

    /// The path of a file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// A port that nothing uses now, over TCP or UDP. That nothing takes it before the daemon does is luck
/// of one in thousands, which would fail loudly.
pub(crate) fn free_port() -> Result<u16> {
    let udp = |port| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    for _ in 0..100 {
        let tcp = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = tcp.local_addr()?.port();
        if udp(port) {
            return Ok(port);
        }
    }
    bail!("no port is free over both TCP and UDP")
}

/// The program `wanlink`: as told, or built from the rig that `ADIT_RIG` names.
///
/// # Errors
/// The reason for which the WAN rows cannot run here.
pub(crate) fn wanlink(told: Option<&Path>) -> Result<PathBuf> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces with a cable need root");
    ensure!(which("ip").is_some(), "ip (iproute2) is missing");
    ensure!(Path::new("/dev/net/tun").exists(), "/dev/net/tun is missing");
    if let Some(path) = told {
        return Ok(path.into());
    }
    let rig = std::env::var_os("ADIT_RIG").context("neither --wanlink nor ADIT_RIG is given")?;
    let manifest = Path::new(&rig).join("wanlink/Cargo.toml");
    let this = std::env::current_exe()?;
    let target = this.parent().and_then(Path::parent).context("no target folder")?.join("wanlink");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (manifest, folder) = (manifest.to_string_lossy(), target.to_string_lossy());
    let place = ["--manifest-path", &manifest, "--target-dir", &folder];
    run(Path::new(&cargo), &[&["build", "--release", "--quiet"], &place[..]].concat())?;
    Ok(target.join("release/wanlink"))
}
