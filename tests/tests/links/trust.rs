//! An authority that is taken out: whoever has a certificate of another one goes on by new connections, and what
//! rests on the old one ends within ten seconds.

use std::time::Duration;

use adit_core::code::Code;
use adit_pki::{TrustBundle, TrustBundles, UnixTime};
use adit_tests::identity::{EPOCH, TestCluster, TestNode};
use adit_tests::sites::{RunningNode, Site, eventually, start};
use adit_transport::Tuning;
use adit_transport::links::{LinkSettings, PeerStream};
use tokio::time::{sleep, timeout};

use crate::{LinkWorld, SECOND};

/// Edge, linked with bank, whose authority is replaced.
struct TrustScene {
    bank: Site,
    next: TestCluster,
    /// The node of edge: whom it believes.
    ours: TestNode,
    theirs: TestNode,
    e1: RunningNode,
    b1: RunningNode,
}

impl TrustScene {
    async fn start(world: &LinkWorld) -> Self {
        let (edge, bank) = crate::two(1, 1);
        let next = TestCluster::new("bank.example");
        let ours = edge.authority.node("e1", &[&bank.authority]);
        let theirs = bank.authority.node("b1", &[&edge.authority]);
        let run = |site: &Site, identity: &TestNode, other: &Site| {
            let (host, snapshot) =
                (world.network.host(site.ip(1)), site.snapshot(1, &[other.link(&[1])]));
            start(host, identity, snapshot, 1, LinkSettings::default(), Tuning::default())
        };
        let (e1, b1) = (run(&edge, &ours, &bank), run(&bank, &theirs, &edge));
        let scene = Self { bank, next, ours, theirs, e1, b1 };
        eventually("linked", 5 * SECOND, || scene.is_connected()).await;
        scene
    }

    fn is_connected(&self) -> bool {
        self.e1.links.connected(&self.bank.name).len() == 1
    }

    /// From now on edge believes bank's next authority, and the old one no more.
    fn take_out(&self) {
        let bundle =
            TrustBundle::from_pem("bank.example".parse().unwrap(), self.next.pem().as_bytes());
        let own = self.ours.verifier.trust().bundles.get(&"edge.example".parse().unwrap()).cloned();
        let bundles = TrustBundles::new([bundle.unwrap(), own.unwrap()]).unwrap();
        self.ours.verifier.set_trust(bundles.into());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(EPOCH));
        self.e1.links.recheck_certificates(Some(&self.ours.verifier), now);
    }

    async fn stream(&self) -> Result<PeerStream, String> {
        self.e1.echo(&self.bank, &self.bank.node(1), b"hello").await
    }
}

/// Succeeds if a stream still carries.
async fn carries(stream: &mut PeerStream) -> Result<(), Code> {
    stream.send.send_all(b"on").await.map_err(|e| e.code())?;
    stream.recv.read_chunk(9).await.map_err(|e| e.code())?.map(drop).ok_or(Code::Finished)
}

#[tokio::test(start_paused = true)]
async fn whoever_has_a_good_certificate_goes_on_by_new_connections_before_the_old_ones_end() {
    let world = LinkWorld::new();
    let scene = TrustScene::start(&world).await;
    let mut short = scene.stream().await.unwrap();
    let mut long = scene.stream().await.unwrap();
    // It was renewed a moment ago; the connections that there are do not know.
    scene.theirs.identity.set(scene.next.issue("b1", Duration::ZERO));
    sleep(3 * SECOND).await;

    scene.take_out();
    for second in 0..8 {
        scene.stream().await.unwrap_or_else(|e| panic!("a new one after {second} s: {e}"));
        carries(&mut short).await.unwrap_or_else(|code| panic!("after {second} s: {code}"));
        sleep(SECOND).await;
    }
    short.send.finish().unwrap();
    assert_eq!(short.recv.read_chunk(9).await.unwrap(), None);
    let end = timeout(3 * SECOND, long.recv.read_chunk(9)).await.expect("it lives on");
    assert_eq!(end.unwrap_err().code(), Code::CertificateEnded);
    assert!(scene.is_connected());
    scene.stream().await.unwrap();
    drop(scene.b1);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_other_certificate_gets_nothing_new_and_is_cut_off_in_ten_seconds() {
    let world = LinkWorld::new();
    let scene = TrustScene::start(&world).await;
    let mut stream = scene.stream().await.unwrap();
    scene.take_out();
    for _ in 0..9 {
        assert!(scene.stream().await.is_err(), "a new stream on a connection that is not believed");
    }
    let end = timeout(11 * SECOND, stream.recv.read_chunk(9)).await.expect("it lives on");
    assert_eq!(end.unwrap_err().code(), Code::CertificateEnded);
    for _ in 0..30 {
        assert!(!scene.is_connected());
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_comes_back_and_goes_again_does_not_hide_what_rests_on_it() {
    let world = LinkWorld::new();
    let scene = TrustScene::start(&world).await;
    let mut stream = scene.stream().await.unwrap();
    let before = scene.ours.verifier.trust().bundles.clone();
    scene.take_out();
    sleep(5 * SECOND).await;
    scene.ours.verifier.set_trust(before.into());
    sleep(10 * SECOND).await;
    carries(&mut stream).await.expect("it is believed");
    scene.take_out();
    let end = timeout(11 * SECOND, stream.recv.read_chunk(9)).await.expect("it lives on");
    assert_eq!(end.unwrap_err().code(), Code::CertificateEnded);
}
