//! Texts that are a trust bundle, and texts that are refused before anybody is believed for them.

use adit_core::spiffe::SpiffeError;
use adit_pki::bundle::{AuthorityProblem, BundleError, MAX_AUTHORITIES, MAX_BUNDLE, TrustBundle};
use adit_pki::pem::PemError;
use adit_pki::trust::TrustError;
use adit_pki::{ClusterAuthority, KeyKind, TrustBundles};
use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;

use crate::cluster::PkiCluster;
use crate::forge::{Forge, NOW, at, bundles, ca_params, domain, uri};

const BANK: &str = "bank.example";

fn parse(text: impl AsRef<[u8]>) -> Result<TrustBundle, BundleError> {
    TrustBundle::parse(domain(BANK), text.as_ref())
}

fn certificates(bundle: &TrustBundle) -> Vec<CertificateDer<'static>> {
    bundle.authorities().iter().map(|a| a.certificate().clone()).collect()
}

fn spoiled(spoil: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = ca_params(BANK);
    spoil(&mut params);
    Forge::with(params).certificate
}

/// Why this one certificate is no authority of bank's.
fn problem(certificate: CertificateDer<'static>) -> Option<AuthorityProblem> {
    match TrustBundle::new(domain(BANK), [certificate]) {
        Ok(_) => None,
        Err(BundleError::Authority { position: 1, reason }) => Some(reason),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn both_forms_read_back() {
    let mut keys = vec![Forge::new(BANK).certificate];
    for kind in [KeyKind::P256, KeyKind::Ed25519] {
        let life = std::time::Duration::from_secs(3600);
        let ca = ClusterAuthority::create(domain(BANK), kind, life, at(NOW)).unwrap();
        keys.push(ca.certificate().certificate().clone());
    }
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        keys.push(ca_params(BANK).self_signed(&key).unwrap().der().clone());
    }
    let mut bundle = TrustBundle::new(domain(BANK), keys.clone()).unwrap();
    bundle.sequence = Some(7);
    let pem = parse(bundle.to_pem()).unwrap();
    assert_eq!((certificates(&pem), pem.sequence), (keys.clone(), None));
    let spiffe = parse(bundle.to_spiffe()).unwrap();
    assert_eq!((certificates(&spiffe), spiffe.sequence), (keys, Some(7)));
}

/// The members that RFC 7518 asks for each kind of key, so that others can read what we write.
#[test]
fn spiffe_json_has_what_others_need() {
    let life = std::time::Duration::from_secs(3600);
    let create = |kind| {
        let ca = ClusterAuthority::create(domain(BANK), kind, life, at(NOW)).unwrap();
        let set: serde_json::Value =
            serde_json::from_str(&ca.bundle().unwrap().to_spiffe()).unwrap();
        set["keys"][0].clone()
    };
    let p256 = create(KeyKind::P256);
    assert_eq!((&p256["kty"], &p256["crv"]), (&"EC".into(), &"P-256".into()));
    for coordinate in ["x", "y"] {
        assert_eq!(p256[coordinate].as_str().unwrap().len(), 43, "32 bytes without padding");
    }
    let ed25519 = create(KeyKind::Ed25519);
    assert_eq!((&ed25519["kty"], &ed25519["crv"]), (&"OKP".into(), &"Ed25519".into()));
    assert_eq!(ed25519["x"].as_str().unwrap().len(), 43);
    for key in [p256, ed25519] {
        assert_eq!(key["use"], "x509-svid");
        assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
        assert!(key.get("kid").is_none(), "x509-svid keys have none");
    }
}

#[test]
fn keys_of_other_uses_are_passed_over() {
    let bundle = Forge::new(BANK).bundle(BANK);
    let mut set: serde_json::Value = serde_json::from_str(&bundle.to_spiffe()).unwrap();
    let jwt = serde_json::json!({ "kty": "EC", "use": "jwt-svid", "kid": "x", "crv": "P-256" });
    set["keys"].as_array_mut().unwrap().push(jwt.clone());
    set["spiffe_refresh_hint"] = 300.into();
    assert_eq!(parse(set.to_string()).unwrap().authorities().len(), 1);
    let only_jwt = serde_json::json!({ "keys": [jwt] });
    assert_eq!(parse(only_jwt.to_string()).unwrap_err(), BundleError::Empty);
}

#[test]
fn what_is_no_bundle_says_why() {
    let good = Forge::new(BANK).bundle(BANK);
    let (pem, json) = (good.to_pem(), good.to_spiffe());
    assert_eq!(parse("").unwrap_err(), PemError::Empty.into());
    assert_eq!(parse([0x30, 0x82, 0xff]).unwrap_err(), BundleError::Format);
    assert_eq!(parse("{\"keys\":[]}").unwrap_err(), BundleError::Empty);
    for text in [
        "{",
        "{}",
        "{\"keys\":{}}",
        "{\"keys\":[1]}",
        "{\"keys\":[{\"use\":\"x509-svid\"}]}",
        "{\"keys\":[{\"use\":\"x509-svid\",\"x5c\":[]}]}",
        "{\"keys\":[{\"use\":\"x509-svid\",\"x5c\":[\"*\"]}]}",
        "{\"keys\":[{\"use\":\"x509-svid\",\"x5c\":[\"AAAA\",\"AAAA\"]}]}",
        "{\"keys\":[],\"spiffe_sequence\":-1}",
    ] {
        assert!(matches!(parse(text).unwrap_err(), BundleError::Json(_)), "{text}");
    }
    let broken = json.replacen("MII", "MIJ", 1);
    let reason = AuthorityProblem::Malformed;
    assert_eq!(parse(broken).unwrap_err(), BundleError::Authority { position: 1, reason });
    let cut = &pem[..pem.len() / 2];
    assert!(matches!(parse(cut).unwrap_err(), BundleError::Pem(PemError::Damaged(_))));
}

/// A private key in a bundle's place is told, not ignored: somebody is about to hand it over.
#[test]
fn keys_are_never_part_of_it() {
    let bank = PkiCluster::new(BANK, "b1");
    let with_key = format!("{}{}", bank.bundle().to_pem(), *bank.authority.key_pem());
    let error = parse(with_key).unwrap_err();
    assert_eq!(error, PemError::PrivateKey.into());
    assert!(!error.to_string().contains("MI"), "{error}");

    let mut set: serde_json::Value = serde_json::from_str(&bank.bundle().to_spiffe()).unwrap();
    set["keys"][0]["d"] = "c2VjcmV0".into();
    let error = parse(set.to_string()).unwrap_err();
    assert_eq!(error, BundleError::PrivateKey("d"));
    assert!(!error.to_string().contains("c2VjcmV0"));
}

#[test]
fn only_authorities_of_the_trust_domain_belong_to_it() {
    assert_eq!(problem(spoiled(|_| {})), None);
    assert_eq!(problem(spoiled(|p| p.subject_alt_names.clear())), None, "an ID is not a must");

    let leaf = Forge::new(BANK).leaf("spiffe://bank.example/adit/node/b1").chain.remove(0);
    assert_eq!(problem(leaf), Some(AuthorityProblem::Leaf));
    let mute = spoiled(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(problem(mute), Some(AuthorityProblem::CannotSign));
    let (found, expected) = (domain("edge.example"), domain(BANK));
    let foreign = Forge::new("edge.example").certificate;
    assert_eq!(problem(foreign), Some(AuthorityProblem::TrustDomain { found, expected }));
    let workload = "spiffe://bank.example/ns/a/sa/b";
    let named = spoiled(|p| p.subject_alt_names = vec![uri(workload)]);
    assert_eq!(problem(named), Some(AuthorityProblem::Path(workload.parse().unwrap())));
    let two = spoiled(|p| p.subject_alt_names.push(uri("spiffe://edge.example")));
    assert_eq!(problem(two), Some(AuthorityProblem::SeveralIds(2)));
    let upper = spoiled(|p| p.subject_alt_names = vec![uri("spiffe://BANK.example")]);
    assert_eq!(problem(upper), Some(AuthorityProblem::Id(SpiffeError::TrustDomain)));
    assert_eq!(problem(vec![0x30, 0].into()), Some(AuthorityProblem::Malformed));
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = ca_params(BANK).self_signed(&p521).unwrap().der().clone();
    assert_eq!(problem(odd), Some(AuthorityProblem::UnsupportedKey));
}

#[test]
fn repeated_ones_count_once_and_many_are_refused() {
    let one = Forge::new(BANK).certificate;
    let twice = TrustBundle::new(domain(BANK), [one.clone(), one]).unwrap();
    assert_eq!(twice.authorities().len(), 1);
    let many = |n| TrustBundle::new(domain(BANK), (0..n).map(|_| Forge::new(BANK).certificate));
    assert!(many(MAX_AUTHORITIES).is_ok());
    let error = many(MAX_AUTHORITIES + 1).unwrap_err();
    assert_eq!(error, BundleError::TooMany(MAX_AUTHORITIES + 1));
}

/// Bytes beyond the bounds are not looked at, however many there are.
#[test]
fn a_bundle_costs_no_more_than_a_large_one() {
    let pem = "# nothing\n".repeat(MAX_BUNDLE / 10 + 1);
    assert_eq!(parse(&pem).unwrap_err(), BundleError::TooLarge(pem.len()));
    let good = (0..=MAX_AUTHORITIES).map(|_| Forge::new(BANK).certificate);
    let noise = (0..10_000).map(|_| CertificateDer::from(vec![0x30; 9]));
    let error = TrustBundle::new(domain(BANK), good.chain(noise)).unwrap_err();
    assert_eq!(error, BundleError::TooMany(MAX_AUTHORITIES + 1 + 10_000));
}

/// The bundle of a cluster, read again while two others' are as they were or new.
struct Reload {
    last: TrustBundles,
}

impl Reload {
    fn read(&self, read: Vec<(&str, Option<TrustBundle>)>) -> (TrustBundles, Vec<TrustError>) {
        let read = read.into_iter().map(|(name, bundle)| (domain(name), bundle)).collect();
        self.last.renewed(read, at(NOW))
    }
}

const EDGE: &str = "edge.example";
const SHOP: &str = "shop.example";

fn unmarked() -> Forge {
    let mut params = ca_params(BANK);
    // An authority need not say whose it is, so that it fits into any bundle.
    params.subject_alt_names.clear();
    Forge::with(params)
}

#[test]
fn one_bad_bundle_keeps_no_other_as_it_was() {
    let [edge, bank, shop] = [EDGE, BANK, SHOP].map(Forge::new);
    let reload =
        Reload { last: bundles([edge.bundle(EDGE), bank.bundle(BANK), shop.bundle(SHOP)]) };
    let next = Forge::new(BANK);
    let own = || (EDGE, Some(edge.bundle(EDGE)));

    // shop's cannot be read: bank's old authority is withdrawn all the same.
    let (now, errors) = reload.read(vec![own(), (SHOP, None), (BANK, Some(next.bundle(BANK)))]);
    assert_eq!(errors, []);
    assert!(now.get(&domain(BANK)).unwrap().is_same(&next.bundle(BANK)));
    assert!(now.get(&domain(SHOP)).unwrap().is_same(&shop.bundle(SHOP)));

    // shop's has nothing that is valid.
    let mut old = ca_params(SHOP);
    old.not_after = old.not_before + std::time::Duration::from_secs(60);
    let old = Forge::with(old).bundle(SHOP);
    let (now, errors) =
        reload.read(vec![own(), (SHOP, Some(old.clone())), (BANK, Some(next.bundle(BANK)))]);
    assert_eq!(errors, [TrustError::NotCurrent(domain(SHOP), at(NOW))]);
    assert!(now.get(&domain(BANK)).unwrap().is_same(&next.bundle(BANK)));
    assert!(now.get(&domain(SHOP)).unwrap().is_same(&shop.bundle(SHOP)));
    // Where there was no better one it is taken, and says at each handshake what is wrong with it.
    let (now, errors) =
        Reload { last: TrustBundles::default() }.read(vec![own(), (SHOP, Some(old))]);
    assert_eq!((now.iter().count(), errors.len()), (2, 1));
}

/// A neighbour puts another's certificate into its own bundle: only its own change is not taken.
#[test]
fn nobody_takes_anothers_key() {
    let (edge, bank, shop) = (Forge::new(EDGE), unmarked(), Forge::new(SHOP));
    let reload =
        Reload { last: bundles([edge.bundle(EDGE), bank.bundle(BANK), shop.bundle(SHOP)]) };
    let own = || (EDGE, Some(edge.bundle(EDGE)));
    let both = |name, a: &Forge, b: &Forge| {
        TrustBundle::new(domain(name), [a.certificate.clone(), b.certificate.clone()]).unwrap()
    };
    let stolen = both(SHOP, &shop, &bank);
    let rotating = both(BANK, &bank, &Forge::new(BANK));
    for banks in [bank.bundle(BANK), rotating] {
        let read = vec![own(), (SHOP, Some(stolen.clone())), (BANK, Some(banks.clone()))];
        let (now, errors) = reload.read(read);
        assert_eq!(errors, [TrustError::Shared(domain(BANK), domain(SHOP))]);
        assert!(now.get(&domain(BANK)).unwrap().is_same(&banks));
        assert!(now.get(&domain(SHOP)).unwrap().is_same(&shop.bundle(SHOP)));
    }
    // A key that another has given up may be had.
    let given_up = Forge::new(BANK).bundle(BANK);
    let read = vec![own(), (SHOP, Some(stolen.clone())), (BANK, Some(given_up))];
    let (now, errors) = reload.read(read);
    assert_eq!((now.iter().count(), errors), (3, vec![]));
    assert!(now.get(&domain(SHOP)).unwrap().is_same(&stolen));
    // With no past to go by, the earlier one is believed.
    let first = Reload { last: TrustBundles::default() };
    let (now, errors) =
        first.read(vec![own(), (BANK, Some(bank.bundle(BANK))), (SHOP, Some(stolen))]);
    assert_eq!((now.iter().count(), errors.len()), (2, 1));
    assert!(now.get(&domain(BANK)).is_some());
}

#[test]
fn clusters_have_trust_domains_and_keys_of_their_own() {
    let (bank, edge) = (Forge::new(BANK), Forge::new("edge.example"));
    let both = TrustBundles::new([bank.bundle(BANK), edge.bundle("edge.example")]).unwrap();
    assert_eq!(both.iter().count(), 2);
    assert!(both.get(&domain(BANK)).is_some() && both.get(&domain("other.example")).is_none());

    let again = TrustBundles::new([bank.bundle(BANK), Forge::new(BANK).bundle(BANK)]);
    assert_eq!(again.unwrap_err(), TrustError::Twice(domain(BANK)));

    // One file given for two clusters, made possible by an authority that names no trust domain.
    let mut nameless = ca_params(BANK);
    nameless.subject_alt_names.clear();
    let nameless = Forge::with(nameless);
    let shared = TrustBundles::new([nameless.bundle(BANK), nameless.bundle("edge.example")]);
    let error = TrustError::Shared(domain(BANK), domain("edge.example"));
    assert_eq!(shared.unwrap_err(), error);
}
