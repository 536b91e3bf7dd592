//! Handshakes: what two honest nodes agree on, and what they refuse to agree on.

use std::sync::Arc;

use adit_pki::{KeyKind, TrustBundles, VerifyError, peer_id, tls};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup,
    PeerIncompatible, ProtocolVersion, ServerConfig, ServerConnection,
};

use crate::cluster::{PkiCluster, verifier};
use crate::forge::{HOUR, NOW, at};
use crate::wire::{Gullible, HandshakeSide, clock, clock_at, provider, shake};

fn edge_and_bank() -> (PkiCluster, PkiCluster) {
    (PkiCluster::new("edge.example", "e1"), PkiCluster::new("bank.example", "b1"))
}

#[test]
fn two_nodes_agree_on_the_strict_choices() {
    for kind in [KeyKind::P256, KeyKind::Ed25519] {
        let edge = PkiCluster::with("edge.example", "e1", kind);
        let bank = PkiCluster::with("bank.example", "b1", kind);
        let trust = verifier([edge.bundle(), bank.bundle()]);
        let done = shake(&edge.client(&trust), &bank.server(&trust)).unwrap();
        let (client, server) = (&done.client, &done.server);

        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full), "no second round trip");
        assert_eq!(client.alpn_protocol(), Some(tls::ALPN));
        assert_eq!(server.alpn_protocol(), Some(tls::ALPN));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert!(client.zero_rtt_keys().is_none());
        assert_eq!(server.server_name(), None);

        let bank_seen = peer_id(client.peer_certificates().unwrap()).unwrap();
        assert_eq!(bank_seen.id.as_str(), "spiffe://bank.example/adit/node/b1");
        assert_eq!(bank_seen.not_after, bank.identity.get().not_after());
        let edge_seen = peer_id(server.peer_certificates().unwrap()).unwrap();
        assert_eq!(edge_seen.node.unwrap().as_str(), "e1");
    }
}

#[test]
fn names_of_peers_do_not_travel_in_the_open() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let done = shake(&edge.client(&trust), &bank.server(&trust)).unwrap();
    for name in [&b"peer.invalid"[..], b"edge.example", b"bank.example"] {
        assert!(!done.hello.windows(name.len()).any(|w| w == name), "{name:?} is in the hello");
    }
}

#[test]
fn siblings_are_peers() {
    let edge = PkiCluster::new("edge.example", "e1");
    let trust = verifier([edge.bundle()]);
    let server = edge.server(&trust);
    edge.identity.set(edge.renew("e2", at(NOW)));
    assert!(shake(&edge.client(&trust), &server).is_ok());
}

/// A client that would gladly be let in again without a certificate gets no ticket from us.
#[test]
fn our_server_gives_no_tickets() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let server = bank.server(&trust);
    let mut eager = ClientConfig::clone(&edge.client(&trust));
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    for _ in 0..3 {
        let done = shake(&eager, &server).unwrap();
        assert_eq!(done.client.tls13_tickets_received(), 0);
        assert_eq!(done.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    // Each of these alone is enough, so the wire does not show if one is lost.
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache());
    assert!(!server.ticketer.enabled());
}

/// A server that gives tickets gets them back from nobody.
#[test]
fn our_client_keeps_no_tickets() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let client = edge.client(&trust);
    let mut generous = ServerConfig::clone(&bank.server(&trust));
    generous.send_tls13_tickets = 2;
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    let generous = Arc::new(generous);
    for _ in 0..3 {
        let done = shake(&client, &generous).unwrap();
        assert_eq!(done.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    // What the server's generosity is worth to a client that wants it: without this the above shows
    // nothing.
    let mut eager = ClientConfig::clone(&client);
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    shake(&eager, &generous).unwrap();
    let done = shake(&eager, &generous).unwrap();
    assert_eq!(done.client.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_client_of_tls_1_2_is_refused() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let old = ClientConfig::builder_with_details(provider(), clock())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    // QUIC cannot even say TLS 1.2, so this one hello goes over plain TLS.
    let mut client =
        ClientConnection::new(Arc::new(old), "peer.invalid".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(bank.server(&trust)).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert_eq!(error, Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled));
}

#[test]
fn another_application_protocol_is_refused() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    for protocols in [vec![], vec![b"h3".to_vec()]] {
        let mut client = ClientConfig::clone(&edge.client(&trust));
        client.alpn_protocols = protocols;
        let (side, error) = shake(&Arc::new(client), &bank.server(&trust)).unwrap_err();
        assert_eq!((side, error), (HandshakeSide::Server, Error::NoApplicationProtocol));
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let mut anonymous = ClientConfig::builder_with_details(provider(), clock())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![tls::ALPN.to_vec()];
    let (side, error) = shake(&Arc::new(anonymous), &bank.server(&trust)).unwrap_err();
    assert_eq!((side, error), (HandshakeSide::Server, Error::NoCertificatesPresented));
}

/// A build without ML-KEM still gets through, but nobody chooses it over ML-KEM.
#[test]
fn x25519_alone_is_the_second_choice() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let mut classic = provider();
    Arc::make_mut(&mut classic).kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut client = ClientConfig::builder_with_details(classic, clock())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
            rustls::sign::CertifiedKey::clone(&edge.identity.get().certified()),
        )));
    client.alpn_protocols = vec![tls::ALPN.to_vec()];
    let done = shake(&Arc::new(client), &bank.server(&trust)).unwrap();
    let group = done.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519);
}

#[test]
fn a_renewed_identity_is_presented_without_a_new_configuration() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let (client, server) = (edge.client(&trust), bank.server(&trust));
    let ends = || {
        let done = shake(&client, &server).unwrap();
        [done.client.peer_certificates(), done.server.peer_certificates()]
            .map(|chain| peer_id(chain.unwrap()).unwrap().not_after.as_secs())
    };
    assert_eq!(ends(), [NOW + 24 * HOUR; 2]);
    bank.identity.set(bank.renew("b1", at(NOW + 60)));
    assert_eq!(ends(), [NOW + 60 + 24 * HOUR, NOW + 24 * HOUR]);
    edge.identity.set(edge.renew("e1", at(NOW + 60)));
    assert_eq!(ends(), [NOW + 60 + 24 * HOUR; 2]);
}

#[test]
fn a_withdrawn_bundle_ends_belief_without_a_new_configuration() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let (client, server) = (edge.client(&verifier([bank.bundle()])), bank.server(&trust));
    assert!(shake(&client, &server).is_ok());

    trust.set_trust(TrustBundles::new([bank.bundle()]).unwrap().into());
    let (side, error) = shake(&client, &server).unwrap_err();
    let gone = VerifyError::UnknownTrustDomain("edge.example".parse().unwrap());
    assert_eq!((side, VerifyError::from_rustls(&error)), (HandshakeSide::Server, Some(&gone)));

    trust.set_trust(TrustBundles::new([bank.bundle(), edge.bundle()]).unwrap().into());
    assert!(shake(&client, &server).is_ok());
}

/// The clock is an argument: the same certificates a day later, at a standing clock.
#[test]
fn certificates_end_by_the_clock_that_was_given() {
    let (edge, bank) = edge_and_bank();
    let trust = verifier([edge.bundle(), bank.bundle()]);
    let late = clock_at(at(NOW + 25 * HOUR));
    let client = tls::client_config(&edge.identity, &trust, &late).unwrap();
    let (side, error) = shake(&client, &bank.server(&trust)).unwrap_err();
    let Some(VerifyError::Expired { not_after, .. }) = VerifyError::from_rustls(&error) else {
        panic!("{error}")
    };
    assert_eq!((side, *not_after), (HandshakeSide::Client, bank.identity.get().not_after()));
    assert!(error.to_string().contains("expired at 2026-11-22T12:00:00Z"), "{error}");
}
