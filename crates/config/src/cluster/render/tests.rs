//! Rules that are written read back as the same.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Fragment, parse, parse_fragment};

fn read(text: &str) -> Fragment {
    parse_fragment("k.yaml", text).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

fn some_link(bundle: &str, import: Vec<NamePattern>, create_services: bool) -> ClusterLink {
    ClusterLink {
        cluster: "null".parse().unwrap(),
        trust_domain: "0.example".parse().unwrap(),
        trust_bundle: bundle.to_owned(),
        addresses: Vec::new(),
        import,
        create_services,
        also_allow: Vec::new(),
    }
}

#[test]
fn a_link_is_written_as_people_would_write_it() {
    let mut link = some_link("-----BEGIN\nab+/=\n\n----\n", vec!["*".parse().unwrap()], false);
    link.cluster = "bank".parse().unwrap();
    link.trust_domain = "bank.adit.internal".parse().unwrap();
    let text = |text: &str| read(text).links;
    let seeds = "links: [{cluster: a, trustDomain: a, trustBundle: x, addresses: [\"[fd00::1]:1\", \"a.b:2\"]}]";
    link.addresses = text(seeds).remove(0).addresses;
    assert_eq!(
        super::link(&link),
        "links:\n  - cluster: bank\n    trustDomain: bank.adit.internal\n    addresses:\n      - \"[fd00::1]:1\"\n      - a.b:2\n\
         \x20   import:\n      namespaces: [\"*\"]\n      createServices: false\n    trustBundle: |\n\
         \x20     -----BEGIN\n      ab+/=\n      \n      ----\n"
            .replace("a.b:2", "\"a.b:2\"")
    );
    assert_eq!(text(&super::link(&link)), [link.clone()]);
    let imports =
        "imports: [{service: a/b, from: x, allow: [{namespace: catalog, serviceAccount: \"*\"}]}]";
    link.also_allow = read(imports).imports.remove(0).allow.unwrap();
    assert!(
        super::link(&link)
            .contains("      alsoAllow:\n        - {namespace: catalog, serviceAccount: \"*\"}\n")
    );
    assert_eq!(text(&super::link(&link)), [link]);
}

#[test]
fn exports_and_imports_come_back() {
    let text = "exports:\n\
        - {service: nu/true, appProtocol: {http: a.b/c, \"1\": x}, hop: sameNode, class: bulk, replay: true, probe: {interval: 1h}}\n\
        - {service: e/b, as: e/c, makeAlias: true, whenEmpty: {hold: 5s, streams: 7}}\n\
        - {service: e/b, as: \"e/d:http=1,x=2\"}\n\
        - {select: {namespaces: [\"*\", a], labels: {a.b/c: \"\", d: \"1\", e: null}}, appProtocol: \"1e3\", \
           allow: [{cluster: \"1\", namespace: \"*\", serviceAccount: a.b}, {cluster: x, namespace: no, serviceAccount: \"*\"}]}\n\
        imports:\n\
        - {service: a/b, from: x}\n\
        - {service: a/c, from: x, allow: [], kagentAgent: \"says: \\\"no\\\"\"}\n\
        - {service: a/d, from: x, createService: false, allow: [{namespace: \"*\", serviceAccount: \"0\"}]}\n"
        .replace("e: null", "e: \"null\"");
    let Fragment { exports, imports, .. } = read(&text);
    assert_eq!((exports.len(), imports.len()), (4, 3));
    assert_eq!(exports[0].probe, Some(Duration::from_secs(3600)));
    for rule in exports {
        assert_eq!(read(&export(&rule)).exports, [rule]);
    }
    for rule in imports {
        assert_eq!(read(&import(&rule)).imports, [rule]);
    }
}

#[test]
fn a_name_is_a_document_by_itself() {
    let text = cluster(&"on".parse().unwrap(), &"on.adit.internal".parse().unwrap());
    let (config, report) = parse(&[("cluster.yaml".to_owned(), text)].into()).unwrap();
    assert!(report.is_empty(), "{report}");
    assert_eq!((config.cluster.as_str(), config.trust_domain.as_str()), ("on", "on.adit.internal"));
}

proptest! {
    #[test]
    fn any_bundle_comes_back(
        bundle in prop_oneof![any::<String>(), "[ -~\n\t\r]{0,60}", "( ?[a-z#:]{0,3} ?\n){1,5}"],
        pattern in "[a-z0-9*-]{0,20}\\*",
        create in any::<bool>(),
    ) {
        prop_assume!(!bundle.trim().is_empty());
        let link = some_link(&bundle, vec![pattern.parse().unwrap()], create);
        prop_assert_eq!(read(&super::link(&link)).links, [link]);
    }
}
