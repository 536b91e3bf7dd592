//! Paths that are wrong: not valid now, signed by others, too long, or through what is no authority.

use adit_pki::{PeerVerifier, VerifyError};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;

use crate::bad_certificates::{B1, BANK, present, refused, spoiled};
use crate::forge::{Forge, ForgedCert, HOUR, NOW, at, bundles, ca_params, domain, leaf_params};

#[test]
fn now_is_within_its_validity() {
    let ca = Forge::new(BANK);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let second = |s| epoch + std::time::Duration::from_secs(s);
    let leaf = spoiled(|l| l.not_after = second(NOW - 1));
    let reason = VerifyError::Expired { not_after: at(NOW - 1), now: at(NOW) };
    refused(&ca, &ca.issue(&leaf), &reason);
    let leaf = spoiled(|l| l.not_before = second(NOW + 1));
    let reason = VerifyError::NotYetValid { not_before: at(NOW + 1), now: at(NOW) };
    refused(&ca, &ca.issue(&leaf), &reason);
    let trusted = PeerVerifier::new(bundles([ca.bundle(BANK)]).into());
    let edge = spoiled(|l| (l.not_before, l.not_after) = (second(NOW), second(NOW)));
    assert!(present(&trusted, &ca.issue(&edge)).as_client.is_ok(), "both ends belong to it");
}

#[test]
fn the_authority_is_within_its_validity() {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let second = |s| epoch + std::time::Duration::from_secs(s);
    for (from, to) in [(NOW - HOUR, NOW - 1), (NOW + 1, NOW + HOUR)] {
        let mut params = ca_params(BANK);
        (params.not_before, params.not_after) = (second(from), second(to));
        let ca = Forge::with(params);
        let reason = VerifyError::AuthorityNotCurrent {
            domain: domain(BANK),
            not_before: at(from),
            not_after: at(to),
        };
        refused(&ca, &ca.leaf(B1), &reason);
    }
}

#[test]
fn another_key_under_the_right_name() {
    let (ca, impostor) = (Forge::new(BANK), Forge::new(BANK));
    refused(&ca, &impostor.leaf(B1), &VerifyError::WrongSignature(domain(BANK)));
}

/// The heart of it: a cluster's authority cannot speak for another cluster, however well it is known.
#[test]
fn a_known_authority_signs_for_its_own_trust_domain_only() {
    let (bank, edge) = (Forge::new(BANK), Forge::new("edge.example"));
    let trusted =
        PeerVerifier::new(bundles([bank.bundle(BANK), edge.bundle("edge.example")]).into());
    let verdict = present(&trusted, &edge.leaf(B1));
    let reason = VerifyError::UnknownAuthority(domain(BANK));
    assert_eq!((verdict.as_client, verdict.as_server), (Err(reason.clone()), Err(reason)));
    // The same with the impostor's authority sent along as an intermediate.
    let mut chained = edge.leaf(B1);
    chained.chain.push(edge.certificate.clone());
    let reason = VerifyError::UnknownAuthority(domain(BANK));
    assert_eq!(present(&trusted, &chained).as_client, Err(reason));
}

#[test]
fn a_trust_domain_nobody_introduced() {
    let (bank, other) = (Forge::new(BANK), Forge::new("other.example"));
    let forged = other.leaf("spiffe://other.example/adit/node/o1");
    refused(&bank, &forged, &VerifyError::UnknownTrustDomain(domain("other.example")));
}

#[test]
fn a_certificate_that_signed_itself() {
    let ca = Forge::new(BANK);
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params(B1);
    params.distinguished_name.push(DnType::CommonName, "b1");
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    let forged = ForgedCert { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) };
    refused(&ca, &forged, &VerifyError::UnknownAuthority(domain(BANK)));
}

fn named_ca(name: &str, constraint: BasicConstraints) -> CertificateParams {
    let mut params = ca_params(BANK);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraint);
    params
}

/// A chain through `count` intermediates, the root allowing any number.
fn nested(count: usize) -> (Forge, ForgedCert) {
    let root = Forge::with(named_ca("root", BasicConstraints::Unconstrained));
    let mut between = Vec::new();
    for i in 0..count {
        let params = named_ca(&format!("between {i}"), BasicConstraints::Unconstrained);
        let issuer = between.last().unwrap_or(&root);
        let next = issuer.intermediate(params);
        between.push(next);
    }
    let mut forged = between.last().unwrap_or(&root).leaf(B1);
    forged.chain.extend(between.iter().rev().map(|forge| forge.certificate.clone()));
    (root, forged)
}

#[test]
fn paths_are_short() {
    let (root, forged) = nested(10);
    refused(&root, &forged, &VerifyError::PathTooLong);
    let (root, forged) = nested(4);
    refused(&root, &forged, &VerifyError::PathTooLong);
    let (root, forged) = nested(3);
    let trusted = PeerVerifier::new(bundles([root.bundle(BANK)]).into());
    assert!(present(&trusted, &forged).as_client.is_ok(), "nested authorities of others are fine");
}

/// webpki does not look at a trust anchor's path length; ours says 0.
#[test]
fn our_authorities_allow_no_intermediates() {
    let root = Forge::new(BANK);
    let between = root.intermediate(named_ca("between", BasicConstraints::Unconstrained));
    let mut forged = between.leaf(B1);
    forged.chain.push(between.certificate.clone());
    refused(&root, &forged, &VerifyError::PathTooLong);
}

#[test]
fn a_leaf_is_no_authority() {
    let root = Forge::with(named_ca("root", BasicConstraints::Unconstrained));
    let mut node = leaf_params("spiffe://bank.example/adit/node/b2");
    node.distinguished_name.push(DnType::CommonName, "b2");
    let b2 = root.intermediate(node);
    let mut forged = b2.leaf(B1);
    forged.chain.push(b2.certificate.clone());
    refused(&root, &forged, &VerifyError::LeafAsAuthority);
}
