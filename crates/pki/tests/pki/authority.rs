//! The certificates that an authority makes: the profile, byte by byte where it matters, and its bounds.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_pki::authority::{
    AuthorityError, BACKDATE_INTERVAL, MAX_CA_LIFETIME, MAX_CERT_LIFETIME, MIN_CERT_LIFETIME,
};
use adit_pki::{
    CertUsage, ClusterAuthority, Identity, KeyKind, PeerVerifier, SigningRequest, Trust,
    TrustBundles, VerifyError,
};
use rcgen::{CertificateParams, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cluster::verifier;
use crate::forge::{HOUR, NOW, at, domain};

const HOURS: fn(u64) -> Duration = |hours| Duration::from_secs(hours * HOUR);

fn authority(kind: KeyKind) -> ClusterAuthority {
    ClusterAuthority::create(domain("edge.example"), kind, HOURS(10_000), at(NOW)).unwrap()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(certificate).unwrap().1
}

/// The extension's value, and true if it is critical.
fn extension(parsed: &X509Certificate<'_>, id: &str) -> (bool, String) {
    let found: Vec<_> = parsed.extensions().iter().filter(|e| e.oid.to_id_string() == id).collect();
    let [one] = found.as_slice() else { panic!("{} extensions {id}", found.len()) };
    (one.critical, format!("{:?}", one.parsed_extension()))
}

#[test]
fn a_leaf_follows_the_profile() {
    for kind in [KeyKind::P256, KeyKind::Ed25519] {
        let ca = authority(kind);
        let node = "e1.rack-2".parse().unwrap();
        let issued = ca.issue(&node, kind, HOURS(24), at(NOW)).unwrap();
        let [leaf] = issued.certificate.chain.as_slice() else { panic!() };
        let parsed = parse(leaf);

        assert_eq!(parsed.subject().to_string(), "");
        let (critical, names) = extension(&parsed, "2.5.29.17");
        assert!(critical, "an empty subject makes the names critical");
        assert!(names.contains("[URI(\"spiffe://edge.example/adit/node/e1.rack-2\")]"), "{names}");
        let (critical, usage) = extension(&parsed, "2.5.29.15");
        assert!(critical && usage.contains("flags: 1 "), "digitalSignature alone: {usage}");
        let (critical, constraints) = extension(&parsed, "2.5.29.19");
        assert!(critical && constraints.contains("ca: false"), "{constraints}");
        let usages = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usages.server_auth && usages.client_auth && !usages.any);
        let begin = NOW - BACKDATE_INTERVAL.as_secs();
        assert_eq!(parsed.validity().not_before.timestamp() as u64, begin);
        assert_eq!(parsed.validity().not_after.timestamp() as u64, NOW + 24 * HOUR);
        assert_eq!(issued.certificate.not_after, at(NOW + 24 * HOUR));
    }
}

#[test]
fn an_authority_follows_the_profile() {
    let ca = authority(KeyKind::P256);
    let parsed = parse(ca.certificate().certificate());
    assert_eq!(parsed.subject().to_string(), "CN=Adit CA edge.example");
    assert!(extension(&parsed, "2.5.29.17").1.contains("[URI(\"spiffe://edge.example\")]"));
    let (critical, usage) = extension(&parsed, "2.5.29.15");
    assert!(critical && usage.contains("flags: 96 "), "keyCertSign and cRLSign: {usage}");
    let (critical, constraints) = extension(&parsed, "2.5.29.19");
    assert!(critical && constraints.contains("ca: true"), "{constraints}");
    assert!(constraints.contains("path_len_constraint: Some(0)"), "{constraints}");
    assert!(parsed.name_constraints().unwrap().is_none(), "webpki refuses those of URIs");
}

#[test]
fn a_long_trust_domain_has_room() {
    let long = "a".repeat(255);
    let ca = ClusterAuthority::create(domain(&long), KeyKind::P256, HOURS(10), at(NOW)).unwrap();
    let node = format!("{}.b", "n".repeat(63)).parse().unwrap();
    let issued = ca.issue(&node, KeyKind::P256, HOURS(1), at(NOW)).unwrap();
    let trust = verifier([ca.bundle().unwrap()]);
    let verdict = trust.verify(&issued.certificate.chain[0], &[], CertUsage::ClientAuth, at(NOW));
    assert_eq!(verdict.unwrap().id, issued.certificate.id);
}

#[test]
fn serial_numbers_differ_and_are_of_one_length() {
    let ca = authority(KeyKind::P256);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let issued = ca.issue(&"e1".parse().unwrap(), KeyKind::P256, HOURS(1), at(NOW)).unwrap();
        let serial = parse(&issued.certificate.chain[0]).raw_serial().to_vec();
        assert!(serial.len() == 16 && serial[0] & 0x80 == 0, "{serial:x?}");
        assert!(seen.insert(serial));
    }
}

/// Simulations repeat themselves exactly only if nothing on the wire changes its length.
#[test]
fn ed25519_certificates_have_one_size() {
    let sizes: BTreeSet<_> = (0..50)
        .map(|_| {
            let ca = authority(KeyKind::Ed25519);
            let issued =
                ca.issue(&"e1".parse().unwrap(), KeyKind::Ed25519, HOURS(1), at(NOW)).unwrap();
            (ca.certificate().certificate().len(), issued.certificate.chain[0].len())
        })
        .collect();
    assert_eq!(sizes.len(), 1, "{sizes:?}");
}

#[test]
fn lives_are_bounded() {
    let second = Duration::from_secs(1);
    let create = |validity| {
        ClusterAuthority::create(domain("edge.example"), KeyKind::P256, validity, at(NOW)).err()
    };
    assert!(create(MAX_CA_LIFETIME).is_none());
    assert!(matches!(create(MAX_CA_LIFETIME + second), Some(AuthorityError::Lifetime { .. })));
    assert!(matches!(create(MIN_CERT_LIFETIME - second), Some(AuthorityError::Lifetime { .. })));

    let ca = authority(KeyKind::P256);
    let issue = |ttl| ca.issue(&"e1".parse().unwrap(), KeyKind::P256, ttl, at(NOW)).err();
    assert!(issue(MAX_CERT_LIFETIME).is_none() && issue(MIN_CERT_LIFETIME).is_none());
    let error = issue(MAX_CERT_LIFETIME + second).unwrap();
    assert!(error.to_string().contains("1m to 90d"), "{error}");
    assert!(matches!(issue(Duration::ZERO), Some(AuthorityError::Lifetime { .. })));
    assert!(matches!(issue(Duration::MAX), Some(AuthorityError::Lifetime { .. })));
}

#[test]
fn a_leaf_does_not_outlive_its_authority() {
    let ca = ClusterAuthority::create(domain("edge.example"), KeyKind::P256, HOURS(30), at(NOW))
        .unwrap();
    let issue = |now| ca.issue(&"e1".parse().unwrap(), KeyKind::P256, HOURS(24), at(now));
    assert_eq!(issue(NOW).unwrap().certificate.not_after, at(NOW + 24 * HOUR));
    assert_eq!(issue(NOW + 29 * HOUR).unwrap().certificate.not_after, at(NOW + 30 * HOUR));
    let late = issue(NOW + 31 * HOUR);
    assert!(matches!(late, Err(AuthorityError::NotCurrent)));
    let early = issue(NOW - HOUR);
    assert!(matches!(early, Err(AuthorityError::NotCurrent)));
}

/// A certificate that a node asks for by itself is as it asked, and belongs to the key that it kept.
#[test]
fn a_node_asks_with_its_own_key() {
    let ca = authority(KeyKind::P256);
    let (node, bundle) = ("e1".parse().unwrap(), ca.bundle().unwrap());
    let id = domain("edge.example").node_id(&node);
    let request = SigningRequest::new(&id, KeyKind::P256).unwrap();
    let pem = request.pem().as_bytes();
    let issued = ca.sign_pem_request(pem, &node, HOURS(24), at(NOW)).unwrap();
    let (chain, none) = (issued.to_pem(), BTreeSet::new());
    let kept = request.key_pem();
    let identity = Identity::from_pem(chain.as_bytes(), kept.as_bytes(), &bundle, &none, at(NOW));
    assert_eq!(*identity.unwrap().id(), id);
    let other = SigningRequest::new(&id, KeyKind::P256).unwrap().key_pem();
    let mixed = Identity::from_pem(chain.as_bytes(), other.as_bytes(), &bundle, &none, at(NOW));
    assert!(mixed.is_err());
    let error = ca.sign_pem_request(b"none", &node, HOURS(24), at(NOW)).unwrap_err();
    assert!(matches!(error, AuthorityError::Request(_)), "{error}");
}

/// The controller is believed by its own cluster's nodes, which say so, and by nobody else.
#[test]
fn a_controller_is_accepted_where_it_is_named() {
    let ca = authority(KeyKind::P256);
    let issued = ca.issue_controller(KeyKind::P256, HOURS(24), at(NOW)).unwrap().certificate;
    let bundles = || TrustBundles::new([ca.bundle().unwrap()]).unwrap();
    let named = [domain("edge.example").controller_id()].into();
    let ours = Trust { bundles: bundles(), nodes_by_id: named, ..Trust::default() };
    let ours = PeerVerifier::new(ours);
    let theirs = PeerVerifier::new(bundles().into());
    assert!(ours.verify(&issued.chain[0], &[], CertUsage::ClientAuth, at(NOW)).is_ok());
    let refused = theirs.verify(&issued.chain[0], &[], CertUsage::ClientAuth, at(NOW));
    assert!(matches!(refused, Err(VerifyError::Controller(_))));
}

/// Of a request only the key is believed, and only after it has signed the request.
#[test]
fn a_request_gives_a_key_and_nothing_else() {
    let ca = authority(KeyKind::P256);
    let trust = verifier([ca.bundle().unwrap()]);
    let node = "e1".parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    greedy.subject_alt_names =
        vec![SanType::URI("spiffe://edge.example/adit/controller".try_into().unwrap())];
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = greedy.serialize_request(&key).unwrap();

    let issued = ca.sign_request(request.der(), &node, HOURS(24), at(NOW)).unwrap();
    let peer = trust.verify(&issued.chain[0], &[], CertUsage::ClientAuth, at(NOW)).unwrap();
    assert_eq!(peer.id.as_str(), "spiffe://edge.example/adit/node/e1");

    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let error = ca.sign_request(&forged.into(), &node, HOURS(24), at(NOW)).unwrap_err();
    assert!(matches!(error, AuthorityError::Request(_)), "{error}");
    let error = ca.sign_request(&vec![1, 2, 3].into(), &node, HOURS(24), at(NOW)).unwrap_err();
    assert!(matches!(error, AuthorityError::Request(_)), "{error}");

    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = CertificateParams::default().serialize_request(&p521).unwrap();
    let error = ca.sign_request(odd.der(), &node, HOURS(24), at(NOW)).unwrap_err();
    assert!(matches!(error, AuthorityError::Request(_)), "{error}");
}

#[test]
fn it_comes_back_from_its_files() {
    for kind in [KeyKind::P256, KeyKind::Ed25519] {
        let ca = authority(kind);
        let (pem, key) = (ca.bundle().unwrap().to_pem(), ca.key_pem());
        let again = ClusterAuthority::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(again.domain(), ca.domain());
        let issued = again.issue(&"e1".parse().unwrap(), kind, HOURS(1), at(NOW)).unwrap();
        let trust = verifier([ca.bundle().unwrap()]);
        let leaf = &issued.certificate.chain[0];
        assert!(trust.verify(leaf, &[], CertUsage::ServerAuth, at(NOW)).is_ok());

        let other = authority(kind);
        let error = |pem: &str, key: &str| {
            ClusterAuthority::from_pem(pem.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert!(matches!(error(&pem, &other.key_pem()), AuthorityError::Mismatch));
        let two = format!("{pem}{}", other.bundle().unwrap().to_pem());
        assert!(matches!(error(&two, &key), AuthorityError::SeveralCertificates(2)));
        assert!(matches!(error(&key, &key), AuthorityError::Certificate(_)));
        assert!(matches!(error(&pem, &pem), AuthorityError::Key(_)));
        let leaf = issued.certificate.to_pem();
        assert!(matches!(error(&leaf, &issued.key_pem()), AuthorityError::Problem(_)));
    }
}

#[test]
fn nothing_shows_a_key() {
    let ca = authority(KeyKind::P256);
    let issued = ca.issue(&"e1".parse().unwrap(), KeyKind::P256, HOURS(1), at(NOW)).unwrap();
    let secrets = [ca.key_pem(), issued.key_pem()];
    for shown in [format!("{ca:?}"), format!("{issued:?}")] {
        assert!(!shown.contains("PRIVATE"), "{shown}");
        for line in secrets.iter().flat_map(|s| s.lines()) {
            assert!(!shown.contains(line), "{shown}");
        }
    }
}
