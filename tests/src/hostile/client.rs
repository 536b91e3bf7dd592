//! A client that holds valid certificates of a linked cluster and keeps to nothing else.
//!
//! It speaks QUIC through quinn with windows, lanes, node names and packets of its own choosing, and makes
//! certificates for any node that it invents, as a compromised cluster can.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::name::{ClusterName, NodeName};
use adit_core::policy::Target;
use adit_core::snapshot::Class;
use adit_core::spiffe::{TrustDomain, Workload};
use adit_core::wire::control::{ControlMessage, Hello};
use adit_core::wire::header::{StreamAnswer, StreamHeader};
use adit_core::wire::{StreamKind, VERSIONS};
use adit_pki::{
    ClusterAuthority, Current, Identity, KeyKind, PeerVerifier, Trust, TrustBundles, UnixTime,
    files, tls,
};
use bytes::BytesMut;
use quinn::{ConnectionId, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::time::timeout;

use super::forge::{Forger, Rewrite};

/// The time that a handshake, a hello or an answer may take, from its beginning.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// A certificate is good for longer than any attack.
const ENEMY_CERT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The behaviour of a connection of the enemy's.
#[derive(Clone)]
pub struct Manners {
    /// The lane that its first packet and its hello name.
    pub lane: Class,
    /// Bytes that the victim may send on a stream.
    pub stream_window: u32,
    /// Bytes that the victim may send in all, until something is read.
    pub window: u32,
    /// Bytes that may be under way to the victim.
    pub send_window: u64,
    /// The bytes that the victim may send on a stream until it is granted more, where the enemy keeps to grants; else 0.
    pub granted: u64,
    /// The change that is made to packets.
    pub rewrite: Option<Rewrite>,
    /// True if data is sent whatever windows are given.
    pub is_boundless: bool,
    /// The time that it lives without a packet.
    pub idle: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            lane: Class::Interactive,
            stream_window: 1 << 18,
            window: 1 << 26,
            send_window: 1 << 26,
            granted: 0,
            rewrite: None,
            is_boundless: false,
            idle: Duration::from_secs(30),
        }
    }
}

impl Manners {
    /// Bulk, too.
    #[must_use]
    pub fn bulk(mut self) -> Self {
        self.lane = Class::Bulk;
        self
    }

    /// Windows that hold a hello, and nothing after it.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        (self.stream_window, self.window) = (HELLO, HELLO);
        self
    }

    /// Windows beyond any need.
    #[must_use]
    pub fn greedy(mut self) -> Self {
        (self.stream_window, self.window) = (1 << 29, 1 << 29);
        self
    }

    fn transport(&self) -> TransportConfig {
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.window))
            .send_window(self.send_window)
            .max_concurrent_bidi_streams(VarInt::from_u32(1024))
            .max_idle_timeout(self.idle.try_into().ok())
            .keep_alive_interval(Some(Duration::from_secs(2)));
        config
    }
}

/// A victim's hello takes some 60 bytes.
const HELLO: u32 = 96;

/// A cluster with an authority of its own, and whom it attacks.
pub struct Enemy {
    authority: Arc<ClusterAuthority>,
    cluster: ClusterName,
    verifier: Arc<PeerVerifier>,
    /// Where the victim listens.
    pub target: SocketAddr,
    /// Where connections come from.
    pub from: IpAddr,
    /// Different in each process: a victim remembers nodes for a while.
    prefix: String,
    endpoints: Mutex<Vec<Endpoint>>,
    next: AtomicUsize,
}

/// A connection that the victim has taken.
#[derive(Debug)]
pub struct EnemyConnection {
    /// The connection.
    pub quinn: quinn::Connection,
    /// The control stream.
    pub control: (SendStream, RecvStream),
}

impl Enemy {
    /// The cluster whose authority is in `root/CLUSTER-ca`, against a node of `victim`, whose bundle is
    /// `root/VICTIM.pem`.
    ///
    /// # Panics
    /// Where the files are not there.
    #[must_use]
    pub fn load(root: &Path, cluster: &str, victim: &str, target: SocketAddr) -> Self {
        let authority = files::load_authority(&root.join(format!("{cluster}-ca"))).unwrap();
        let domain: TrustDomain = format!("{victim}.test").parse().unwrap();
        let bundle = files::load_bundle(&root.join(format!("{victim}.pem")), &domain).unwrap();
        let bundles = TrustBundles::new([bundle]).unwrap();
        let verifier = PeerVerifier::new(Trust { bundles, ..Trust::default() });
        Self {
            authority: Arc::new(authority),
            cluster: cluster.parse().unwrap(),
            verifier: Arc::new(verifier),
            target,
            from: Ipv4Addr::UNSPECIFIED.into(),
            prefix: format!(
                "m{:06x}",
                u32::from_be_bytes([0, random()[0], random()[1], random()[2]])
            ),
            endpoints: Mutex::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// The same from another address of its host.
    #[must_use]
    pub fn at(&self, from: IpAddr) -> Self {
        Self {
            authority: Arc::clone(&self.authority),
            cluster: self.cluster.clone(),
            verifier: Arc::clone(&self.verifier),
            target: self.target,
            from,
            prefix: self.prefix.clone(),
            endpoints: Mutex::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// Closes all connections, and lets the victim hear so.
    pub async fn say_goodbye(&self) {
        let all =
            std::mem::take(&mut *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner));
        for endpoint in &all {
            endpoint.close(VarInt::from_u32(0x40), b"");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// The name of an invented node.
    #[must_use]
    pub fn node(&self, nth: usize) -> String {
        format!("{}-{nth}", self.prefix)
    }

    /// The identity of a node, made at this moment.
    ///
    /// # Panics
    /// Where that is no node's name.
    #[must_use]
    pub fn identity(&self, node: &str) -> Identity {
        let (name, now) = (node.parse().unwrap(), UnixTime::now());
        let issued = self.authority.issue(&name, KeyKind::P256, ENEMY_CERT_LIFETIME, now).unwrap();
        let (chain, key) = (issued.certificate.to_pem(), issued.key_pem());
        let bundle = self.authority.bundle().unwrap();
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), &bundle, &BTreeSet::new(), now)
            .unwrap()
    }

    /// A socket to dial from: one of eight, so that all of the victim's workers are met.
    fn endpoint(&self) -> Endpoint {
        const SOCKETS: usize = 8;
        let nth = self.next.fetch_add(1, Ordering::Relaxed) % SOCKETS;
        let mut all = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if nth >= all.len() {
            all.push(Endpoint::client(SocketAddr::new(self.from, 0)).unwrap());
        }
        let nth = nth.min(all.len() - 1);
        all[nth].clone()
    }

    /// Shakes hands as `node`, and says nothing.
    ///
    /// # Errors
    /// Why that failed.
    pub async fn shake(&self, node: &str, manners: &Manners) -> Result<quinn::Connection, String> {
        let identity = Arc::new(Current::new(self.identity(node)));
        let config = tls::client_config(&identity, &self.verifier, &tls::system_clock()).unwrap();
        self.dial(config, manners, false).await
    }

    /// Begins a handshake without a certificate, and goes on with it or not.
    ///
    /// # Errors
    /// Why that failed, as it must.
    pub async fn knock(&self, mute: bool) -> Result<quinn::Connection, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as _)
            .with_no_client_auth();
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        config.enable_sni = false;
        self.dial(Arc::new(config), &Manners::default(), mute).await
    }

    async fn dial(
        &self,
        config: Arc<rustls::ClientConfig>,
        manners: &Manners,
        mute: bool,
    ) -> Result<quinn::Connection, String> {
        let inner = Arc::new(config.try_into().unwrap());
        let Manners { rewrite, is_boundless, .. } = manners.clone();
        let forger = Forger { inner, rewrite, mute, is_boundless };
        let mut config = quinn::ClientConfig::new(Arc::new(forger));
        let lane = manners.lane;
        config
            .transport_config(Arc::new(manners.transport()))
            .initial_dst_cid_provider(Arc::new(move || first_flight(lane)));
        let connecting = self
            .endpoint()
            .connect_with(config, self.target, "victim")
            .map_err(|error| error.to_string())?;
        timeout(ANSWER_TIMEOUT, connecting)
            .await
            .map_err(|_| "no handshake in time".to_owned())?
            .map_err(|error| error.to_string())
    }

    /// The hello of `node`.
    #[must_use]
    pub fn hello(&self, node: &str, manners: &Manners, slot: u64) -> ControlMessage {
        let mut boot = [0; 16];
        boot[..8]
            .copy_from_slice(&node.bytes().fold(7_u64, |h, b| h * 31 + u64::from(b)).to_be_bytes());
        ControlMessage::Hello(Hello {
            versions: VERSIONS,
            capabilities: 0,
            cluster: self.cluster.clone(),
            node: node.parse::<NodeName>().unwrap(),
            boot,
            class: manners.lane,
            clock_ms: 0,
            slot,
            stream_window: manners.granted,
        })
    }

    /// Shakes hands and says hello as `node`.
    ///
    /// # Errors
    /// Why the victim did not take it.
    pub async fn connect(
        &self,
        node: &str,
        manners: &Manners,
        slot: u64,
    ) -> Result<EnemyConnection, String> {
        let quinn = self.shake(node, manners).await?;
        self.greet(quinn, node, manners, slot).await
    }

    /// Says hello on a connection.
    ///
    /// # Errors
    /// Why the victim did not take it.
    pub async fn greet(
        &self,
        quinn: quinn::Connection,
        node: &str,
        manners: &Manners,
        slot: u64,
    ) -> Result<EnemyConnection, String> {
        let mut bytes = BytesMut::from(&[StreamKind::Control.byte()][..]);
        self.hello(node, manners, slot).encode(&mut bytes);
        let exchange = async {
            let (mut send, mut recv) = quinn.open_bi().await.map_err(|e| e.to_string())?;
            send.write_all(&bytes).await.map_err(|e| e.to_string())?;
            let mut got = Vec::new();
            while matches!(ControlMessage::decode(&got), Ok(None)) {
                let chunk = recv.read_chunk(4096, true).await.map_err(|e| e.to_string())?;
                got.extend_from_slice(&chunk.ok_or("no hello")?.bytes);
            }
            Ok((send, recv))
        };
        let control = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err("no hello in time".to_owned()))
            .map_err(|error: String| quinn.close_reason().map_or(error, |r| r.to_string()))?;
        Ok(EnemyConnection { quinn, control })
    }
}

/// A first flight's connection ID: its last byte names the lane.
fn first_flight(lane: Class) -> ConnectionId {
    let mut id = [0; 20];
    id[..16].copy_from_slice(&random());
    id[19] = u8::from(lane == Class::Bulk);
    ConnectionId::new(&id)
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).unwrap();
    bytes
}

/// The first bytes of a data stream that asks for `service`, kind byte and all.
///
/// # Panics
/// Where that is no service's name.
#[must_use]
pub fn header(service: &str) -> Vec<u8> {
    let header = StreamHeader {
        target: Target { service: service.parse().unwrap(), port: "http".parse().unwrap() },
        source: Workload {
            namespace: "agents".parse().unwrap(),
            service_account: "mole-bot".parse().unwrap(),
        },
        probe: None,
        flow: Some(random()),
        trace: None,
    };
    let mut bytes = BytesMut::from(&[StreamKind::Data.byte()][..]);
    header.encode(&mut bytes);
    bytes.to_vec()
}

impl EnemyConnection {
    /// Opens a stream and sends its first bytes.
    ///
    /// # Errors
    /// What became of the connection, or that no stream was granted in time.
    pub async fn begin(&self, first: &[u8]) -> Result<(SendStream, RecvStream), String> {
        let opening = async {
            let (mut send, recv) = self.quinn.open_bi().await.map_err(|e| e.to_string())?;
            send.write_all(first).await.map_err(|e| e.to_string())?;
            Ok((send, recv))
        };
        timeout(ANSWER_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err("no stream in time".to_owned()))
    }
}

/// Reads a stream's answer, and no more.
///
/// # Errors
/// How the stream ended instead.
pub async fn answer(recv: &mut RecvStream) -> Result<StreamAnswer, String> {
    let mut got = Vec::new();
    loop {
        let chunk = timeout(ANSWER_TIMEOUT, recv.read_chunk(512, true)).await;
        let chunk = chunk.map_err(|_| "no answer in time".to_owned())?;
        let chunk = chunk.map_err(|e| e.to_string())?.ok_or("finished without an answer")?;
        got.extend_from_slice(&chunk.bytes);
        if let Ok(Some((answer, _))) = StreamAnswer::decode(&got) {
            return Ok(answer);
        }
    }
}
