//! The deny list: each kind of entry refuses, in both directions, and nobody else; and what a path may cost.

use adit_core::deny_list::{CertSerial, DeniedPeer, DenyEntry, KeyHash};
use adit_core::name::ClusterName;
use adit_core::spiffe::TrustDomain;
use adit_pki::inspect::inspect;
use adit_pki::{CertUsage, DenyList, PeerVerifier, Trust, TrustBundle, VerifyError};
use rcgen::{BasicConstraints, DistinguishedName, DnType, IsCa, SerialNumber};

use crate::cluster::PkiCluster;
use crate::forge::{Forge, ForgedCert, NOW, at, bundles, ca_params, domain, leaf_params};
use crate::wire::{impostor_client, impostor_server, shake};

const BANK: &str = "bank.example";
const B1: &str = "spiffe://bank.example/adit/node/b1";

/// A root, an authority below it, and a node of each; every certificate with a serial number of its own.
struct NestedDenyScene {
    root: Forge,
    between: Forge,
    nested: ForgedCert,
    direct: ForgedCert,
}

impl NestedDenyScene {
    fn new() -> Self {
        let numbered = |mut params: rcgen::CertificateParams, n: u8| {
            params.serial_number = Some(SerialNumber::from_slice(&[n; 16]));
            params
        };
        let ca = |name: &str, n| {
            let mut params = numbered(ca_params(BANK), n);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root = Forge::with(ca("root", 0x11));
        let between = root.intermediate(ca("between", 0x22));
        let mut nested = between.issue(&numbered(leaf_params(B1), 0x33));
        nested.chain.push(between.certificate.clone());
        let b2 = leaf_params("spiffe://bank.example/adit/node/b2");
        let direct = root.issue(&numbered(b2, 0x44));
        Self { root, between, nested, direct }
    }

    fn denying(&self, peer: DeniedPeer) -> PeerVerifier {
        let trust = Trust { denied: list([peer]), ..bundles([self.root.bundle(BANK)]).into() };
        PeerVerifier::new(trust)
    }

    /// True for each of the two nodes that this entry denies.
    fn refused(&self, peer: &DeniedPeer) -> [bool; 2] {
        let verifier = self.denying(peer.clone());
        [&self.nested, &self.direct].map(|forged| {
            let (leaf, rest) = forged.chain.split_first().unwrap();
            let [one, other] = [CertUsage::ClientAuth, CertUsage::ServerAuth]
                .map(|usage| verifier.verify(leaf, rest, usage, at(NOW)).map(drop));
            assert_eq!(one, other);
            match one {
                Ok(()) => false,
                Err(VerifyError::Denied(entry)) => {
                    assert_eq!(entry.peer, *peer);
                    true
                }
                Err(other) => panic!("refused for another reason: {other}"),
            }
        })
    }
}

fn list(peers: impl IntoIterator<Item = DeniedPeer>) -> DenyList {
    let entry = |peer| DenyEntry { peer, reason: Some("a secret of the operator".into()) };
    let all: Vec<_> = peers.into_iter().map(entry).collect();
    DenyList::new(&all, |c: &ClusterName| {
        let known: &[(&str, &str)] = &[("bank", BANK), ("edge", "edge.example")];
        let found = known.iter().find(|(name, _)| *name == c.as_str());
        found.map(|(_, domain)| domain.parse::<TrustDomain>().unwrap())
    })
}

fn serial(n: u8, cluster: Option<&str>) -> DeniedPeer {
    let cluster = cluster.map(|c| c.parse().unwrap());
    DeniedPeer::Serial(CertSerial::from_bytes(&[n; 16]), cluster)
}

/// The key of a certificate, as `adit pki show` prints it.
fn key_of(certificate: &[u8]) -> DeniedPeer {
    let shown = inspect(certificate, at(NOW)).unwrap();
    DeniedPeer::Key(shown[0].key_sha256.parse::<KeyHash>().unwrap())
}

#[test]
fn each_kind_of_entry_refuses_whom_it_names_and_nobody_else() {
    let scene = NestedDenyScene::new();
    let bank: ClusterName = "bank".parse().unwrap();
    let node = |n: &str| DeniedPeer::Node(bank.clone(), n.parse().unwrap());
    let (both, neither) = ([true, true], [false, false]);
    for (peer, refused) in [
        (DeniedPeer::Cluster(bank.clone()), both),
        (DeniedPeer::Cluster("edge".parse().unwrap()), neither),
        (node("b1"), [true, false]),
        (node("b2"), [false, true]),
        (DeniedPeer::Node("edge".parse().unwrap(), "b1".parse().unwrap()), neither),
        // The leaf, what signed it, and the root above both.
        (serial(0x33, None), [true, false]),
        (serial(0x22, None), [true, false]),
        (serial(0x11, None), both),
        (serial(0x11, Some("bank")), both),
        (serial(0x11, Some("edge")), neither),
        (serial(0x11, Some("nobody")), neither),
        (serial(0x55, None), neither),
        (key_of(&scene.nested.chain[0]), [true, false]),
        (key_of(&scene.between.certificate), [true, false]),
        (key_of(&scene.root.certificate), both),
        (DeniedPeer::Key(KeyHash([0; 32])), neither),
    ] {
        assert_eq!(scene.refused(&peer), refused, "{peer}");
    }
}

/// A cluster that changes its authority has both for a while; the one that leaked is denied at once.
#[test]
fn a_denied_authority_leaves_the_others_of_its_bundle() {
    let scene = NestedDenyScene::new();
    let next = Forge::with(ca_params(BANK));
    let authorities = [scene.root.certificate.clone(), next.certificate.clone()];
    let bundle = TrustBundle::new(domain(BANK), authorities).unwrap();
    let denied = list([key_of(&scene.root.certificate)]);
    let verifier = PeerVerifier::new(Trust { denied, ..bundles([bundle]).into() });
    let verify = |forged: &ForgedCert| {
        verifier
            .verify(&forged.chain[0], &forged.chain[1..], CertUsage::ClientAuth, at(NOW))
            .map(drop)
    };
    assert!(matches!(verify(&scene.direct), Err(VerifyError::Denied(_))));
    assert_eq!(verify(&next.leaf(B1)), Ok(()));
}

/// A peer without a certificate of the cluster does not learn whom it denies.
#[test]
fn a_stranger_learns_nothing_of_the_list() {
    let scene = NestedDenyScene::new();
    let verifier = scene.denying(DeniedPeer::Cluster("bank".parse().unwrap()));
    let forged = Forge::with(ca_params(BANK)).leaf(B1);
    let refused = verifier.verify(&forged.chain[0], &[], CertUsage::ClientAuth, at(NOW));
    assert_eq!(refused, Err(VerifyError::UnknownAuthority(domain(BANK))));
}

#[test]
fn a_handshake_is_refused_both_ways_and_the_reason_stays_here() {
    let scene = NestedDenyScene::new();
    let edge = PkiCluster::new("edge.example", "e1");
    let verifier = std::sync::Arc::new(scene.denying(serial(0x33, None)));
    let dials = shake(&impostor_client(&scene.nested), &edge.server(&verifier)).map(drop);
    let dialled = shake(&edge.client(&verifier), &impostor_server(&scene.nested)).map(drop);
    for end in [dials, dialled] {
        let (_, error) = end.unwrap_err();
        assert_eq!(VerifyError::from_rustls(&error).unwrap().label(), VerifyError::DENIED);
        let text = error.to_string();
        assert!(text.contains("denied.serials: 3333"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(shake(&impostor_client(&scene.direct), &edge.server(&verifier)).is_ok());
}

/// As much work as there can be: as many authorities as a bundle has, all of one name, and as many
/// intermediates of that name as are followed. The search ends at its budget.
#[test]
fn the_dearest_path_is_given_up() {
    let mut params = ca_params(BANK);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let all: Vec<Forge> = (0..16).map(|_| Forge::with(params.clone())).collect();
    let bundle = TrustBundle::new(domain(BANK), all.iter().map(|f| f.certificate.clone())).unwrap();
    let verifier = PeerVerifier::new(bundles([bundle]).into());
    // Each signature on the way is good, and none leads to an authority.
    let mut issuer = Forge::with(params.clone());
    let mut chain = Vec::new();
    for _ in 0..3 {
        issuer = issuer.intermediate(params.clone());
        chain.insert(0, issuer.certificate.clone());
    }
    let mut forged = issuer.leaf(B1);
    forged.chain.extend(chain);
    let refused =
        verifier.verify(&forged.chain[0], &forged.chain[1..], CertUsage::ClientAuth, at(NOW));
    assert_eq!(refused.unwrap_err(), VerifyError::PathTooComplex);
}
