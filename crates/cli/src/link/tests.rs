use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct LinkCli {
    #[command(flatten)]
    args: LinkArgs,
}

#[derive(Debug, clap::Parser)]
struct UnlinkCli {
    #[command(flatten)]
    args: UnlinkArgs,
}

#[test]
fn two_contexts_or_a_bundle() {
    let link = |text: &str| LinkCli::try_parse_from(format!("link {text}").split_whitespace());
    let both = link("a b --import team-*,x --wait 2m").unwrap().args;
    assert_eq!((both.a.as_deref(), both.b.as_deref()), (Some("a"), Some("b")));
    assert_eq!(both.wait, Duration::from_secs(120));
    assert_eq!(both.import.to_request().namespaces.unwrap().len(), 2);
    assert!(both.import.to_request().create_services.is_none(), "what is there is kept");
    assert_eq!(
        link("a b --no-import").unwrap().args.import.to_request().namespaces,
        Some(Vec::new())
    );
    let options = |text: &str| link(text).unwrap().args.import.to_request();
    assert_eq!(options("a b --no-create-services").create_services, Some(false));
    assert!(options("a b").also_allow.is_none(), "what is there is kept");
    assert_eq!(options("a b --also-allow catalog/*,x/y").also_allow.unwrap().len(), 2);
    assert_eq!(options("a b --no-also-allow").also_allow, Some(Vec::new()));
    for wrong in ["--also-allow browser", "--create-services --no-create-services"] {
        assert!(link(&format!("a b {wrong}")).is_err(), "{wrong}");
    }
    assert!(matches!(
        link("export --context a").unwrap().args.by_hand,
        Some(BundleCommand::Export { .. })
    ));
    assert!(matches!(link("import f").unwrap().args.by_hand, Some(BundleCommand::Import { .. })));
    for wrong in
        ["", "a", "a b c", "a b --import X", "a b --no-import --create-services", "a b --wait 1w"]
    {
        assert!(link(wrong).is_err(), "{wrong}");
    }
    let unlink =
        |text: &str| UnlinkCli::try_parse_from(format!("unlink {text}").split_whitespace());
    assert_eq!(unlink("a b").unwrap().args.contexts, ["a", "b"]);
    assert!(unlink("--context a --cluster b").unwrap().args.cluster.is_some());
    for wrong in ["", "a", "a b --cluster c"] {
        assert!(unlink(wrong).is_err(), "{wrong}");
    }
}
