//! Tokens, keys and certificates of invitations, and what is refused.

use std::time::Duration;

use super::*;
use crate::{ClusterAuthority, KeyKind};

const DAY: Duration = Duration::from_secs(86400);

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(DAY * 20_000)
}

fn authority(domain: &str) -> ClusterAuthority {
    ClusterAuthority::create(domain.parse().unwrap(), KeyKind::Ed25519, 90 * DAY, now()).unwrap()
}

fn token() -> InvitationToken {
    InvitationToken {
        secret: InvitationSecret(Zeroizing::new([7; 32])),
        fingerprint: BundleFingerprint::of(&authority("edge.adit").bundle().unwrap()),
        until: UnixTime::since_unix_epoch(Duration::from_secs(1_795_219_200)),
        cluster: "edge".parse().unwrap(),
        trust_domain: "edge.adit".parse().unwrap(),
        addresses: vec!["172.18.1.2:7843".parse().unwrap(), "[fd00::1]:7844".parse().unwrap()],
    }
}

#[test]
fn a_token_says_what_it_was_made_of() {
    let made = token();
    let text = made.to_text();
    assert!(text.starts_with("adit1-") && text.len() < 300, "{}", text.len());
    // As a mail or a terminal breaks it.
    let (a, b) = text.split_at(80);
    for text in [text.to_string(), format!(" {a}\n  {b}\r\n")] {
        let read = InvitationToken::parse(&text).unwrap();
        assert_eq!(*read.secret.0, *made.secret.0);
        assert_eq!(
            (read.fingerprint, read.until, read.cluster, read.trust_domain, read.addresses),
            (
                made.fingerprint,
                made.until,
                made.cluster.clone(),
                made.trust_domain.clone(),
                made.addresses.clone()
            )
        );
    }
}

#[test]
fn a_token_that_was_cut_or_changed_is_known_as_such() {
    use InvitationTokenError as E;
    let text = token().to_text();
    for cut in 6..text.len() {
        assert_eq!(InvitationToken::parse(&text[..cut]).unwrap_err(), E::Damaged, "{cut}");
    }
    for at in 6..text.len() {
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert_eq!(InvitationToken::parse(&changed).unwrap_err(), E::Damaged, "{at}");
    }
    let body = &text["adit1-".len()..];
    for (text, error) in [
        (String::new(), E::NotAToken),
        ("x".repeat(5000), E::NotAToken),
        (body.to_owned(), E::NotAToken),
        ("adit-export".to_owned(), E::NotAToken),
        (format!("adit2-{body}"), E::OtherVersion),
        (format!("adit1-{body}!"), E::Damaged),
        ("adit1-".to_owned(), E::Damaged),
    ] {
        assert_eq!(InvitationToken::parse(&text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn what_a_token_says_has_bounds() {
    let addresses = |addresses: Vec<&str>| {
        let addresses = addresses.into_iter().map(|a| a.parse().unwrap()).collect();
        InvitationToken::parse(&InvitationToken { addresses, ..token() }.to_text())
    };
    assert_eq!(addresses(vec!["10.0.0.1:1"; 20]).unwrap().addresses.len(), 8);
    for bad in [vec![], vec!["10.0.0.1:0"], vec!["0.0.0.0:7843"], vec!["[ff02::1]:7843"]] {
        assert!(matches!(addresses(bad), Err(InvitationTokenError::Invalid("list of addresses"))));
    }
}

#[test]
fn neither_a_secret_nor_a_token_is_shown() {
    let token = token();
    let text = token.to_text();
    let shown = format!("{token:?} {:?}", token.secret);
    assert!(!shown.contains("7, 7") && !shown.contains(&text[6..20]), "{shown}");
}

#[test]
fn a_key_is_admitted_until_its_time_and_no_other_is() {
    let key = |n| InvitationSecret(Zeroizing::new([n; 32])).key().unwrap();
    let invited = InvitedKeys::default();
    let until = UnixTime::since_unix_epoch(DAY * 20_000 + Duration::from_secs(600));
    invited.admit(key(1), until, now());
    assert!(invited.is_admitted(&key(1), now()));
    assert!(!invited.is_admitted(&key(2), now()) && !invited.is_admitted(&key(1), until));
    invited.admit(key(2), UnixTime::since_unix_epoch(DAY * 20_001), until);
    invited.forget(&key(2));
    assert!(!invited.is_admitted(&key(2), now()));
    assert!(!invited.is_admitted(&key(1), now()), "it was not forgotten when its time had passed");
    assert_eq!(key(1).to_string().parse(), Ok(key(1)));
    for bad in ["", "00", &"0g".repeat(32), &"é".repeat(32)] {
        assert_eq!(bad.parse::<InvitationKey>(), Err(InvitationKeyError));
    }
}

#[test]
fn a_certificate_of_an_invitation_says_its_key_and_is_nobodys_identity() {
    let secret = InvitationSecret::generate().unwrap();
    let certified = secret.certified().unwrap();
    certified.keys_match().unwrap();
    assert_eq!(InvitationKey::of_chain(&certified.cert), Some(secret.key().unwrap()));
    assert!(crate::peer_id(&certified.cert).is_err());
    let edge = authority("edge.adit");
    let node = edge.issue(&"e1".parse().unwrap(), KeyKind::P256, DAY, now()).unwrap().certificate;
    let chain = crate::pem::certificates(node.to_pem().as_bytes()).unwrap();
    assert_eq!(InvitationKey::of_chain(&chain), None);
    assert_eq!(InvitationKey::of_chain(&[]), None);
}

#[test]
fn an_inviter_needs_the_tokens_bundle_and_a_nodes_certificate_of_it() {
    let (edge, evil) = (authority("edge.adit"), authority("edge.adit"));
    let issue = |by: &ClusterAuthority| {
        let issued = by.issue(&"e1".parse().unwrap(), KeyKind::Ed25519, DAY, now()).unwrap();
        crate::pem::certificates(issued.certificate.to_pem().as_bytes()).unwrap()
    };
    let bundle = |of: &ClusterAuthority| of.bundle().unwrap();
    let expected = BundleFingerprint::of(&bundle(&edge));
    let id = check_inviter(&issue(&edge), &bundle(&edge), expected, now()).unwrap();
    assert_eq!(id.as_str(), "spiffe://edge.adit/adit/node/e1");
    let check = |chain: &[CertificateDer<'_>], bundle: &TrustBundle| {
        check_inviter(chain, bundle, expected, now()).unwrap_err()
    };
    let error = check(&issue(&evil), &bundle(&evil));
    assert!(matches!(error, InviterError::OtherBundle { .. }), "{error}");
    // Who hands over the right bundle, which is public, and is not of that cluster.
    let error = check(&issue(&evil), &bundle(&edge));
    assert!(matches!(error, InviterError::NotItsNode(_)), "{error}");
    let invitation = InvitationSecret::generate().unwrap().certified().unwrap();
    let error = check(&invitation.cert, &bundle(&edge));
    assert!(matches!(error, InviterError::NotItsNode(_)), "{error}");
    let error = check(&[], &bundle(&edge));
    assert_eq!(error, InviterError::NotItsNode(VerifyError::NoCertificate));
}
