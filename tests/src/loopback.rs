//! Two real nodes on loopback addresses of this process alone: a workload, an import, and the agent behind it.
//!
//! The importing node is at [`LoopbackPlace::ip`]`(1)` with its import at port 15080 there, the exporting one and its agent at `ip(2)`,
//! the workload at `ip(3)`.

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::daemon::{Daemon, issue, make_authority};

/// The time that an answer or a reset may take, from the request.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The loopback addresses of one test of this process; tests that run at once have numbers ten apart.
#[derive(Debug, Clone, Copy)]
pub struct LoopbackPlace(pub u8);

impl LoopbackPlace {
    /// An address that no other process of a test run has.
    #[must_use]
    pub fn ip(self, n: u8) -> Ipv4Addr {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, high | 0x80, low, self.0 + n)
    }

    /// The agent: echoes whatever comes, as long as the process lives.
    ///
    /// # Panics
    /// Where its address is taken.
    pub fn serve(self) {
        let listener = TcpListener::bind((self.ip(2), 8080)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                    // Ends with its client, however that ends.
                    std::io::copy(&mut from, &mut to).ok();
                });
            }
        });
    }

    /// The configuration of node `e1`, whose admin socket is `socket`, and `more` beside it.
    #[must_use]
    pub fn edge(self, socket: &str, more: &str) -> String {
        let [here, there, import, pod] = [1, 2, 1, 3].map(|n| self.ip(n));
        format!(
            r#"
cluster: edge
trustDomain: edge.test
node: {{name: e1, listen: "{here}:7843", identity: ROOT/e1, endpoints: 2}}
links: [{{cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["{there}:7843"]}}]
imports: [{{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{import}:15080"}}]}}]
workloads: [{{address: {pod}, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{socket}.sock}}
{more}
"#
        )
    }

    /// The configuration of node `b1`, whose admin socket is `socket`, and `more` beside it.
    #[must_use]
    pub fn bank(self, socket: &str, more: &str) -> String {
        let (here, backend) = (self.ip(2), self.ip(2));
        format!(
            r#"
cluster: bank
trustDomain: bank.test
node: {{name: b1, listen: "{here}:7843", identity: ROOT/b1, endpoints: 2}}
links: [{{cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem}}]
exports:
  - service: agents/fraud-bot
    ports: [{{name: http, port: 8080, backends: ["{backend}:8080"]}}]
    allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{socket}.sock}}
{more}
"#
        )
    }

    /// The workload's connection to the import, which has been answered once.
    ///
    /// # Errors
    /// How it ended instead.
    pub fn connect(self) -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.ip(3), 0)).into())?;
        socket.connect(&SocketAddr::from((self.ip(1), 15080)).into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        exchange(&mut stream, b"hello")?;
        Ok(stream)
    }
}

/// Makes the authorities of both clusters and the certificates of both nodes in `root`.
pub fn certify(root: &Path) {
    for (cluster, node) in [("edge", "e1"), ("bank", "b1")] {
        make_authority(root, cluster);
        issue(root, cluster, node);
    }
}

/// True if a status document says that the import is ready.
#[must_use]
pub fn import_is_ready(status: &serde_json::Value) -> bool {
    status["imports"][0]["ports"][0]["ready"] == true
}

/// Waits until the import of `edge`'s node is ready.
pub fn wait_for_import(edge: &Daemon) {
    edge.wait_for("the import is ready", import_is_ready);
}

/// Says these words and hears them back.
///
/// # Errors
/// How the connection ended instead.
///
/// # Panics
/// Where other words came back.
pub fn exchange(stream: &mut TcpStream, words: &[u8]) -> Result<()> {
    stream.write_all(words)?;
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, words);
    Ok(())
}
