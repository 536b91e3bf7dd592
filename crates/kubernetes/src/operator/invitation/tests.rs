//! Clusters that may be linked by invitation, and such that may not.

use std::time::Duration;

use adit_config::cluster::render;
use adit_core::snapshot::Seed;
use adit_pki::{ClusterAuthority, InvitationSecret, InvitationToken, KeyKind, UnixTime};

use super::*;
use crate::operator::context::ConfigDocument;
use crate::operator::edit::ConfigChanges;
use crate::operator::link::ClusterIdentity;

const DAY: Duration = Duration::from_secs(86400);

fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(DAY * 20_000 + Duration::from_secs(secs))
}

/// A cluster with a CA of its own, as it describes itself.
fn cluster(name: &str, trust_domain: &str) -> ClusterLink {
    let domain = trust_domain.parse().unwrap();
    let authority = ClusterAuthority::create(domain, KeyKind::Ed25519, 90 * DAY, at(0)).unwrap();
    ClusterLink {
        cluster: name.parse().unwrap(),
        trust_domain: trust_domain.parse().unwrap(),
        trust_bundle: authority.bundle().unwrap().to_pem(),
        addresses: vec![Seed::Address("10.0.0.1:7843".parse().unwrap())],
        import: Vec::new(),
        create_services: false,
        also_allow: Vec::new(),
    }
}

fn identity(of: &ClusterLink) -> ClusterIdentity {
    ClusterIdentity {
        name: of.cluster.clone(),
        trust_domain: of.trust_domain.clone(),
        changes: ConfigChanges::new(),
    }
}

fn linked_with(others: &[&ClusterLink]) -> ConfigDocument {
    let key = |link: &ClusterLink| format!("link-{}.yaml", link.cluster);
    let changes = others.iter().map(|link| (key(link), Some(render::link(link)))).collect();
    ConfigDocument::default().with_changes(&changes)
}

fn token_of(link: &ClusterLink) -> InvitationToken {
    InvitationToken {
        secret: InvitationSecret::generate().unwrap(),
        fingerprint: fingerprint(link).unwrap(),
        until: at(600),
        cluster: link.cluster.clone(),
        trust_domain: link.trust_domain.clone(),
        addresses: vec!["10.0.0.1:7843".parse().unwrap()],
    }
}

#[test]
fn a_cluster_that_is_unknown_or_linked_as_it_is_may_be_linked() {
    let (edge, bank) = (cluster("edge", "edge.adit"), cluster("bank", "bank.adit"));
    let nothing = linked_with(&[]);
    let read = check_other_cluster(&render::link(&bank), &identity(&edge), &nothing).unwrap();
    assert_eq!((&read.cluster, &read.trust_bundle), (&bank.cluster, &bank.trust_bundle));
    let again = linked_with(&[&bank, &cluster("other", "other.adit")]);
    check_other_cluster(&render::link(&bank), &identity(&edge), &again).unwrap();
    let own = Some(fingerprint(&edge).unwrap());
    for document in [nothing, again] {
        check_token(&token_of(&bank), &identity(&edge), &document, own, at(0)).unwrap();
    }
}

#[test]
fn nobody_takes_the_place_of_another_cluster_by_invitation() {
    use OtherClusterError as E;
    let (edge, bank) = (cluster("edge", "edge.adit"), cluster("bank", "bank.adit"));
    let refused = |other: &ClusterLink, document: &ConfigDocument| {
        let read = check_other_cluster(&render::link(other), &identity(&edge), document);
        let token = check_token(&token_of(other), &identity(&edge), document, None, at(0));
        let (read, token) = (read.unwrap_err(), token.unwrap_err());
        assert_eq!(read, token);
        read
    };
    let nothing = linked_with(&[]);
    let error = refused(&cluster("edge", "evil.adit"), &nothing);
    assert!(matches!(error, E::SameName(_)), "{error}");
    let error = refused(&cluster("evil", "edge.adit"), &nothing);
    assert!(matches!(error, E::SameTrustDomain(_)), "{error}");
    let linked = linked_with(&[&bank]);
    for evil in [cluster("bank", "bank.adit"), cluster("bank", "evil.adit")] {
        let error = refused(&evil, &linked);
        assert!(
            matches!(error, E::NameLinked(_)) && error.to_string().contains("unlink"),
            "{error}"
        );
    }
    let error = refused(&cluster("evil", "bank.adit"), &linked);
    assert!(matches!(error, E::TrustDomainLinked { .. }), "{error}");
}

#[test]
fn a_token_that_is_late_or_our_own_is_not_used() {
    let (edge, bank) = (cluster("edge", "edge.adit"), cluster("bank", "bank.adit"));
    let nothing = linked_with(&[]);
    let check = |now| check_token(&token_of(&bank), &identity(&edge), &nothing, None, now);
    check(at(599)).unwrap();
    let late = check(at(600 + 90)).unwrap_err().to_string();
    assert!(late.contains("ended at 2024-10-04T00:10:00Z, 1m 30s ago"), "{late}");
    let own = Some(fingerprint(&bank).unwrap());
    let error = check_token(&token_of(&bank), &identity(&bank), &nothing, own, at(0)).unwrap_err();
    assert!(matches!(error, OtherClusterError::OwnCluster(_)), "{error}");
}

#[test]
fn what_is_no_bundle_is_refused_in_a_line_without_control_characters() {
    let edge = cluster("edge", "edge.adit");
    let bad_certificates = ClusterLink {
        trust_bundle: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ..cluster("bank", "bank.adit")
    };
    let address = |n| Seed::Address(format!("10.0.0.{n}:7843").parse().unwrap());
    let addresses = (0..65).map(address).collect();
    let many_addresses = ClusterLink { addresses, ..cluster("bank", "bank.adit") };
    let two = render::link(&cluster("bank", "bank.adit")) + &render::link(&edge);
    for text in [
        String::new(),
        "\u{1b}[31mred".to_owned(),
        "links: []\n".to_owned(),
        "[".repeat(100_000),
        "a: &a [1]\nb: [*a, *a]\n".to_owned(),
        render::link(&bad_certificates),
        render::link(&many_addresses),
        two,
    ] {
        let error = check_other_cluster(&text, &identity(&edge), &linked_with(&[])).unwrap_err();
        let OtherClusterError::BadDocument(said) = &error else { panic!("{error}") };
        assert!(said.len() <= 400 && said.bytes().all(|b| (b' '..=b'~').contains(&b)), "{said:?}");
    }
}
