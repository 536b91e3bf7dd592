//! Certificates as people are shown them, and the warnings about them.

use std::net::Ipv4Addr;
use std::time::Duration;

use adit_pki::inspect::{CertFinding, InspectError, inspect};
use adit_pki::pem::PemError;
use adit_pki::{CertUsage, PeerVerifier};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::cluster::PkiCluster;
use crate::forge::{Forge, HOUR, NOW, at, bundles, ca_params, leaf_params, uri};

const BANK: &str = "bank.example";
const B1: &str = "spiffe://bank.example/adit/node/b1";

fn findings(certificate: &CertificateDer<'_>) -> Vec<CertFinding> {
    let mut all = inspect(certificate, at(NOW)).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0).findings
}

fn leaf(spoil: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = leaf_params(B1);
    spoil(&mut params);
    Forge::new(BANK).issue(&params).chain.remove(0)
}

#[test]
fn what_we_make_has_no_findings() {
    let bank = PkiCluster::new(BANK, "b1");
    let authority = inspect(bank.bundle().to_pem().as_bytes(), at(NOW)).unwrap().remove(0);
    assert_eq!((authority.authority, authority.findings), (true, vec![]));
    let node = inspect(&bank.identity.get().chain()[0], at(NOW)).unwrap().remove(0);
    assert_eq!(node.id.unwrap().as_str(), B1);
    assert_eq!(node.names, [format!("URI:{B1}")]);
    assert_eq!(node.usages, ["serverAuth", "clientAuth"]);
    assert_eq!((node.key.as_str(), node.subject.as_str()), ("P-256", ""));
    assert_eq!(node.issuer, "CN=Adit CA bank.example");
    assert_eq!((node.fingerprint.len(), node.findings), (64, vec![]));
}

#[test]
fn all_forms_show_the_same() {
    let bank = PkiCluster::new(BANK, "b1");
    let pem = inspect(bank.bundle().to_pem().as_bytes(), at(NOW)).unwrap();
    let json = inspect(bank.bundle().to_spiffe().as_bytes(), at(NOW)).unwrap();
    let der = inspect(bank.authority.certificate().certificate(), at(NOW)).unwrap();
    assert!(pem == json && json == der);
}

#[test]
fn the_clock_decides() {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let second = |s| epoch + Duration::from_secs(s);
    let hour = Duration::from_secs(HOUR);
    let expired = leaf(|l| l.not_after = second(NOW - HOUR));
    assert_eq!(findings(&expired), [CertFinding::Expired(hour)]);
    let early = leaf(|l| l.not_before = second(NOW + HOUR));
    assert_eq!(findings(&early), [CertFinding::NotYetValid(hour)]);
    let ends = leaf(|l| (l.not_before, l.not_after) = (second(NOW - 3 * HOUR), second(NOW + HOUR)));
    assert_eq!(findings(&ends), [CertFinding::EndsSoon(hour)]);
    let half = leaf(|l| (l.not_before, l.not_after) = (second(NOW - HOUR), second(NOW + HOUR)));
    assert_eq!(findings(&half), []);
    let long = leaf(|l| l.not_after = second(NOW + 91 * 24 * HOUR));
    assert!(matches!(findings(&long)[..], [CertFinding::LongLived(_)]));
}

#[test]
fn what_speaks_against_a_leaf() {
    assert_eq!(findings(&leaf(|l| l.subject_alt_names = vec![])), [CertFinding::NoId]);
    let two = leaf(|l| l.subject_alt_names.push(uri("spiffe://bank.example/adit/node/b2")));
    assert_eq!(findings(&two), [CertFinding::SeveralIds(2)]);
    let odd = leaf(|l| l.subject_alt_names = vec![uri("spiffe://bank.example/%61")]);
    assert_eq!(findings(&odd), [CertFinding::BadId]);
    let mute = leaf(|l| l.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(findings(&mute), [CertFinding::KeyUsage]);
    let one = leaf(|l| l.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(findings(&one), [CertFinding::Usage("clientAuth")]);
    let id = "spiffe://bank.example/ns/a/sa/b";
    let workload = leaf(|l| l.subject_alt_names = vec![uri(id)]);
    assert_eq!(findings(&workload), [CertFinding::NotANode(id.parse().unwrap())]);
    let ca = leaf(|l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(findings(&ca), [CertFinding::AuthorityAsLeaf, CertFinding::AuthorityCannotSign]);
    let others = leaf(|l| {
        l.subject_alt_names.push(SanType::DnsName("b1.example".try_into().unwrap()));
        l.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    });
    let names = "DNS:b1.example, IP:127.0.0.1".to_owned();
    assert_eq!(findings(&others), [CertFinding::OtherNames(names)]);
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = Forge::new(BANK).sign(&leaf_params(B1), &p521);
    assert_eq!(findings(&odd), [CertFinding::UnsupportedKey]);
}

#[test]
fn what_speaks_against_an_authority() {
    let mut nameless = ca_params(BANK);
    nameless.subject_alt_names.clear();
    assert_eq!(findings(&Forge::with(nameless).certificate), [CertFinding::NoTrustDomain]);
    let (bank, edge) = (Forge::new(BANK), Forge::new("edge.example"));
    let mixed = format!("{}{}", bank.bundle(BANK).to_pem(), edge.bundle("edge.example").to_pem());
    let all = inspect(mixed.as_bytes(), at(NOW)).unwrap();
    assert!(!all[0].is_unusable());
    assert_eq!(all[1].findings, [CertFinding::Mixed("edge.example".parse().unwrap())]);
}

/// A certificate's text is a stranger's: it must not drive a terminal.
#[test]
fn names_are_fit_for_a_terminal() {
    let hostile = leaf(|l| {
        l.distinguished_name.push(DnType::CommonName, "a\u{1b}[31mb\u{202e}c\nd");
    });
    let info = inspect(&hostile, at(NOW)).unwrap().remove(0);
    assert_eq!(info.subject, "CN=a?[31mb?c?d");
}

#[test]
fn what_cannot_be_shown_says_why() {
    let error = |bytes: &[u8]| inspect(bytes, at(NOW)).unwrap_err();
    assert_eq!(error(b""), PemError::Empty.into());
    assert_eq!(error(&[0xff, 0xfe]), InspectError::Format);
    let good = leaf(|_| {});
    assert_eq!(error(&good[..100]), InspectError::Malformed(1));
    assert!(matches!(error(b"{}"), InspectError::Bundle(_)));
    let bank = PkiCluster::new(BANK, "b1");
    assert_eq!(error(bank.authority.key_pem().as_bytes()), PemError::PrivateKey.into());
}

/// Inspection and the verifier must not disagree about what can be used.
#[test]
fn unusable_is_what_the_verifier_refuses() {
    type Spoil = fn(&mut CertificateParams);
    let spoils: [(&str, Spoil); 10] = [
        ("good", |_| {}),
        ("no names", |l| l.subject_alt_names.clear()),
        ("two names", |l| l.subject_alt_names.push(uri(B1))),
        ("percent", |l| l.subject_alt_names = vec![uri("spiffe://bank.example/adit/node/%61")]),
        ("a DNS name, too", |l| {
            l.subject_alt_names.push(SanType::DnsName("x.example".try_into().unwrap()));
        }),
        ("CA", |l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("no EKU", |l| l.extended_key_usages.clear()),
        ("no key usage", |l| l.key_usages.clear()),
        ("signs", |l| l.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("expired", |l| l.not_after = l.not_before + Duration::from_secs(1)),
    ];
    let ca = Forge::new(BANK);
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    for (name, spoil) in spoils {
        let mut params = leaf_params(B1);
        spoil(&mut params);
        let leaf = ca.issue(&params).chain.remove(0);
        let shown = inspect(&leaf, at(NOW)).unwrap().remove(0);
        let verdict = trusted.verify(&leaf, &[], CertUsage::ClientAuth, at(NOW));
        assert_eq!(shown.is_unusable(), verdict.is_err(), "{name}: {verdict:?}, {shown:?}");
    }
}
