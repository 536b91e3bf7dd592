//! The description of what a linked cluster may fill, for the person who linked it.

use adit_config::cluster::{ClusterConfig, NamePattern};
use adit_core::name::ClusterName;

/// Describes which Services a linked cluster may fill by its exports, and who may use them.
pub(super) fn describe_import(config: &ClusterConfig, other: &ClusterName) -> String {
    let link = config.links.iter().find(|link| link.cluster == *other);
    let allowed: Vec<_> =
        link.iter().flat_map(|link| &link.also_allow).map(ToString::to_string).collect();
    let allowed = match &allowed[..] {
        [] => String::new(),
        some => format!("; what is imported from it is for {} everywhere, too", some.join(", ")),
    };
    let Some(link) = link.filter(|link| !link.import.is_empty()) else {
        return format!(
            "{other} may fill no Service by itself, only those that `adit import` names; \
             `adit link … --import NAMESPACES` opens namespaces to it{allowed}"
        );
    };
    let namespaces: Vec<_> = link.import.iter().map(NamePattern::as_str).collect();
    let all = link.import.iter().any(|pattern| pattern.as_str() == "*");
    let which = match &namespaces[..] {
        _ if all => "all namespaces but kube-* and adit-system".to_owned(),
        [one] if !one.contains('*') => format!("namespace {one}"),
        several => format!("namespaces {}", several.join(", ")),
    };
    let made = if link.create_services {
        "; where there is no Service of that name, one is made"
    } else {
        ""
    };
    format!(
        "by what it exports {other} may fill Services in {which} that cannot have pods of their own (without a selector, \
         or a kagent Agent's with replicas: 0) and never had an endpoint{made}; others only if `adit import` names them{allowed}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_services_the_other_cluster_may_fill() {
        let said = |import: &str| {
            let text = format!(
                "cluster: edge\nlinks:\n  - {{cluster: bank, trustDomain: b.example, trustBundle: x, import: {import}}}\n"
            );
            let config = adit_config::parse_cluster(&[("cluster.yaml".to_owned(), text)].into());
            describe_import(&config.unwrap().0, &"bank".parse().unwrap())
        };
        let nothing = said("{}");
        assert!(nothing.starts_with("bank may fill no Service by itself"), "{nothing}");
        for (import, which) in [
            ("{namespaces: [a]}", "Services in namespace a that cannot have pods"),
            ("{namespaces: [a, 'b-*']}", "Services in namespaces a, b-* that cannot have pods"),
            ("{namespaces: [a, '*']}", "in all namespaces but kube-* and adit-system that cannot"),
            (
                "{namespaces: [a], createServices: true}",
                "one is made; others only if `adit import`",
            ),
            (
                "{namespaces: [a], alsoAllow: [{namespace: c, serviceAccount: \"*\"}]}",
                "is for c/* everywhere",
            ),
        ] {
            let said = said(import);
            assert!(said.contains(which), "{said}");
        }
    }
}
