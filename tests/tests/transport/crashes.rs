//! Over turmoil: crashes, restarts, cuts and losses, each run repeatable by its seed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_tests::identity::{TestCluster, TestNode};
use adit_tests::net::Sent;
use adit_tests::net::simulated::{LONGEST_RUN_TIMEOUT, SentTrace, Simulated};
use adit_tests::pair::{PORT, read_all};
use adit_transport::{DialRequest, Endpoints, NodeSecret, Tuning, Worker};
use bytes::Bytes;
use tokio::task::JoinSet;
use turmoil::Sim;

const SECOND: Duration = Duration::from_secs(1);

struct CrashWorld {
    edge: TestNode,
    bank: TestNode,
    bank_domain: adit_core::spiffe::TrustDomain,
    seed: u64,
    lose_every: usize,
    trace: SentTrace,
}

fn world(seed: u64, lose_every: usize) -> Arc<CrashWorld> {
    let (edge, bank) = (TestCluster::new("edge.example"), TestCluster::new("bank.example"));
    Arc::new(CrashWorld {
        edge: edge.node("e1", &[&bank]),
        bank: bank.node("b1", &[&edge]),
        bank_domain: bank.trust_domain().clone(),
        seed,
        lose_every,
        trace: SentTrace::default(),
    })
}

fn sim<'a>(world: &CrashWorld) -> Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(world.seed)
        .simulation_duration(LONGEST_RUN_TIMEOUT)
        .udp_capacity(4096)
        .min_message_latency(Duration::from_millis(20))
        .max_message_latency(Duration::from_millis(25))
        .build()
}

impl CrashWorld {
    fn bind(&self, host: &str, node: &TestNode, secret: &NodeSecret) -> Endpoints {
        let net = Simulated::on(host, self.seed, &self.trace, self.lose_every);
        let listen = [SocketAddr::from(([0, 0, 0, 0], PORT))];
        let workers = vec![Worker::current()];
        Endpoints::bind(net, workers, &listen, secret, node.tls(), Tuning::default()).unwrap()
    }

    fn edge(&self) -> Endpoints {
        self.bind("edge", &self.edge, &self.edge.secret)
    }

    async fn dial(&self, edge: &Endpoints) -> adit_transport::QuicConnection {
        let address = SocketAddr::new(turmoil::lookup("bank"), PORT);
        let dial = DialRequest { address, trust_domain: &self.bank_domain, class: Class::Bulk };
        edge.dial(0, dial).await.unwrap()
    }

    /// Bank's whole life: it answers every stream with what it reads.
    async fn serve(self: Arc<Self>, secret: NodeSecret) -> turmoil::Result {
        let bank = self.bind("bank", &self.bank, &secret);
        let mut tasks = JoinSet::new();
        while let Some(incoming) = bank.accept(0).await {
            tasks.spawn(async move {
                let Ok(connection) = incoming.accept().await else { return };
                let mut streams = JoinSet::new();
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    streams.spawn(async move {
                        while let Ok(Some(mut chunk)) = recv.read_chunk(usize::MAX).await {
                            if send.send(&mut chunk).await.is_err() {
                                return;
                            }
                        }
                        if send.finish().is_ok() {
                            send.stopped().await.ok();
                        }
                    });
                }
            });
        }
        Ok(())
    }
}

fn host(sim: &mut Sim<'_>, world: &Arc<CrashWorld>, secret: impl Fn() -> NodeSecret + 'static) {
    let world = Arc::clone(world);
    sim.host("bank", move || Arc::clone(&world).serve(secret()));
}

/// A megabyte there and back, over whatever happens, then a quiet minute. Returns what was sent.
fn transfer(seed: u64, lose_every: usize, cut: bool) -> Vec<Sent> {
    let world = world(seed, lose_every);
    let mut sim = sim(&world);
    let secret = world.bank.secret.clone();
    host(&mut sim, &world, move || secret.clone());
    let client = Arc::clone(&world);
    sim.client("edge", async move {
        let edge = client.edge();
        let connection = client.dial(&edge).await;
        let (mut send, mut recv) = connection.open_bi(SECOND).await?;
        let body: Bytes = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut rest = body.clone();
        let write = async {
            send.send(&mut rest).await.unwrap();
            send.finish().unwrap();
            send.stopped().await.unwrap();
        };
        let fault = async {
            if cut {
                tokio::time::sleep(Duration::from_millis(150)).await;
                turmoil::partition("edge", "bank");
                tokio::time::sleep(3 * SECOND).await;
                turmoil::repair("edge", "bank");
            }
        };
        let ((), got, ()) = tokio::join!(write, read_all(&mut recv), fault);
        assert!(got? == body);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(connection.is_closed(), None);
        connection.close(Code::ConnectionUnused, "");
        edge.idle(3 * SECOND).await;
        Ok(())
    });
    sim.run().unwrap();
    world.trace.lock().unwrap().clone()
}

#[test]
fn one_seed_is_one_story() {
    for (lose_every, cut) in [(0, false), (50, false), (0, true)] {
        let story = transfer(42, lose_every, cut);
        assert!(story.len() > 1500, "{}", story.len());
        let again = transfer(42, lose_every, cut);
        let differs = story.iter().zip(&again).position(|(a, b)| a != b);
        assert_eq!((differs, story.len()), (None, again.len()), "loss {lose_every}, cut {cut}");
        assert_ne!(story, transfer(43, lose_every, cut), "another seed is another story");
    }
}

/// When the client notices that bank died at five seconds and came back at once, in seconds after it.
fn noticed(secret_of_life: impl Fn(usize) -> NodeSecret + 'static) -> (f64, Code) {
    let world = world(1, 0);
    let mut sim = sim(&world);
    let lives = Mutex::new(0);
    host(&mut sim, &world, move || {
        let mut life = lives.lock().unwrap();
        *life += 1;
        secret_of_life(*life)
    });
    let outcome = Arc::new(Mutex::new(None));
    let (client, told) = (Arc::clone(&world), Arc::clone(&outcome));
    sim.client("edge", async move {
        let edge = client.edge();
        let connection = client.dial(&edge).await;
        let (mut send, mut recv) = connection.open_bi(SECOND).await?;
        // A conversation: a few bytes now and then.
        let talk = async {
            while send.send_all(b"tick").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let listen = async { while let Ok(Some(_)) = recv.read_chunk(usize::MAX).await {} };
        let (closed, (), ()) = tokio::join!(connection.closed(), talk, listen);
        *told.lock().unwrap() = Some((turmoil::elapsed().as_secs_f64() - 5.0, closed.code));
        Ok(())
    });
    let mut crashed = false;
    while !sim.step().unwrap() {
        if !crashed && sim.elapsed() > 5 * SECOND {
            sim.crash("bank");
            sim.bounce("bank");
            crashed = true;
        }
    }
    let outcome = outcome.lock().unwrap();
    outcome.unwrap()
}

#[test]
fn a_restart_is_noticed_within_a_second_and_a_half() {
    let (after, code) = noticed(|_| NodeSecret::from_bytes([7; 32]));
    assert_eq!(code, Code::PeerRestarted);
    assert!((0.0..1.5).contains(&after), "{after} s");
}

#[test]
fn without_its_secret_a_restart_looks_like_silence() {
    let (after, code) = noticed(|life| NodeSecret::from_bytes([life as u8; 32]));
    assert_eq!(code, Code::ConnectionLost);
    let idle = Tuning::default().idle_timeout.as_secs_f64();
    assert!((idle - 1.0..idle + 1.0).contains(&after), "{after} s");
}
