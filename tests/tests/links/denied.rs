//! The deny list at work: whoever is denied loses its connections at once and gets no new one, whichever side
//! dials, and nobody else notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::deny_list::{DeniedPeer, DenyEntry};
use adit_core::name::ClusterName;
use adit_core::snapshot::Class;
use adit_pki::inspect::{CertInfo, inspect};
use adit_pki::{Current, DenyList, Identity, Trust, TrustBundle, TrustBundles, UnixTime};
use adit_tests::identity::{EPOCH, TestNode};
use adit_tests::sites::{RunningNode, Site, eventually, start};
use adit_transport::links::{LinkSettings, PeerStream};
use adit_transport::{NodeSecret, Tuning};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use tokio::time::{Instant, sleep, timeout};

use crate::hostile::{Stranger, control, open};
use crate::{LinkWorld, SECOND};

/// The time that a denied peer's streams may live on, from the denial.
const DENIED_TIMEOUT: Duration = SECOND.saturating_mul(10);

/// A cluster whose nodes' certificates come from an authority below its root, and what its node shows.
struct Nested {
    bundle: TrustBundle,
    identity: Identity,
    /// Leaf, intermediate, root.
    chain: Vec<CertInfo>,
}

/// Such a node of `bank`.
fn nested(node: &str) -> Nested {
    let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let at = |time: Duration| rcgen::date_time_ymd(1970, 1, 1) + time;
    let params = |name: &str, ca: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = at(Duration::from_secs(EPOCH) - day);
        params.not_after = at(Duration::from_secs(EPOCH) + day);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        params
    };
    let (root, between) = (params("root", true), params("between", true));
    let mut leaf = params("leaf", false);
    let id = format!("spiffe://bank.example/adit/node/{node}");
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (root_key, between_key, leaf_key) = (key(), key(), key());
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::from_params(&root, &root_key);
    let between_pem = between.signed_by(&between_key, &root).unwrap().pem();
    let between = Issuer::from_params(&between, &between_key);
    let leaf_pem = leaf.signed_by(&leaf_key, &between).unwrap().pem();

    let bundle =
        TrustBundle::from_pem("bank.example".parse().unwrap(), root_pem.as_bytes()).unwrap();
    let (chain, now) = (leaf_pem + &between_pem, now());
    let key = leaf_key.serialize_pem();
    let ids = BTreeSet::new();
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes(), &bundle, &ids, now);
    let chain = inspect((chain + &root_pem).as_bytes(), now).unwrap();
    Nested { bundle, identity: identity.unwrap(), chain }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(EPOCH))
}

/// Edge, linked with bank and shop.
struct DenyScene {
    edge: Site,
    bank: Site,
    shop: Site,
    e1: RunningNode,
    b1: RunningNode,
    s1: RunningNode,
    /// The node of edge: what it presents and believes.
    ours: TestNode,
}

impl DenyScene {
    fn start(world: &LinkWorld, banks: &Nested) -> Self {
        let (edge, bank, shop) =
            (Site::new("edge", 1, 1), Site::new("bank", 2, 1), Site::new("shop", 3, 1));
        let ours = edge.authority.node("e1", &[&shop.authority]);
        let bundles = ours.verifier.trust().bundles.clone();
        let mut all = bundles.clone();
        all.insert(banks.bundle.clone()).unwrap();
        ours.verifier.set_trust(all.clone().into());
        let theirs = TestNode {
            identity: Arc::new(Current::new(banks.identity.clone())),
            verifier: Arc::new(adit_pki::PeerVerifier::new(all.into())),
            secret: NodeSecret::from_bytes([7; 32]),
            controller: ours.controller.clone(),
        };
        let run = |site: &Site, identity: &TestNode, links: &[&Site]| {
            let links: Vec<_> = links.iter().map(|other| other.link(&[1])).collect();
            let (host, snapshot) = (world.network.host(site.ip(1)), site.snapshot(1, &links));
            start(host, identity, snapshot, 1, LinkSettings::default(), Tuning::default())
        };
        let e1 = run(&edge, &ours, &[&bank, &shop]);
        let b1 = run(&bank, &theirs, &[&edge]);
        let s1 = run(&shop, &shop.authority.node("s1", &[&edge.authority]), &[&edge]);
        Self { edge, bank, shop, e1, b1, s1, ours }
    }

    /// Denies peers, as the process does when its configuration says so.
    fn deny(&self, peers: &[DeniedPeer]) {
        let entry = |peer: &DeniedPeer| DenyEntry { peer: peer.clone(), reason: None };
        let entries: Vec<_> = peers.iter().map(entry).collect();
        let domain = |cluster: &ClusterName| format!("{cluster}.example").parse().ok();
        let denied = DenyList::new(&entries, domain);
        let bundles: TrustBundles = self.ours.verifier.trust().bundles.clone();
        self.ours.verifier.set_trust(Trust { denied, ..bundles.into() });
        self.e1.links.recheck_certificates(Some(&self.ours.verifier), now());
    }

    fn connected(&self) -> (usize, usize) {
        let of = |site: &Site| self.e1.links.connected(&site.name).len();
        (of(&self.bank), of(&self.shop))
    }
}

/// The code with which a silent stream ends.
async fn end(stream: &mut PeerStream) -> Code {
    match stream.recv.read_chunk(1).await {
        Ok(Some(_)) => panic!("it goes on"),
        Ok(None) => Code::Finished,
        Err(error) => error.code(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_entry_ends_live_streams_and_refuses_new_handshakes() {
    let banks = nested("b1");
    let bank: ClusterName = "bank".parse().unwrap();
    let serial =
        |n: usize| DeniedPeer::Serial(banks.chain[n].serial.parse().unwrap(), Some(bank.clone()));
    let key = |n: usize| DeniedPeer::Key(banks.chain[n].key_sha256.parse().unwrap());
    for peer in [
        DeniedPeer::Cluster(bank.clone()),
        DeniedPeer::Node(bank.clone(), "b1".parse().unwrap()),
        serial(0),
        serial(1),
        serial(2),
        key(0),
        key(1),
        key(2),
    ] {
        let world = LinkWorld::new();
        let scene = DenyScene::start(&world, &banks);
        eventually("linked", 5 * SECOND, || scene.connected() == (1, 1)).await;
        let node = |site: &Site| site.node(1);
        let mut denied = scene.e1.echo(&scene.bank, &node(&scene.bank), b"hello").await.unwrap();
        let mut theirs = scene.b1.echo(&scene.edge, &node(&scene.edge), b"hello").await.unwrap();
        let mut other = scene.e1.echo(&scene.shop, &node(&scene.shop), b"hello").await.unwrap();

        let began = Instant::now();
        scene.deny(std::slice::from_ref(&peer));
        for stream in [&mut denied, &mut theirs] {
            let code = timeout(DENIED_TIMEOUT, end(stream)).await.expect("the stream lives on");
            assert_eq!(code, Code::DeniedIdentity, "{peer}");
        }
        assert!(began.elapsed() < DENIED_TIMEOUT, "{peer}");
        // Both sides dial again and again, and neither is believed.
        for _ in 0..60 {
            sleep(SECOND).await;
            assert_eq!(scene.connected(), (0, 1), "{peer}");
        }
        assert!(scene.e1.echo(&scene.bank, &node(&scene.bank), b"x").await.is_err());
        assert!(scene.b1.echo(&scene.edge, &node(&scene.edge), b"x").await.is_err());
        let refused = scene.ours.verifier.refused(&peer).unwrap();
        assert!(refused.times > 4, "{peer}: {refused:?}");
        let why = |running: &RunningNode, n: usize| {
            running.links.status().links.remove(n).dials.last_error.unwrap_or_default().to_string()
        };
        for (side, text) in [("here", why(&scene.e1, 0)), ("there", why(&scene.b1, 0))] {
            assert!(text.contains(&peer.to_string()), "{side}, {peer}: {text}");
        }
        // Whom nobody denies did not notice.
        other.send.send_all(b"still").await.unwrap();
        assert_eq!(other.recv.read_chunk(9).await.unwrap().unwrap(), "still");
        assert_eq!(scene.s1.links.connected(&scene.edge.name).len(), 1);

        scene.deny(&[]);
        eventually("linked again", 60 * SECOND, || scene.connected() == (1, 1)).await;
        drop((denied, theirs));
    }
}

/// Between its handshake and its hello a connection is nobody's to re-check.
#[tokio::test(start_paused = true)]
async fn a_peer_that_holds_back_its_hello_does_not_slip_past() {
    let world = LinkWorld::new();
    let (edge, bank) = crate::two(1, 1);
    let ours = edge.authority.node("e1", &[&bank.authority]);
    let snapshot = edge.snapshot(1, &[bank.link(&[])]);
    let host = world.network.host(edge.ip(1));
    let e1 = start(host, &ours, snapshot, 1, LinkSettings::default(), Tuning::default());
    let stranger = Stranger::new(&world, &Arc::new(bank), 1, &edge);
    let quic = stranger.dial(&edge).await;
    sleep(SECOND).await;
    let peer = DeniedPeer::Cluster("bank".parse().unwrap());
    let entries = [DenyEntry { peer, reason: None }];
    let denied = DenyList::new(&entries, |c| format!("{c}.example").parse().ok());
    let trust = ours.verifier.trust();
    ours.verifier.set_trust(Trust { denied, ..trust.bundles.clone().into() });
    e1.links.recheck_certificates(Some(&ours.verifier), now());
    let hello = adit_core::wire::control::ControlMessage::Hello(stranger.hello());
    let _control = open(&quic, &control(&hello)).await;
    let closed = timeout(DENIED_TIMEOUT, quic.closed()).await.expect("it is connected");
    assert_eq!(closed.code, Code::DeniedIdentity);
    assert!(e1.links.connected(&stranger.site.name).is_empty());
    let (cluster, node) = (&stranger.site.name, &stranger.site.node(1));
    assert!(e1.links.open(0, cluster, node, Class::Interactive).await.is_err());
}
