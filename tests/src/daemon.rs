//! The real binary, as a test starts, asks and ends it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::lab::LabHost;
use crate::prerequisite::eventually;

/// The `adit` binary: `ADIT_BIN`, else the one beside this test, which `cargo test --workspace` has just
/// built; built now where there is none.
///
/// # Panics
/// Where it cannot be built.
pub fn adit() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("ADIT_BIN") {
            return path.into();
        }
        // target/PROFILE/deps/this-test, or a program right in target/PROFILE
        let this = std::env::current_exe().unwrap();
        let beside = this.parent().unwrap();
        let profile = if beside.ends_with("deps") { beside.parent().unwrap() } else { beside };
        if profile.join("adit").exists() {
            return profile.join("adit");
        }
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "adit-cli", "--bin", "adit"]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "adit does not build");
        profile.join("adit")
    })
}

/// Runs `adit` with arguments and gives what it printed.
///
/// # Panics
/// Where it fails.
pub fn run(args: &[&str]) -> String {
    let out = Command::new(adit()).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "adit {}: {error}", args.join(" "));
    String::from_utf8(out.stdout).unwrap()
}

/// Makes the CA of `cluster` in `root`, and its bundle where the other side's files look for it.
pub fn make_authority(root: &Path, cluster: &str) {
    let ca = root.join(format!("{cluster}-ca"));
    let bundle = root.join(format!("{cluster}.pem"));
    let (ca, bundle) = (ca.to_str().unwrap(), bundle.to_str().unwrap());
    run(&["pki", "init", "--trust-domain", &format!("{cluster}.test"), "--dir", ca]);
    run(&["pki", "bundle", "--ca", ca, "--out", bundle]);
}

/// Issues a node's certificate into `root/NODE`.
pub fn issue(root: &Path, cluster: &str, node: &str) {
    let (ca, out) = (root.join(format!("{cluster}-ca")), root.join(node));
    let (ca, out) = (ca.to_str().unwrap(), out.to_str().unwrap());
    run(&["pki", "issue", "--ca", ca, "--node", node, "--out", out]);
}

/// A running `adit node`.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    root: PathBuf,
    name: String,
    /// Arguments besides the configuration.
    more: Vec<String>,
}

impl Daemon {
    /// Starts a node with a configuration; on `host`, or where the test itself runs. The file may say
    /// `ROOT` for the folder of certificates; the admin socket is `ROOT/NAME.sock`.
    ///
    /// # Panics
    /// Where it does not become ready.
    #[must_use]
    pub fn start(host: Option<&LabHost>, root: &Path, name: &str, config: &str) -> Self {
        Self::start_with(host, root, name, config, &[])
    }

    /// The same, with further arguments.
    ///
    /// # Panics
    /// Where it does not become ready.
    #[must_use]
    pub fn start_with(
        host: Option<&LabHost>,
        root: &Path,
        name: &str,
        config: &str,
        more: &[&str],
    ) -> Self {
        let file = root.join(format!("{name}.yaml"));
        std::fs::write(&file, config.replace("ROOT", root.to_str().unwrap())).unwrap();
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(host, root, name, &more);
        let mut daemon = Self { child, root: root.into(), name: name.into(), more };
        eventually(&format!("{name} is ready"), 20, || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("{name} ended with {status}:\n{}", daemon.log());
            }
            daemon.status().filter(|s| s["node"]["ready"] == true)
        });
        daemon
    }

    /// The status document; none while the daemon does not answer.
    #[must_use]
    pub fn status(&self) -> Option<serde_json::Value> {
        status_at(&self.root.join(format!("{}.sock", self.name)))
    }

    /// Waits until the status document satisfies `wanted`.
    ///
    /// # Panics
    /// When it does not in 20 s, with the document.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let mut last = None;
        let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, 20, || {
                last = self.status();
                last.as_ref().filter(|s| wanted(s)).map(|_| ())
            });
        }));
        assert!(met.is_ok(), "{}: {what}: not so in\n{last:#?}\n{}", self.name, self.log());
    }

    /// The daemon's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    /// Its process ID, as the test sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// [`Daemon::kill`], and starts it again with the same files.
    pub fn bounce(&mut self, host: Option<&LabHost>) {
        self.kill();
        self.child = spawn(host, &self.root, &self.name, &self.more);
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for its end; gives the exit status.
    ///
    /// # Panics
    /// Where it does not end in 20 s.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        eventually(&format!("{} ends", self.name), 20, || self.child.try_wait().unwrap())
    }

    /// Sends SIGTERM and waits for its end; gives the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

/// The status document at an admin socket; `None` if nobody answers there.
#[must_use]
pub fn status_at(socket: &Path) -> Option<serde_json::Value> {
    let mut socket = UnixStream::connect(socket).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.write_all(b"GET /v1/status HTTP/1.1\r\nhost: adit\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let start = answer.find('{')?;
    let end = answer.rfind('}')?;
    serde_json::from_str(&answer[start..=end]).ok()
}

fn spawn(host: Option<&LabHost>, root: &Path, name: &str, more: &[String]) -> Child {
    let mut command =
        host.map_or_else(|| Command::new(adit()), |host| host.command(adit().to_str().unwrap()));
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join(format!("{name}.log")))
        .unwrap();
    command
        .args(["node", "--config"])
        .arg(root.join(format!("{name}.yaml")))
        .args(more)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}
