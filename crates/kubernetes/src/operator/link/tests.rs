//! Changes computed from a document.

use adit_config::cluster::parse_fragment;
use adit_core::snapshot::{ClusterView, Seed};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::api::NODE;
use crate::operator::bundle::{self, parse_bundle};

fn document(fragments: &[(&str, &str)]) -> ConfigDocument {
    let changes =
        fragments.iter().map(|(key, text)| ((*key).to_owned(), Some((*text).to_owned()))).collect();
    ConfigDocument::default().with_changes(&changes)
}

fn bank() -> ClusterLink {
    let text = "links: [{cluster: bank, trustDomain: b.example, trustBundle: \"pem\\n\", addresses: [\"10.0.0.1:1\"]}]";
    parse_fragment("f.yaml", text).unwrap().links.remove(0)
}

#[test]
fn names_come_from_contexts() {
    for (context, name) in [
        ("kind-edge", Some("edge")),
        ("bank", Some("bank")),
        ("arn:aws:eks:eu-1:123:cluster/Prod_A", Some("prod-a")),
        ("admin@cluster.example", Some("cluster-example")),
        ("gke_project_zone_name", Some("gke-project-zone-name")),
        ("--", None),
        ("", None),
        ("日本", None),
    ] {
        assert_eq!(name_of_context(context).as_ref().map(ClusterName::as_str), name, "{context}");
    }
    assert_eq!(name_of_context(&"a-".repeat(60)).unwrap().as_str().len(), 63);
}

#[test]
fn a_name_once_given_stays() {
    let edge = "edge".parse().unwrap();
    let fresh = identify("kind-x", &document(&[]), None).unwrap();
    assert_eq!((fresh.name.as_str(), fresh.trust_domain.as_str()), ("x", "x.adit.internal"));
    assert_eq!(
        fresh.changes[CLUSTER_KEY].as_deref(),
        Some("cluster: x\ntrustDomain: x.adit.internal\n")
    );
    let old = document(&[("a.yaml", "cluster: old\n")]);
    assert!(identify("x", &old, None).unwrap().changes.is_empty());
    assert!(matches!(identify("x", &old, Some(&edge)), Err(LinkError::NameConflict { .. })));
    assert!(matches!(identify("--", &document(&[]), None), Err(LinkError::NoUsableName(_))));
    let wrong = document(&[("a.yaml", "cluster: Old\n")]);
    assert!(matches!(
        identify("x", &wrong, None),
        Err(LinkError::Edit(EditError::Configuration { .. }))
    ));
    assert!(matches!(check_distinct(&fresh, &fresh.clone()), Err(LinkError::SameName(_))));
}

#[test]
fn a_link_keeps_what_it_says_of_imports() {
    let none = LinkImportOptions::default();
    let first = link_changes("c", &document(&[]), &bank(), &none).unwrap();
    let text = first["link-bank.yaml"].clone().unwrap();
    assert!(!text.contains("import"), "nobody has opened a namespace to it: {text}");

    let there = document(&[("link-bank.yaml", &text)]);
    assert_eq!(
        link_changes("c", &there, &bank(), &none).unwrap(),
        first,
        "the second time is the same"
    );
    let namespaces = Some(vec!["team-*".parse().unwrap()]);
    let also_allow = None;
    let options = LinkImportOptions { namespaces, create_services: Some(true), also_allow };
    let second =
        link_changes("c", &there, &bank(), &options).unwrap()["link-bank.yaml"].clone().unwrap();
    assert!(second.contains("[\"team-*\"]\n      createServices: true"), "{second}");
    let third =
        link_changes("c", &document(&[("link-bank.yaml", &second)]), &bank(), &none).unwrap();
    assert_eq!(third["link-bank.yaml"].as_ref(), Some(&second));

    // As `adit link` wrote it until it asked.
    let old = second.replace("team-*", "*").replace("true", "false");
    let there = document(&[("link-bank.yaml", &old)]);
    assert_eq!(
        link_changes("c", &there, &bank(), &none).unwrap()["link-bank.yaml"].as_ref(),
        Some(&old)
    );
    let closed = LinkImportOptions { namespaces: Some(Vec::new()), ..options.clone() };
    let options = LinkImportOptions { create_services: Some(false), ..closed };
    assert_eq!(
        link_changes("c", &there, &bank(), &options).unwrap(),
        first,
        "--no-import closes them"
    );

    let elsewhere = document(&[("gitops.yaml", &text)]);
    let edge = "edge".parse().unwrap();
    assert!(is_linked(&elsewhere, &bank().cluster) && !is_linked(&elsewhere, &edge));
    assert!(link_changes("c", &elsewhere, &bank(), &none).unwrap().is_empty());
    let other = ClusterLink { trust_bundle: "other".into(), ..bank() };
    assert!(matches!(
        link_changes("c", &elsewhere, &other, &none),
        Err(EditError::DeclaredElsewhere { .. })
    ));
    assert!(matches!(
        unlink_changes("c", &elsewhere, &bank().cluster),
        Err(EditError::DeclaredElsewhere { .. })
    ));
    let gone =
        unlink_changes("c", &document(&[("link-bank.yaml", &text)]), &bank().cluster).unwrap();
    assert_eq!(gone, ConfigChanges::from([("link-bank.yaml".to_owned(), None)]));
}

#[test]
fn a_bundle_that_was_carried_here_opens_nothing() {
    let said = "{namespaces: [\"*\"], createServices: true, alsoAllow: [{namespace: \"*\", serviceAccount: \"*\"}]}";
    let text = format!(
        "links: [{{cluster: bank, trustDomain: b.example, trustBundle: \"pem\", import: {said}}}]"
    );
    let theirs = parse_fragment("f.yaml", &text).unwrap().links.remove(0);
    let none = LinkImportOptions::default();
    let ours = link_changes("c", &document(&[]), &theirs, &none).unwrap()["link-bank.yaml"]
        .clone()
        .unwrap();
    assert!(!ours.contains("import"), "{ours}");
    let catalog = WorkloadPattern::parse_in("catalog/browser", &"a".parse().unwrap()).unwrap();
    let options = LinkImportOptions { also_allow: Some(vec![catalog]), ..none.clone() };
    let ours =
        link_changes("c", &document(&[("link-bank.yaml", &ours)]), &theirs, &options).unwrap();
    let kept = document(&[("link-bank.yaml", ours["link-bank.yaml"].as_ref().unwrap())]);
    assert_eq!(link_changes("c", &kept, &theirs, &none).unwrap(), ours, "until another is said");
    let options = LinkImportOptions { also_allow: Some(Vec::new()), ..none };
    let ours =
        link_changes("c", &kept, &theirs, &options).unwrap()["link-bank.yaml"].clone().unwrap();
    assert!(!ours.contains("alsoAllow"), "{ours}");
}

#[test]
fn seeds_are_the_nodes_of_our_own_pods_each_in_turn() {
    let pod = |node: &str, owner: &str, ips: &[&str]| -> Pod {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({
            "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": owner, "uid": "u"}]},
            "spec": {"nodeName": node, "containers": []},
            "status": {"hostIP": ips.first().map(|ip| ip["ip"].clone()), "hostIPs": ips},
        }))
        .unwrap()
    };
    let pods = [
        pod("b", NODE, &["10.0.0.2"]),
        pod("a", NODE, &["10.0.0.1", "fd00::1"]),
        pod("c", "other", &["10.0.0.3"]),
        pod("d", NODE, &[]),
    ];
    let seeds: Vec<_> = bundle::seeds(&pods, 7).iter().map(Seed::to_string).collect();
    assert_eq!(seeds, ["10.0.0.1:7", "10.0.0.2:7", "[fd00::1]:7"]);
    let many: Vec<_> =
        (0..20).map(|n| pod(&format!("n{n}"), NODE, &[&format!("10.0.1.{n}")])).collect();
    assert_eq!(bundle::seeds(&many, 7).len(), ClusterView::MAX_ADDRESSES);
}

#[test]
fn a_file_that_is_no_bundle_is_refused() {
    for text in
        ["", "links: []", "links: [{cluster: a, trustDomain: a, trustBundle: x}]", "a: b: c"]
    {
        assert!(matches!(parse_bundle(text), Err(LinkError::InvalidBundle(_))), "{text}");
    }
}
