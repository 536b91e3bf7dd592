//! Files that are right, wrong, swapped and renewed.

use super::*;
use crate::testing::{TestCa, now};

/// Node e1 of `edge`, linked with `bank` and `shop`, all files right.
struct CredentialsScene {
    folder: tempfile::TempDir,
    edge: TestCa,
    config: Config,
}

impl CredentialsScene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.yaml");
        let link = |c: &str| {
            format!("  - {{cluster: {c}, trustDomain: {c}.example, trustBundle: {c}.pem}}\n")
        };
        let text = format!(
            "cluster: edge\ntrustDomain: edge.example\nnode: {{name: e1, listen: \"127.0.0.1:7843\", identity: id}}\nlinks:\n{}{}",
            link("bank"),
            link("shop")
        );
        let (config, _) = adit_config::parse(text.as_bytes(), &file).unwrap();
        let edge = TestCa::new("edge");
        edge.issue("e1", &folder.path().join("id"));
        for cluster in ["bank", "shop"] {
            TestCa::new(cluster).bundle(&folder.path().join(format!("{cluster}.pem")));
        }
        Self { folder, edge, config }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<Credentials, Vec<String>> {
        match Credentials::load(&self.config, now()) {
            Ok((credentials, errors)) if errors.is_empty() => Ok(credentials),
            Ok((_, faults)) | Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let scene = CredentialsScene::new();
    assert!(scene.load().is_ok());
    std::fs::write(scene.path("bank.pem"), "nonsense").unwrap();
    std::fs::remove_file(scene.path("shop.pem")).unwrap();
    std::fs::remove_file(scene.path("id/node.key.pem")).unwrap();
    let errors = scene.load().unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    let words = [
        ["node.identity: ", "id/node.key.pem", "adit pki issue"],
        ["links[0].trustBundle: ", "bank.pem: there is no PEM", "(link bank)"],
        ["links[1].trustBundle: ", "shop.pem: No such file", "adit pki bundle"],
    ];
    for (error, words) in errors.iter().zip(words) {
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn each_file_of_an_identity_is_told_by_itself() {
    let scene = CredentialsScene::new();
    TestCa::new("bank").issue("e1", &scene.path("other"));
    std::fs::copy(scene.path("other/node.pem"), scene.path("id/node.pem")).unwrap();
    std::fs::write(scene.path("id/node.key.pem"), "nonsense").unwrap();
    let errors = scene.load().unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].contains("id/node.pem: ") && errors[0].contains("bank.example"));
    assert!(errors[1].contains("id/node.key.pem: ") && errors[1].contains("private key"));
    std::fs::write(scene.path("id/node.pem"), "nonsense").unwrap();
    std::fs::write(scene.path("id/ca.pem"), "nonsense").unwrap();
    let errors = scene.load().unwrap_err();
    for (error, file) in errors.iter().zip(["id/ca.pem: ", "id/node.pem: ", "id/node.key.pem: "]) {
        assert!(error.starts_with("node.identity: ") && error.contains(file), "{error}");
    }
    assert_eq!(errors.len(), 3, "{errors:#?}");
}

#[test]
fn another_nodes_certificate_is_not_ours() {
    let scene = CredentialsScene::new();
    scene.edge.issue("e2", &scene.path("id"));
    let errors = scene.load().unwrap_err();
    assert!(errors[0].contains("adit/node/e2") && errors[0].contains("adit/node/e1"), "{errors:?}");
}

#[test]
fn one_bundle_for_two_clusters_is_refused() {
    let scene = CredentialsScene::new();
    // The mistake to expect: the wrong file copied.
    scene.edge.bundle(&scene.path("bank.pem"));
    let errors = scene.load().unwrap_err();
    assert!(errors[0].contains("links[0].trustBundle: ") && errors[0].contains("bank.pem"));
}

#[test]
fn what_is_good_is_taken_and_what_is_bad_keeps_its_last_good_state() {
    let scene = CredentialsScene::new();
    let held = scene.load().unwrap();
    let unchanged = CredentialsReload { changed: false, errors: vec![] };
    assert_eq!(held.reload(&scene.config, now()), unchanged);

    // A renewed certificate is taken although another file is broken …
    let before = (held.identity.get(), held.verifier.trust());
    scene.edge.issue("e1", &scene.path("id"));
    std::fs::write(scene.path("bank.pem"), "half a fi").unwrap();
    let reread = held.reload(&scene.config, now());
    assert!(reread.changed && reread.errors.len() == 1, "{reread:?}");
    assert_ne!(held.identity.get().chain(), before.0.chain());
    // … and whose bundle that was is believed as before.
    assert!(held.verifier.trust().bundles.is_same(&before.1.bundles));

    // A broken certificate keeps no new bundle out.
    std::fs::write(scene.path("id/node.pem"), "").unwrap();
    TestCa::new("bank").bundle(&scene.path("bank.pem"));
    let identity = held.identity.get();
    let reread = held.reload(&scene.config, now());
    assert!(reread.changed && reread.errors.len() == 1, "{reread:?}");
    assert_eq!(held.identity.get().chain(), identity.chain());
    assert!(!held.verifier.trust().bundles.is_same(&before.1.bundles));
}

#[test]
fn who_is_no_longer_linked_is_no_longer_believed() {
    let mut scene = CredentialsScene::new();
    let held = scene.load().unwrap();
    scene.config.links.truncate(1);
    assert_eq!(
        held.reload(&scene.config, now()),
        CredentialsReload { changed: true, errors: vec![] }
    );
    assert!(held.verifier.trust().bundles.get(&"shop.example".parse().unwrap()).is_none());
}

#[test]
fn a_bad_bundle_leaves_out_its_own_link_alone_and_what_was_kept_serves_for_a_start() {
    let mut scene = CredentialsScene::new();
    let domains = |held: &Credentials| -> Vec<_> {
        held.verifier.trust().bundles.iter().map(|b| b.domain().to_string()).collect()
    };
    std::fs::write(scene.path("bank.pem"), "nonsense").unwrap();
    let (held, errors) = Credentials::load(&scene.config, now()).unwrap();
    assert!(errors.len() == 1 && errors[0].to_string().contains("link bank"), "{errors:?}");
    assert_eq!(domains(&held), ["edge.example", "shop.example"]);

    let kept = scene.path("bank.example.last.pem");
    TestCa::new("bank").bundle(&kept);
    scene.config.links[0].last_bundle = Some(kept);
    let (held, errors) = Credentials::load(&scene.config, now()).unwrap();
    assert_eq!((errors.len(), domains(&held).len()), (1, 3));

    // Neither does one that has a key of another's, and others' authorities are withdrawn meanwhile.
    std::fs::copy(scene.path("id/ca.pem"), scene.path("bank.pem")).unwrap();
    let shop = held.verifier.trust().bundles.get(&"shop.example".parse().unwrap()).cloned();
    TestCa::new("shop").bundle(&scene.path("shop.pem"));
    let reread = held.reload(&scene.config, now());
    assert!(reread.changed && reread.errors.len() == 1, "{reread:?}");
    let now_shop = held.verifier.trust().bundles.get(&"shop.example".parse().unwrap()).cloned();
    assert!(!now_shop.unwrap().is_same(&shop.unwrap()));
}

#[test]
fn an_entry_of_the_deny_list_is_a_change_of_trust() {
    let mut scene = CredentialsScene::new();
    let held = scene.load().unwrap();
    let peer = adit_core::deny_list::DeniedPeer::Cluster("bank".parse().unwrap());
    scene.config.denied.push(adit_core::deny_list::DenyEntry { peer, reason: None });
    assert_eq!(
        held.reload(&scene.config, now()),
        CredentialsReload { changed: true, errors: vec![] }
    );
    let id = "spiffe://bank.example/adit/node/b1".parse().unwrap();
    assert!(held.verifier.trust().denied.find(&id, []).is_some());
    assert_eq!(
        held.reload(&scene.config, now()),
        CredentialsReload { changed: false, errors: vec![] }
    );
    scene.config.denied.clear();
    assert_eq!(
        held.reload(&scene.config, now()),
        CredentialsReload { changed: true, errors: vec![] }
    );
    assert!(held.verifier.trust().denied.is_empty());
}
