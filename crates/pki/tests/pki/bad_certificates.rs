//! Every way in which a certificate can be wrong, and the reason that is meant for it.
//!
//! Each row forges one chain that is good but for one thing. Both sides of a handshake must refuse it,
//! each with exactly that reason: a row that is refused for another reason proves nothing.

use adit_core::spiffe::SpiffeError;
use adit_pki::{CertUsage, PeerVerifier, VerifyError};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::cluster::{PkiCluster, verifier};
use crate::forge::{Forge, ForgedCert, NOW, at, bundles, ca_params, domain, leaf_params, uri};
use crate::wire::{HandshakeSide, impostor_client, impostor_server, shake};

pub(crate) const BANK: &str = "bank.example";
pub(crate) const B1: &str = "spiffe://bank.example/adit/node/b1";

/// The answers of both sides to `forged`, by the certificate alone and over a handshake each.
pub(crate) struct BothVerdicts {
    pub(crate) as_client: Result<(), VerifyError>,
    pub(crate) as_server: Result<(), VerifyError>,
}

/// Edge, an honest cluster that believes `trusted`, is dialled by and dials whoever holds `forged`.
pub(crate) fn present(trusted: &PeerVerifier, forged: &ForgedCert) -> BothVerdicts {
    let (leaf, rest) = forged.chain.split_first().unwrap();
    let judge = |usage| trusted.verify(leaf, rest, usage, at(NOW)).map(drop);
    let edge = PkiCluster::new("edge.example", "e1");
    let on_wire = std::sync::Arc::new(PeerVerifier::new(trusted.trust().as_ref().clone()));

    let dialled = shake(&impostor_client(forged), &edge.server(&on_wire));
    let as_client = refusal(dialled.map(drop), HandshakeSide::Server);
    assert_eq!(as_client, judge(CertUsage::ClientAuth), "the wire says otherwise");

    let dials = shake(&edge.client(&on_wire), &impostor_server(forged));
    let as_server = refusal(dials.map(drop), HandshakeSide::Client);
    assert_eq!(as_server, judge(CertUsage::ServerAuth), "the wire says otherwise");
    BothVerdicts { as_client, as_server }
}

fn refusal(
    end: Result<(), (HandshakeSide, rustls::Error)>,
    by: HandshakeSide,
) -> Result<(), VerifyError> {
    let Err((side, error)) = end else { return Ok(()) };
    assert_eq!(side, by, "{error}");
    Err(VerifyError::from_rustls(&error)
        .unwrap_or_else(|| panic!("another error: {error}"))
        .clone())
}

/// Both sides refuse, for `reason`.
pub(crate) fn refused(ca: &Forge, forged: &ForgedCert, reason: &VerifyError) {
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    let verdict = present(&trusted, forged);
    assert_eq!(verdict.as_client.as_ref().err(), Some(reason));
    assert_eq!(verdict.as_server.as_ref().err(), Some(reason));
}

/// A good leaf, spoiled.
pub(crate) fn spoiled(spoil: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut leaf = leaf_params(B1);
    spoil(&mut leaf);
    leaf
}

fn bad_id(uri: &str, reason: SpiffeError) -> VerifyError {
    VerifyError::BadId { uri: uri.to_owned(), reason }
}

/// Without this all rows below would prove nothing.
#[test]
fn a_good_forgery_is_accepted() {
    let ca = Forge::new(BANK);
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    let verdict = present(&trusted, &ca.leaf(B1));
    assert_eq!((verdict.as_client, verdict.as_server), (Ok(()), Ok(())));
}

#[test]
fn exactly_one_uri() {
    let ca = Forge::new(BANK);
    let two = spoiled(|l| l.subject_alt_names.push(uri("spiffe://edge.example/adit/node/e1")));
    refused(&ca, &ca.issue(&two), &VerifyError::SeveralIds(2));
    let twice = spoiled(|l| l.subject_alt_names.push(uri(B1)));
    refused(&ca, &ca.issue(&twice), &VerifyError::SeveralIds(2));

    let none = spoiled(|l| {
        l.subject_alt_names.clear();
        l.distinguished_name.push(DnType::CommonName, B1);
    });
    refused(&ca, &ca.issue(&none), &VerifyError::NoId);
    let dns = spoiled(|l| {
        l.subject_alt_names = vec![SanType::DnsName("b1.bank.example".try_into().unwrap())];
    });
    refused(&ca, &ca.issue(&dns), &VerifyError::NoId);
}

/// webpki passes over URIs that are no UTF-8; a second one must not hide behind that.
#[test]
fn a_uri_that_is_no_text_counts() {
    let ca = Forge::new(BANK);
    let with_names = |uris: &[&[u8]]| {
        let mut names = Vec::new();
        for uri in uris {
            names.extend([0x86, u8::try_from(uri.len()).unwrap()]);
            names.extend(*uri);
        }
        let mut content = vec![0x30, u8::try_from(names.len()).unwrap()];
        content.extend(names);
        spoiled(|l| {
            l.subject_alt_names.clear();
            l.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
        })
    };
    assert!(
        present(
            &PeerVerifier::new(bundles([ca.bundle(BANK)]).into()),
            &ca.issue(&with_names(&[B1.as_bytes()])),
        )
        .as_client
        .is_ok()
    );
    let two = with_names(&[B1.as_bytes(), b"spiffe://\xff"]);
    refused(&ca, &ca.issue(&two), &VerifyError::SeveralIds(2));
    let one = with_names(&[b"spiffe://bank.example/\xff"]);
    let reason = bad_id("spiffe://bank.example/\u{fffd}", SpiffeError::Path);
    refused(&ca, &ca.issue(&one), &reason);
}

#[test]
fn the_grammar_is_exact() {
    let ca = Forge::new(BANK);
    for (id, reason) in [
        ("spiffe://bank.example/%61dit/node/b1", SpiffeError::Path),
        ("spiffe://bank.example/adit/node/b1/", SpiffeError::Path),
        ("spiffe://bank.example/adit/../adit/node/b1", SpiffeError::Path),
        ("spiffe://bank.example//adit/node/b1", SpiffeError::Path),
        ("spiffe://bank.example/adit/node/b1?x", SpiffeError::Path),
        ("spiffe://BANK.example/adit/node/b1", SpiffeError::TrustDomain),
        ("spiffe://bank.example:443/adit/node/b1", SpiffeError::TrustDomain),
        ("spiffe://x@bank.example/adit/node/b1", SpiffeError::TrustDomain),
        ("SPIFFE://bank.example/adit/node/b1", SpiffeError::Scheme),
        ("https://bank.example/adit/node/b1", SpiffeError::Scheme),
    ] {
        refused(&ca, &ca.leaf(id), &bad_id(id, reason));
    }
}

#[test]
fn only_nodes_are_peers() {
    let ca = Forge::new(BANK);
    let workload = "spiffe://bank.example/ns/trustusbank-bank-agents/sa/fraud-bot";
    refused(&ca, &ca.leaf(workload), &VerifyError::Workload(workload.parse().unwrap()));
    let controller = "spiffe://bank.example/adit/controller";
    refused(&ca, &ca.leaf(controller), &VerifyError::Controller(controller.parse().unwrap()));
    for other in [
        "spiffe://bank.example",
        "spiffe://bank.example/adit/node",
        "spiffe://bank.example/adit/node/b1/x",
        "spiffe://bank.example/adit/node/B1",
        "spiffe://bank.example/node/b1",
    ] {
        refused(&ca, &ca.leaf(other), &VerifyError::NoRole(other.parse().unwrap()));
    }
}

/// An identity from elsewhere is a node's when its whole ID was written out, and only that one.
#[test]
fn whole_ids_can_be_allowed() {
    let ca = Forge::new(BANK);
    let spire = "spiffe://bank.example/ns/adit/sa/adit-node";
    let mut trust = adit_pki::Trust::from(bundles([ca.bundle(BANK)]));
    trust.nodes_by_id.insert(spire.parse().unwrap());
    let trusted = PeerVerifier::new(trust);
    assert!(present(&trusted, &ca.leaf(spire)).as_client.is_ok());
    let other = "spiffe://bank.example/ns/adit/sa/other";
    let reason = VerifyError::Workload(other.parse().unwrap());
    assert_eq!(present(&trusted, &ca.leaf(other)).as_client, Err(reason));
    // Allowed by name is not believed: another authority's word for it counts as little as before.
    let stranger = Forge::new("edge.example").leaf(spire);
    let reason = VerifyError::UnknownAuthority(domain(BANK));
    assert_eq!(present(&trusted, &stranger).as_client, Err(reason));
}

#[test]
fn an_authority_is_no_leaf() {
    let ca = Forge::new(BANK);
    let leaf = spoiled(|l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    refused(&ca, &ca.issue(&leaf), &VerifyError::AuthorityAsLeaf);
}

#[test]
fn usages_fit_the_direction() {
    let ca = Forge::new(BANK);
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let verdict = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let verdict = present(&trusted, &ca.issue(&spoiled(|l| l.extended_key_usages = usages)));
        (verdict.as_client, verdict.as_server)
    };
    let (no_client, no_server) = (
        Err(VerifyError::Usage(CertUsage::ClientAuth)),
        Err(VerifyError::Usage(CertUsage::ServerAuth)),
    );
    assert_eq!(verdict(vec![ServerAuth]), (no_client.clone(), Ok(())));
    assert_eq!(verdict(vec![ClientAuth]), (Ok(()), no_server.clone()));
    assert_eq!(verdict(vec![CodeSigning]), (no_client.clone(), no_server.clone()));
    assert_eq!(verdict(vec![]), (no_client, no_server));
}

#[test]
fn a_leaf_signs_handshakes_and_nothing_else() {
    let ca = Forge::new(BANK);
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign};
    for usages in [
        vec![],
        vec![KeyAgreement],
        vec![DigitalSignature, KeyCertSign],
        vec![DigitalSignature, CrlSign],
    ] {
        let leaf = spoiled(|l| l.key_usages = usages);
        refused(&ca, &ca.issue(&leaf), &VerifyError::KeyUsage);
    }
}

/// A public key that nobody has: 1024 bits of RSA. Nothing here can make such a key any more.
struct Rsa1024(Vec<u8>);

impl Rsa1024 {
    fn new() -> Self {
        let mut key = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        key.extend([0xc5; 128]);
        key.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(key)
    }
}

impl PublicKeyData for Rsa1024 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

#[test]
fn keys_are_strong_and_of_known_kinds() {
    let ca = Forge::new(BANK);
    let mut weak = ca.leaf(B1);
    weak.chain = vec![ca.sign(&leaf_params(B1), &Rsa1024::new())];
    refused(&ca, &weak, &VerifyError::WeakKey(1024));

    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let mut odd = ca.leaf(B1);
    odd.chain = vec![ca.sign(&leaf_params(B1), &p521)];
    refused(&ca, &odd, &VerifyError::Algorithm);

    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = vec![ca.sign(&leaf_params(B1), &key)];
        let good = ForgedCert { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() };
        assert!(present(&trusted, &good).as_client.is_ok(), "{algorithm:?}");
    }
}

#[test]
fn name_constraints_cannot_be_checked() {
    let mut params = ca_params(BANK);
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DirectoryName(DistinguishedName::new())],
        excluded_subtrees: vec![],
    });
    let ca = Forge::with(params);
    refused(&ca, &ca.leaf(B1), &VerifyError::NameConstraints);
}

#[test]
fn what_is_critical_must_be_understood() {
    let ca = Forge::new(BANK);
    let leaf = spoiled(|l| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
        extension.set_criticality(true);
        l.custom_extensions = vec![extension];
    });
    refused(&ca, &ca.issue(&leaf), &VerifyError::CriticalExtension);
}

#[test]
fn bytes_that_are_no_certificate() {
    let ca = Forge::new(BANK);
    let good = ca.leaf(B1);
    for bad in [vec![], vec![0x30, 0], b"hello".to_vec(), good.chain[0][..200].to_vec()] {
        let chain = vec![CertificateDer::from(bad)];
        let forged = ForgedCert { chain, key: good.key.clone_key() };
        refused(&ca, &forged, &VerifyError::Malformed);
    }
    let doubled = spoiled(|l| {
        let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0]);
        l.custom_extensions = vec![names];
    });
    refused(&ca, &ca.issue(&doubled), &VerifyError::Malformed);
    // webpki passes over extensions that it does not know, as often as they come.
    let doubled = spoiled(|l| {
        let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
        l.custom_extensions = vec![unknown.clone(), unknown];
    });
    refused(&ca, &ca.issue(&doubled), &VerifyError::Malformed);
}

/// A certificate with a flipped bit anywhere is not accepted.
#[test]
fn every_byte_counts() {
    let ca = Forge::new(BANK);
    let trusted = verifier([ca.bundle(BANK)]);
    let good = ca.leaf(B1).chain.remove(0);
    for i in 0..good.len() {
        for bit in [0, 3, 7] {
            let mut bytes = good.to_vec();
            bytes[i] ^= 1 << bit;
            let bad = CertificateDer::from(bytes);
            let verdict = trusted.verify(&bad, &[], CertUsage::ClientAuth, at(NOW));
            assert!(verdict.is_err(), "bit {bit} of byte {i}");
        }
    }
}

#[test]
fn an_observer_hears_every_refusal() {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard_by = std::sync::Arc::clone(&heard);
    let ca = Forge::new(BANK);
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into())
        .on_refusal(move |refusal| heard_by.lock().unwrap().push(refusal.label()));
    let verify = |forged: ForgedCert| {
        trusted.verify(&forged.chain[0], &[], CertUsage::ClientAuth, at(NOW)).is_ok()
    };
    assert!(verify(ca.leaf(B1)));
    assert!(!verify(ca.leaf("spiffe://bank.example/adit/controller")));
    assert!(!verify(Forge::new(BANK).leaf(B1)));
    assert_eq!(*heard.lock().unwrap(), ["controller", "wrong-signature"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Accepted exactly if the authority of the claimed trust domain signed a node's ID.
    #[test]
    fn the_authority_that_signed_decides_the_trust_domain(signer in 0usize..3, claimed in 0usize..4, path in 0usize..4) {
        let names = ["a.example", "b.example", "c.example", "d.example"];
        let paths = ["/adit/node/n1", "/adit/controller", "/ns/x/sa/y", ""];
        let forges: Vec<_> = names.iter().map(|name| Forge::new(name)).collect();
        // The last one's authority exists; nobody here was introduced to it.
        let known = forges.iter().zip(names).take(3).map(|(f, name)| f.bundle(name));
        let trusted = verifier(known);
        let id = format!("spiffe://{}{}", names[claimed], paths[path]);
        let forged = forges[signer].leaf(&id);
        let verdict = trusted.verify(&forged.chain[0], &[], CertUsage::ClientAuth, at(NOW));
        prop_assert_eq!(verdict.is_ok(), signer == claimed && path == 0, "{:?}", verdict);
        if let Ok(peer) = verdict {
            prop_assert_eq!(peer.id.to_string(), id);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let trusted = verifier([]);
        let chain = [CertificateDer::from(bytes)];
        prop_assert!(trusted.verify(&chain[0], &chain, CertUsage::ServerAuth, at(NOW)).is_err());
    }
}
