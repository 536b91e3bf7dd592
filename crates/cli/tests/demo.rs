//! `adit demo`, as a newcomer runs it: the real binary, real nodes, real agents.
//!
//! What its checks are worth is shown in `crates/demo/tests/story`, where nodes are at fault on purpose.

#![cfg(feature = "demo")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// Longest time for what takes milliseconds.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The demo, with its folders in `folder`.
fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.arg("demo").env("TMPDIR", folder).stdin(Stdio::null());
    command
}

#[test]
fn every_step_holds_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).arg("--once").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{why}", output.status);
    assert!(why.is_empty(), "{why}");
    assert!(!told.contains('\x1b'), "colour without a terminal:\n{told}");
    let facts = [
        "certificates only were exchanged",
        "all three are ready after",
        "the link is up",
        "bytes are those that fraud-bot serves in bank",
        "payment 4711 is in order",
        "support-bot@edge (asserted",
        "4 events, each sent only after",
        "triage-bot: case T-1",
        "code denied",
        "noticed after",
        "answered at the first try",
        "linked again",
        "no stream is left open",
        "All nodes have left; nothing is left behind.",
    ];
    let mut rest = told.as_str();
    for fact in facts {
        let at =
            rest.find(fact).unwrap_or_else(|| panic!("{fact:?} is not told, or too late:\n{told}"));
        rest = &rest[at..];
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
    assert_eq!(alive(&told), 0, "processes are left");
}

#[test]
fn it_stays_up_to_be_tried_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, told) = up(demo(folder.path()));
    let url = told.lines().find_map(|l| l.trim().strip_prefix("curl http://")).expect(&told);
    let (address, path) = url.split_once('/').unwrap();
    let at: SocketAddr = address.parse().unwrap();

    let card = get(at, path, Ipv4Addr::LOCALHOST).expect("a visitor is answered");
    assert!(card.starts_with("HTTP/1.1 200") && card.contains("\"name\":\"fraud-bot\""), "{card}");
    let refused = get(at, path, Ipv4Addr::new(127, 0, 1, 66)).expect_err("report-bot is answered");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);

    let status = told.lines().filter_map(|l| l.trim().split_once(" status --admin "));
    let sockets: Vec<&str> = status.map(|(_, socket)| socket).collect();
    assert!(!sockets.is_empty(), "{told}");
    for socket in sockets {
        let status = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["status", "--admin", socket])
            .output()
            .unwrap();
        // The node whose workload was just refused says so; the others are well.
        let page = String::from_utf8_lossy(&status.stdout);
        let refuses = page.contains("report-bot refused since");
        let error = String::from_utf8_lossy(&status.stderr);
        assert_eq!(status.status.code(), Some(i32::from(refuses)), "{page}{error}");
    }

    assert_eq!(alive(&told), 3);
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert_eq!(alive(&told), 0, "processes are left");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn its_nodes_end_with_it_even_if_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, told) = up(demo(folder.path()));
    assert_eq!(alive(&told), 3, "{told}");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let deadline = Instant::now() + EXIT_TIMEOUT;
    while alive(&told) > 0 {
        assert!(Instant::now() < deadline, "its nodes outlive it");
        std::thread::yield_now();
    }
}

/// The demo once it has told all and stays up, and what it has told.
fn up(mut command: Command) -> (Child, String) {
    let mut demo = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(demo.stdout.take().expect("it is piped"));
    let mut told = String::new();
    while !told.contains("e1.yaml\n") || !told.ends_with("e1/admin.sock\n") {
        assert!(lines.read_line(&mut told).expect("it tells text") > 0, "it ended:\n{told}");
    }
    (demo, told)
}

/// The number of processes named in `told` that are alive.
fn alive(told: &str) -> usize {
    let pids = told.lines().filter_map(|l| l.split_once(" pid ")?.1.split([' ', ',']).next());
    let pids = pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A process that has ended and that nobody waits for yet is a zombie.
        stat.contains("(adit)") && !stat.contains("(adit) Z")
    });
    pids.count()
}

fn get(at: SocketAddr, path: &str, from: Ipv4Addr) -> std::io::Result<String> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
    socket.connect(&at.into())?;
    let mut tcp = TcpStream::from(socket);
    tcp.set_read_timeout(Some(EXIT_TIMEOUT))?;
    write!(tcp, "GET /{path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer)
}
