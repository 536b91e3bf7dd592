//! Hosts made of Linux network namespaces, without root.
//!
//! A test that calls [`run`] is started again inside a user namespace of its own, where it may make
//! network namespaces and cables as it likes; all of it is gone when that process ends. A [`LabHost`] is one
//! namespace; [`LabHost::enter`] runs a closure inside it, on a thread whose sockets then belong there, and
//! [`LabHost::command`] starts a program there.

use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::prerequisite::skip;

const INSIDE: &str = "ADIT_TEST_INSIDE_LAB";

/// Runs a test's `body` in a lab of its own. `name` is the test's own name, for starting it again.
///
/// # Panics
/// Where the test fails inside.
pub fn run(name: &str, body: impl FnOnce()) {
    let again = [name, "--exact", "--nocapture", "--test-threads", "1"].map(String::from);
    assert!(inside(name, &again, body), "{name} failed inside its namespaces");
}

/// Runs a program's `body` in a lab of its own; false where it failed.
pub fn run_program(name: &str, body: impl FnOnce()) -> bool {
    inside(name, &std::env::args().skip(1).collect::<Vec<_>>(), body)
}

fn inside(name: &str, args: &[String], body: impl FnOnce()) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        // A tmpfs of ours, so that named namespaces never touch the machine's own list.
        sh("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        sh("ip", &["link", "set", "lo", "up"]);
        body();
        return true;
    }
    if let Err(why) = probe() {
        skip(name, &why);
        return true;
    }
    let status = Command::new("unshare")
        .args(["-Urnm", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(args)
        .env(INSIDE, "1")
        .status()
        .unwrap();
    status.success()
}

/// Succeeds if namespaces can be made here.
fn probe() -> Result<(), String> {
    let unshare = Command::new("unshare").args(["-Urnm", "ip", "link", "set", "lo", "up"]).output();
    match unshare {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!(
            "no unprivileged network namespaces: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )),
        Err(error) => Err(format!("unshare (util-linux) cannot be run: {error}")),
    }
}

/// Runs a program and gives what it printed.
///
/// # Panics
/// Where it fails.
pub fn sh(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| {
        panic!("{program}: {e}");
    });
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {}: {error}", args.join(" "));
    String::from_utf8(out.stdout).unwrap()
}

/// A network namespace.
#[derive(Debug, Clone)]
pub struct LabHost {
    name: String,
}

impl LabHost {
    /// A new namespace with a loopback device.
    #[must_use]
    pub fn new(name: &str) -> Self {
        sh("ip", &["netns", "add", name]);
        let host = Self { name: name.into() };
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// The namespace of that name, which was made before.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// A cable to `bridge` in the lab's own namespace, as `eth0` with `address` (CIDR).
    pub fn plug(&self, bridge: &str, address: &str) {
        let port = format!("p-{}", self.name);
        sh(
            "ip",
            &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &self.name],
        );
        sh("ip", &["link", "set", &port, "master", bridge, "up"]);
        self.ip(&["addr", "add", address, "dev", "eth0"]);
        self.ip(&["link", "set", "eth0", "up"]);
    }

    /// A pod of this node: a namespace whose only cable leads here.
    #[must_use]
    pub fn pod(&self, name: &str, address: &str) -> Self {
        let pod = Self::new(name);
        let port = format!("v-{name}");
        sh(
            "ip",
            &[
                "link", "add", &port, "netns", &self.name, "type", "veth", "peer", "name", "eth0",
                "netns", name,
            ],
        );
        self.ip(&["link", "set", &port, "up"]);
        self.ip(&["addr", "add", "10.244.255.1/32", "dev", &port]);
        self.ip(&["route", "add", &format!("{address}/32"), "dev", &port]);
        pod.ip(&["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
        pod.ip(&["link", "set", "eth0", "up"]);
        pod.ip(&["route", "add", "10.244.255.1", "dev", "eth0"]);
        pod.ip(&["route", "add", "default", "via", "10.244.255.1"]);
        pod
    }

    /// `ip` in this namespace.
    pub fn ip(&self, args: &[&str]) {
        sh("ip", &[&["-n", &self.name], args].concat());
    }

    /// A command line that runs in this namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Runs `body` on a thread whose sockets belong to this namespace.
    ///
    /// # Panics
    /// Where `body` does.
    pub fn enter<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `body` on a thread whose sockets belong to this namespace, meanwhile.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(&path).unwrap();
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network).unwrap();
            body()
        })
    }
}

/// A bridge in the lab's own namespace, which cables are plugged into.
pub fn bridge(name: &str) {
    sh("ip", &["link", "add", name, "type", "bridge"]);
    sh("ip", &["link", "set", name, "up"]);
}
