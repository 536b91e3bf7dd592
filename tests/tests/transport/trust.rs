//! Peers that are accepted, and how others learn that they are not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_tests::identity::{TestCalendar, TestCluster, TestNode};
use adit_tests::net::memory::MemoryNetwork;
use adit_tests::pair::{BANK, EDGE, NodePair, PORT, bind, stream};
use adit_transport::endpoint::{AcceptError, ClosedBy, DialError};
use adit_transport::network::SocketOptions;
use adit_transport::{DialRequest, Endpoints, Tuning, Worker};
use rustls::time_provider::TimeProvider;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn pair() -> NodePair {
    NodePair::new(Tuning::default(), 1)
}

/// A third cluster's node on the pair's network.
fn stranger(pair: &NodePair, believes: &[&TestCluster]) -> (TestCluster, Endpoints) {
    let cluster = TestCluster::new("stranger.example");
    let node = cluster.node("s1", believes);
    let at = "10.0.3.1".parse().unwrap();
    let endpoints = bind(&pair.network, at, &node, 1, Tuning::default());
    (cluster, endpoints)
}

#[tokio::test(start_paused = true)]
async fn another_clusters_node_is_not_who_was_dialled() {
    let pair = pair();
    let expected = "other.example".parse().unwrap();
    let dial = DialRequest { trust_domain: &expected, ..pair.dial() };
    let (dialled, accepted) = pair.try_connect(dial).await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::WrongCluster { .. }), "{error}");
    assert_eq!(error.code(), Code::IdentityMismatch);
    let ended = accepted.unwrap().closed().await;
    assert_eq!((ended.code, ended.by), (Code::IdentityMismatch, ClosedBy::Peer));
    let told =
        "spiffe://bank.example/adit/node/b1 answered where a node of other.example was expected";
    assert_eq!(&*ended.text, told);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_refused_and_both_sides_know_why() {
    let pair = pair();
    let (_cluster, stranger) = stranger(&pair, &[&pair.clusters.1]);
    let accept = async { pair.bank.accept(0).await.unwrap().accept().await };
    let (dialled, accepted) = tokio::join!(stranger.dial(0, pair.dial()), accept);
    // In TLS 1.3 the dialler is done before it is refused.
    let ended = dialled.unwrap().closed().await;
    assert_eq!((ended.code, ended.by), (Code::IdentityMismatch, ClosedBy::Peer));
    assert!(ended.text.contains("stranger.example"), "{ended}");
    let Err(AcceptError::Closed(refusal)) = accepted else { panic!("{accepted:?}") };
    assert_eq!((refusal.code, refusal.by), (Code::IdentityMismatch, ClosedBy::Us));
    assert!(refusal.text.contains("stranger.example"), "{refusal}");
    assert_eq!(pair.bank.counters().certificate_refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dialler_refuses_whom_it_does_not_know() {
    let pair = pair();
    let (_cluster, stranger) = stranger(&pair, &[]);
    let accept = async { pair.bank.accept(0).await.unwrap().accept().await };
    let (dialled, accepted) = tokio::join!(stranger.dial(0, pair.dial()), accept);
    let Err(DialError::Closed(refusal)) = dialled else { panic!("{dialled:?}") };
    assert_eq!((refusal.code, refusal.by), (Code::IdentityMismatch, ClosedBy::Us));
    let Err(AcceptError::Closed(ended)) = accepted else { panic!("{accepted:?}") };
    assert_eq!((ended.code, ended.by), (Code::IdentityMismatch, ClosedBy::Peer));
}

#[tokio::test(start_paused = true)]
async fn another_protocol_is_refused() {
    let pair = pair();
    let calendar: Arc<dyn TimeProvider> = Arc::new(TestCalendar::default());
    let TestNode { identity, verifier, .. } = &pair.nodes.0;
    let mut tls = rustls::ClientConfig::clone(
        &*adit_pki::tls::client_config(identity, verifier, &calendar).unwrap(),
    );
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls: quinn::crypto::rustls::QuicClientConfig = tls.try_into().unwrap();
    let options = SocketOptions { receive_buffer: 0, send_buffer: 0, share_port: false };
    let socket = pair.network.host(EDGE).dial(SocketAddr::new(BANK, PORT), &options).unwrap();
    let client = quinn::Endpoint::new_with_abstract_socket(
        quinn::EndpointConfig::default(),
        None,
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let dial = client.connect_with(config, SocketAddr::new(BANK, PORT), "x").unwrap();
    let accept = async { pair.bank.accept(0).await.unwrap().accept().await };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let Err(quinn::ConnectionError::ConnectionClosed(close)) = dialled else {
        panic!("{dialled:?}")
    };
    // no_application_protocol
    assert_eq!(close.error_code, quinn::TransportErrorCode::crypto(120));
    let Err(AcceptError::Closed(refusal)) = accepted else { panic!("{accepted:?}") };
    assert_eq!((refusal.code, refusal.by), (Code::VersionMismatch, ClosedBy::Us));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ended_is_refused_and_the_text_says_so() {
    let pair = pair();
    pair.nodes.0.identity.set(pair.clusters.0.issue("e1", DAY + Duration::from_secs(3600)));
    let (dialled, accepted) = pair.try_connect(pair.dial()).await;
    let ended = dialled.unwrap().closed().await;
    assert_eq!((ended.code, ended.by), (Code::IdentityMismatch, ClosedBy::Peer));
    let Err(AcceptError::Closed(refusal)) = accepted else { panic!("{accepted:?}") };
    for text in [ended.text, refusal.text] {
        assert!(text.contains("a certificate expired at"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn identity_and_trust_change_under_running_connections() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    assert_eq!(bank.peer_id().as_str(), "spiffe://edge.example/adit/node/e1");

    pair.nodes.0.identity.set(pair.clusters.0.issue("renamed", Duration::ZERO));
    pair.nodes.1.identity.set(pair.clusters.1.issue("renewed", Duration::from_secs(60)));
    let (newer, accepted) = pair.connect().await;
    assert_eq!(accepted.peer_id().as_str(), "spiffe://edge.example/adit/node/renamed");
    assert_eq!(newer.peer_id().as_str(), "spiffe://bank.example/adit/node/renewed");
    assert!(newer.identity().not_after < edge.identity().not_after);

    // Bank forgets edge: nothing new, and what there is goes on until somebody re-checks it.
    pair.nodes.1.believe([&pair.clusters.1]);
    let (dialled, accepted) = pair.try_connect(pair.dial()).await;
    assert!(accepted.is_err());
    assert_eq!(dialled.unwrap().closed().await.code, Code::IdentityMismatch);
    stream(&edge, &bank).await;
}

#[tokio::test(start_paused = true)]
async fn addresses_that_cannot_be_had_are_named() {
    let network = MemoryNetwork::new(Duration::ZERO);
    let cluster = TestCluster::new("edge.example");
    let node = cluster.node("e1", &[]);
    let bind = |workers: Vec<Worker>| {
        let listen = [SocketAddr::new(EDGE, PORT)];
        let net = network.host(EDGE);
        Endpoints::bind(net, workers, &listen, &node.secret, node.tls(), Tuning::default())
    };
    let one = bind(vec![Worker::current()]).unwrap();
    let taken = bind(vec![Worker::current()]).unwrap_err().to_string();
    assert!(taken.contains("10.0.1.1:7843"), "{taken}");
    let handle = tokio::runtime::Handle::current;
    let shared = bind(vec![Worker::new(0, handle()), Worker::new(1, handle())]);
    assert!(shared.is_err(), "a second process must not share the port by mistake");
    assert!(bind(vec![]).is_err());
    assert!(bind(vec![Worker::new(1, handle())]).is_err());
    drop(one);

    let only_dials = Endpoints::bind(
        network.host(BANK),
        vec![Worker::current()],
        &[],
        &node.secret,
        node.tls(),
        Tuning::default(),
    )
    .unwrap();
    assert!(only_dials.addresses().is_empty());
    let nobody = DialRequest {
        address: "0.0.0.0:1".parse().unwrap(),
        trust_domain: cluster.trust_domain(),
        class: adit_core::snapshot::Class::Bulk,
    };
    let refused = only_dials.dial(0, nobody).await.unwrap_err();
    assert!(matches!(refused, DialError::Address(_)), "{refused}");
}
