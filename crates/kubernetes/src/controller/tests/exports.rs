//! Exports: Services are resolved, and tenants can ask for too much.

use super::*;

#[tokio::test(start_paused = true)]
async fn exports_are_resolved_and_kept() {
    let exports = "exports:\n  - service: agents/triage-bot\n    allow:\n      - cluster: bank\n        \
                   namespace: agents\n        serviceAccount: support-bot\n";
    let mut stage = ControllerStage::new(exports);
    stage.start("one");
    let valid = || stage.condition(EXPORTS, "agents.triage-bot", "Valid");
    eventually("no Service", || valid() == Some(("False".into(), "NoService".into()))).await;
    stage.server.put(
        SERVICES,
        json!({"metadata": {"name": "triage-bot", "namespace": "agents"},
            "spec": {"ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
    );
    eventually("valid", || valid() == Some(("True".into(), "Exported".into()))).await;
    let export = stage.server.get(EXPORTS, "", "agents.triage-bot").unwrap();
    assert_eq!(export["spec"]["ports"], json!([{"name": "http", "number": 8080}]));
    assert_eq!(export["spec"]["allow"][0]["serviceAccount"], "support-bot");
    let linked = || stage.condition(EXPORTS, "agents.triage-bot", "Linked");
    eventually("linked", || linked() == Some(("True".into(), "Linked".into()))).await;
    let no_link = json!({"metadata": {"name": "adit", "namespace": "adit-system"},
        "data": {"cluster.yaml": format!("cluster: edge\n{exports}")}});
    stage.server.put(CONFIGS, no_link);
    eventually("told", || linked() == Some(("False".into(), "NotLinked".into()))).await;
    eventually("an Event", || events(&stage.server, "NotLinked") == 1).await;
    stage.server.put(CONFIGS, config(""));
    eventually("gone", || stage.server.all(EXPORTS).is_empty()).await;
}

/// A tenant's Service that exports itself to bank.
fn tenants(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "tenant",
            "annotations": {"adit.dev/export": "bank", "adit.dev/allow": "bank/*/*"}},
        "spec": {"ports": [{"name": "http", "port": 8080}]}})
}

/// A tenant's Services that export themselves: one with too many ports, one with too many grants, and `count` others;
/// and two of another namespace.
fn put_exports(server: &FakeApiServer, count: usize) {
    server.put("/namespaces", json!({"metadata": {"name": "tenant"}}));
    let mut ports = tenants("ports");
    let many = (1..=101).map(|n| json!({"name": format!("p{n}"), "port": n}));
    ports["spec"]["ports"] = many.collect();
    server.put(SERVICES, ports);
    let mut grants = tenants("grants");
    let many: Vec<String> = (0..501).map(|n| format!("bank/a/b{n}")).collect();
    grants["metadata"]["annotations"]["adit.dev/allow"] = many.join(",").into();
    server.put(SERVICES, grants);
    for n in 0..count {
        server.put(SERVICES, tenants(&format!("z-{n:04}")));
    }
    for name in ["named", "annotated"] {
        let mut other = tenants(name);
        other["metadata"]["namespace"] = "agents".into();
        if name == "named" {
            other["metadata"]["annotations"] = json!({});
        }
        server.put(SERVICES, other);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_tenant_exports_beyond_all_bounds_is_left_out_and_others_come_and_go() {
    let rules = |named: &str| {
        format!("optIn:\n  - namespaces: [tenant, agents]\n    exportTo: [bank]\n{named}")
    };
    let named = "exports:\n  - service: agents/named\n    allow:\n      - cluster: bank\n        \
                 namespace: agents\n        serviceAccount: support-bot\n";
    let mut stage = ControllerStage::new(&rules(named));
    let first_above = export::NAMESPACE_EXPORTS - 2;
    put_exports(&stage.server, first_above + 30);
    stage.start("one");
    let valid = |name: &str| {
        let (status, reason) = stage.condition(EXPORTS, name, "Valid")?;
        let export = stage.server.get(EXPORTS, "", name)?;
        let told = export["spec"]["allow"].as_array().is_some_and(|allow| !allow.is_empty());
        Some((status == "True", reason, told))
    };
    for (name, is_told, reason) in [
        ("agents.named", true, "Exported"),
        ("agents.annotated", true, "Exported"),
        ("tenant.ports", false, "TooManyPorts"),
        ("tenant.grants", false, "TooManyGrants"),
    ] {
        eventually(name, || valid(name) == Some((is_told, reason.into(), is_told))).await;
    }
    let of_tenant = || {
        let all = stage.server.all(EXPORTS).into_iter();
        all.filter(|e| e["spec"]["service"]["namespace"] == "tenant").count()
    };
    eventually("all that may be", || of_tenant() == export::NAMESPACE_EXPORTS).await;
    let last = format!("tenant.z-{:04}", first_above);
    assert_eq!(stage.server.get(EXPORTS, "", &last), None);
    // On the Services, some of them, and on their namespace; and for the administrator.
    eventually("Events", || events(&stage.server, "TooManyExports") == 21).await;
    eventually("a line in the status", || {
        let lease = stage.server.get(LEASES, "adit-system", "adit-controller").unwrap();
        let trouble = lease["metadata"]["annotations"]["adit.dev/trouble"].to_string();
        trouble.contains("30 Services of namespace tenant are not exported")
    })
    .await;
    // Others' go as they came, and a place that is free is taken.
    stage.server.delete(SERVICES, "agents", "annotated");
    stage.server.put(CONFIGS, config(&rules("")));
    stage.server.delete(SERVICES, "tenant", "z-0000");
    eventually("withdrawn", || {
        ["agents.named", "agents.annotated", "tenant.z-0000"]
            .iter()
            .all(|name| stage.server.get(EXPORTS, "", name).is_none())
    })
    .await;
    eventually("its place", || stage.server.get(EXPORTS, "", &last).is_some()).await;
    assert_eq!(of_tenant(), export::NAMESPACE_EXPORTS);
}

#[tokio::test(start_paused = true)]
async fn agents_that_cannot_be_listed_hold_up_nothing_and_lose_nothing() {
    let open = "optIn:\n  - namespaces: [agents]\n    exportTo: [bank]\n";
    let mut stage = ControllerStage::new(open);
    agent(&stage.server);
    let first = stage.start("one");
    eventually("export", || stage.server.get(EXPORTS, "", "agents.bot").is_some()).await;
    first.cancel();
    stage.server.fail(|_, path| path.contains("kagent.dev").then_some(Fault::Status(500)));
    stage.server.put(CONFIGS, config(&format!("{open}{IMPORT}")));
    stage.start("two");
    stage.hear(Some(1));
    eventually("import", || stage.ready() == Some(true)).await;
    assert!(
        stage.server.get(EXPORTS, "", "agents.bot").is_some(),
        "nobody can say it is not wanted"
    );
    stage.server.delete("kagent.dev/agents", "agents", "bot");
    stage.server.heal();
    eventually("its end", || stage.server.get(EXPORTS, "", "agents.bot").is_none()).await;
}
