//! `adit export` and `adit import`: declarations in the ConfigMap, one Service at a time.
//!
//! Each Service has a key of its own. A declaration adds to its key; taking back removes what is
//! named, and the key with the last of it.

use std::collections::BTreeSet;

use adit_config::cluster::{
    AppProtocols, ExportAlias, ExportRule, Fragment, ImportRule, ServiceSelection, parse_fragment,
    render,
};
use adit_core::name::{AppProtocol, ClusterName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{Class, Hop};
use k8s_openapi::api::core::v1::Service;

use super::context::{ConfigDocument, Context, ContextError};
use super::edit::{ConfigChanges, EditError};

/// A declaration of an export.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The Service, by its own name or by the one that it is exported under.
    pub service: ServiceName,
    /// Its name and port numbers for other clusters, if they are to be set.
    pub alias: Option<ExportAlias>,
    /// True if this cluster gets a Service of that name, too; false leaves it as it is.
    pub make_alias: bool,
    /// The clusters that may use it.
    pub to: Vec<ClusterName>,
    /// The workloads there.
    pub allow: Vec<WorkloadPattern>,
    /// The application protocol of its ports, if it is to be set.
    pub app_protocol: Option<AppProtocol>,
    /// The class of its streams, if it is to be set.
    pub class: Option<Class>,
    /// Take these grants away; without grants, the export.
    pub remove: bool,
}

/// A declaration of an import.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The Service.
    pub service: ServiceName,
    /// The exporting cluster; `None` only if it is taken away.
    pub from: Option<ClusterName>,
    /// Local workloads that may use it, if they are to be set.
    pub allow: Vec<WorkloadPattern>,
    /// True if a Service is created, if that is to be set.
    pub create_service: Option<bool>,
    /// The description of an Agent of kagent that stands for it, if one is asked for.
    pub agent: Option<String>,
    /// Take it away.
    pub remove: bool,
}

impl ExportRequest {
    /// Returns the name under which the Service is exported: the alias of the request; else the name
    /// that it gives; and if nothing is exported under that, and an export is to be taken away, the
    /// only alias of the Service.
    fn exported_name(&self, document: &ConfigDocument) -> ServiceName {
        if let Some(alias) = &self.alias {
            return alias.service.clone();
        }
        let rules: Vec<_> = document.fragments().flat_map(|(_, f)| f.exports).collect();
        let is_known = rules.iter().any(|rule| rule.exported_name() == Some(&self.service));
        let of_it =
            |rule: &&ExportRule| rule.services == ServiceSelection::Named(self.service.clone());
        let mut aliases = rules.iter().filter(of_it).filter_map(ExportRule::exported_name);
        match (aliases.next(), aliases.next()) {
            (Some(only), None) if self.remove && !is_known => only.clone(),
            _ => self.service.clone(),
        }
    }
}

/// Returns the key of an export, by the name that other clusters know.
#[must_use]
pub fn export_key(service: &ServiceName) -> String {
    format!("export-{}.{}.yaml", service.namespace, service.name())
}

/// Returns the key of an import.
#[must_use]
pub fn import_key(service: &ServiceName) -> String {
    format!("import-{}.{}.yaml", service.namespace, service.name())
}

/// Returns the changes that make an export as it is declared.
///
/// # Errors
/// If it is declared in another key, or its own key is wrong.
pub fn export_changes(
    context: &str,
    document: &ConfigDocument,
    request: &ExportRequest,
) -> Result<ConfigChanges, EditError> {
    let name = request.exported_name(document);
    let key = export_key(&name);
    let is_it = |rule: &ExportRule| rule.exported_name() == Some(&name);
    let has = |fragment: &Fragment| fragment.exports.iter().any(is_it);
    reject_declared_elsewhere(context, document, &key, &format!("the export of {name}"), has)?;
    let present = parse_own_key(context, document, &key)?.exports.into_iter().find(is_it);
    let grants: BTreeSet<Grant> = request
        .to
        .iter()
        .flat_map(|cluster| {
            let grant =
                |w: &WorkloadPattern| Grant { cluster: cluster.clone(), workloads: w.clone() };
            request.allow.iter().map(grant)
        })
        .collect();
    let Some(mut rule) =
        present.or_else(|| (!request.remove).then(|| new_export_rule(&request.service)))
    else {
        return Ok(ConfigChanges::new());
    };
    if let Some(alias) = &request.alias {
        let service = ServiceSelection::Named(request.service.clone());
        if rule.services != service && !request.remove {
            let (context, name) = (context.to_owned(), name.to_string());
            return Err(EditError::NameTaken { context, name, key });
        }
        rule.alias = Some(alias.clone());
    }
    rule.make_alias |= request.make_alias;
    if let Some(protocol) = &request.app_protocol {
        rule.app_protocol = AppProtocols::All(protocol.clone());
    }
    rule.class = request.class.unwrap_or(rule.class);
    if request.remove {
        let all_of = |cluster: &ClusterName| request.to.is_empty() || request.to.contains(cluster);
        let every = request.allow.is_empty();
        rule.allow
            .retain(|g| !(all_of(&g.cluster) && (every || request.allow.contains(&g.workloads))));
        if rule.allow.is_empty() {
            return Ok(ConfigChanges::from([(key, None)]));
        }
    } else {
        let old: BTreeSet<_> = rule.allow.iter().cloned().collect();
        rule.allow.extend(grants.into_iter().filter(|grant| !old.contains(grant)));
    }
    Ok(ConfigChanges::from([(key, Some(render::export(&rule)))]))
}

fn new_export_rule(service: &ServiceName) -> ExportRule {
    ExportRule {
        services: ServiceSelection::Named(service.clone()),
        alias: None,
        make_alias: false,
        allow: Vec::new(),
        app_protocol: AppProtocols::Own,
        hop: Hop::default(),
        class: Class::default(),
        replay: false,
        probe: None,
        hold: None,
    }
}

/// Returns the changes that make an import as it is declared.
///
/// # Errors
/// If it is declared in another key, or its own key is wrong.
pub fn import_changes(
    context: &str,
    document: &ConfigDocument,
    request: &ImportRequest,
) -> Result<ConfigChanges, EditError> {
    let key = import_key(&request.service);
    let is_it = |rule: &ImportRule| rule.service == request.service;
    let has = |fragment: &Fragment| fragment.imports.iter().any(is_it);
    reject_declared_elsewhere(
        context,
        document,
        &key,
        &format!("the import of {}", request.service),
        has,
    )?;
    let present = parse_own_key(context, document, &key)?.imports.into_iter().find(is_it);
    if request.remove {
        return Ok(present.map(|_| ConfigChanges::from([(key, None)])).unwrap_or_default());
    }
    let Some(from) = request.from.clone().or_else(|| present.as_ref().map(|p| p.from.clone()))
    else {
        return Ok(ConfigChanges::new());
    };
    let (old, create, agent) =
        present.map_or((None, true, None), |p| (p.allow, p.create_service, p.agent));
    let allow = if request.allow.is_empty() {
        old
    } else {
        let mut allow = old.unwrap_or_default();
        allow.extend(request.allow.iter().cloned());
        let mut seen = BTreeSet::new();
        allow.retain(|pattern| seen.insert(pattern.clone()));
        Some(allow)
    };
    let create_service = request.create_service.unwrap_or(create);
    let agent = request.agent.clone().or(agent);
    let rule = ImportRule { service: request.service.clone(), from, allow, create_service, agent };
    Ok(ConfigChanges::from([(key, Some(render::import(&rule)))]))
}

/// Parses a key of ours.
fn parse_own_key(
    context: &str,
    document: &ConfigDocument,
    key: &str,
) -> Result<Fragment, EditError> {
    let Some(text) = document.data.get(key) else { return Ok(Fragment::default()) };
    parse_fragment(key, text).map_err(|report| EditError::Configuration {
        context: context.to_owned(),
        what: "its own key is wrong already; mend it first:",
        report: report.into(),
    })
}

/// Refuses what is declared in another key.
fn reject_declared_elsewhere(
    context: &str,
    document: &ConfigDocument,
    own: &str,
    what: &str,
    has: impl Fn(&Fragment) -> bool,
) -> Result<(), EditError> {
    let mut others = document.fragments().filter(|(key, _)| *key != own);
    if let Some((key, _)) = others.find(|(_, fragment)| has(fragment)) {
        let (context, what) = (context.to_owned(), what.to_owned());
        return Err(EditError::DeclaredElsewhere { context, what, key: key.clone() });
    }
    Ok(())
}

/// Returns whether a Service exists.
///
/// # Errors
/// If the API server cannot be asked.
pub async fn service_exists(
    context: &Context,
    service: &ServiceName,
) -> Result<bool, ContextError> {
    let services = context.namespaced_api::<Service>(service.namespace.as_str());
    let found = services.get_opt(service.name()).await;
    Ok(found.map_err(context.request_error(&format!("read Service {service}")))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<WorkloadPattern> {
        let here = "n".parse().unwrap();
        texts.iter().map(|text| WorkloadPattern::parse_in(text, &here).unwrap()).collect()
    }

    fn request(to: &[&str], allow: &[&str], remove: bool) -> ExportRequest {
        ExportRequest {
            service: "n/s".parse().unwrap(),
            alias: None,
            make_alias: false,
            to: to.iter().map(|name| name.parse().unwrap()).collect(),
            allow: patterns(allow),
            app_protocol: None,
            class: None,
            remove,
        }
    }

    fn after(document: &ConfigDocument, changes: &ConfigChanges) -> (ConfigDocument, Vec<String>) {
        let document = document.with_changes(changes);
        let rules = document.data.get("export-n.s.yaml").map(|text| {
            let rule = parse_fragment("k.yaml", text).unwrap().exports.remove(0);
            let shown = |g: &Grant| {
                let WorkloadPattern { namespace, service_account } = &g.workloads;
                format!("{}:{namespace}/{service_account}", g.cluster)
            };
            rule.allow.iter().map(shown).collect()
        });
        (document, rules.unwrap_or_default())
    }

    #[test]
    fn grants_add_up_and_are_taken_back_one_by_one() {
        let mut document = ConfigDocument::default();
        let mut step = |request: &ExportRequest| {
            let changes = export_changes("c", &document, request).unwrap();
            let (next, grants) = after(&document, &changes);
            document = next;
            grants
        };
        assert_eq!(step(&request(&["bank"], &["a"], false)), ["bank:n/a"]);
        assert_eq!(step(&request(&["bank"], &["a"], false)), ["bank:n/a"]);
        let all = ["bank:n/a", "bank:m/*", "edge:m/*"];
        assert_eq!(step(&request(&["edge", "bank"], &["m/*"], false)), all);
        assert_eq!(step(&request(&["bank"], &["m/*"], true)), ["bank:n/a", "edge:m/*"]);
        assert_eq!(step(&request(&["bank"], &[], true)), ["edge:m/*"]);
        assert_eq!(step(&request(&["bank"], &[], true)), ["edge:m/*"]);
        assert!(step(&request(&["edge"], &[], true)).is_empty());
        assert!(document.data.is_empty(), "the key goes with the last grant");
        assert!(export_changes("c", &document, &request(&[], &[], true)).unwrap().is_empty());
    }

    #[test]
    fn a_class_stays_until_another_is_named() {
        let mut document = ConfigDocument::default();
        let mut step = |class| {
            let request = ExportRequest { class, ..request(&["bank"], &["a"], false) };
            document = document.with_changes(&export_changes("c", &document, &request).unwrap());
            let text = &document.data["export-n.s.yaml"];
            parse_fragment("k.yaml", text).unwrap().exports.remove(0).class
        };
        assert_eq!(step(None), Class::Interactive);
        assert_eq!(step(Some(Class::Bulk)), Class::Bulk);
        assert_eq!(step(None), Class::Bulk);
        assert_eq!(step(Some(Class::Interactive)), Class::Interactive);
    }

    #[test]
    fn an_alias_has_a_key_of_its_own_and_goes_by_either_name() {
        let alias = |text: &str| Some(text.parse().unwrap());
        let first = ExportRequest {
            alias: alias("n/t:80"),
            make_alias: true,
            ..request(&["bank"], &["a"], false)
        };
        let none = ConfigDocument::default();
        let document = none.with_changes(&export_changes("c", &none, &first).unwrap());
        let rule = |document: &ConfigDocument| {
            let text = document.data.get("export-n.t.yaml")?;
            Some(parse_fragment("k.yaml", text).unwrap().exports.remove(0))
        };
        let made = rule(&document).unwrap();
        assert_eq!(made.services, ServiceSelection::Named("n/s".parse().unwrap()));
        assert_eq!((made.alias.unwrap().to_string(), made.make_alias), ("n/t:80".into(), true));
        // The name that others know is enough to add a grant, and what was said stays.
        let more =
            ExportRequest { service: "n/t".parse().unwrap(), ..request(&["bank"], &["b"], false) };
        let document = document.with_changes(&export_changes("c", &document, &more).unwrap());
        let now = rule(&document).unwrap();
        assert_eq!((now.allow.len(), now.make_alias, document.data.len()), (2, true, 1));
        // Another Service does not get the name.
        let other = ExportRequest { service: "n/u".parse().unwrap(), ..first };
        let taken = export_changes("c", &document, &other);
        assert!(matches!(taken, Err(EditError::NameTaken { name, .. }) if name == "n/t"));
        for name in ["n/s", "n/t"] {
            let remove =
                ExportRequest { service: name.parse().unwrap(), ..request(&[], &[], true) };
            let changes = export_changes("c", &document, &remove).unwrap();
            assert!(document.with_changes(&changes).data.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_others_declared_is_not_touched() {
        let text = "exports: [{service: n/s}]\nimports: [{service: n/t, from: bank}]".to_owned();
        let document = ConfigDocument::default()
            .with_changes(&[("gitops.yaml".to_owned(), Some(text))].into());
        let refused = export_changes("c", &document, &request(&["bank"], &["a"], false));
        assert!(
            matches!(refused, Err(EditError::DeclaredElsewhere { key, .. }) if key == "gitops.yaml")
        );
        let request = ImportRequest {
            service: "n/t".parse().unwrap(),
            from: None,
            allow: Vec::new(),
            create_service: None,
            agent: None,
            remove: true,
        };
        assert!(matches!(
            import_changes("c", &document, &request),
            Err(EditError::DeclaredElsewhere { .. })
        ));
    }

    #[test]
    fn an_import_keeps_what_is_not_said_again() {
        let request = |from: Option<&str>, allow: &[&str], create_service, remove| ImportRequest {
            service: "n/s".parse().unwrap(),
            from: from.map(|name| name.parse().unwrap()),
            allow: patterns(allow),
            create_service,
            agent: None,
            remove,
        };
        let none = ConfigDocument::default();
        let first =
            import_changes("c", &none, &request(Some("bank"), &["a"], Some(false), false)).unwrap();
        let document = none.with_changes(&first);
        let same =
            import_changes("c", &document, &request(Some("bank"), &[], None, false)).unwrap();
        assert_eq!(same, first);
        let more =
            import_changes("c", &document, &request(Some("bank"), &["*/b"], None, false)).unwrap();
        let text = more["import-n.s.yaml"].clone().unwrap();
        let rule = parse_fragment("k.yaml", &text).unwrap().imports.remove(0);
        assert_eq!((rule.allow, rule.create_service), (Some(patterns(&["a", "*/b"])), false));
        let gone = import_changes("c", &document, &request(None, &[], None, true)).unwrap();
        assert!(document.with_changes(&gone).data.is_empty());
        assert!(import_changes("c", &none, &request(None, &[], None, true)).unwrap().is_empty());
    }
}
