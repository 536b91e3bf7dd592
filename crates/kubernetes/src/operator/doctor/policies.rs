//! NetworkPolicies in the way: of the caller towards the import, and of the backend towards the nodes.
//!
//! Only what can be said from the objects: not every network enforces them, and some look at addresses before
//! kube-proxy has changed them. So a policy is in the way only if nothing in it fits the address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_core::doctor::facts::{CallerFacts, ServiceFacts, SliceFacts};
use adit_core::name::ServiceName;
use adit_core::prefix::IpPrefix;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::ListParams;

use super::{ClusterSite, if_readable};
use crate::operator::context::{Context, ContextError};

type Labels = BTreeMap<String, String>;

async fn policies_of(
    context: &Context,
    namespace: &str,
) -> Result<Vec<NetworkPolicy>, ContextError> {
    let policies = context.namespaced_api::<NetworkPolicy>(namespace);
    let read = policies.list(&ListParams::default()).await;
    let read = read.map_err(context.request_error("list NetworkPolicies"));
    Ok(if_readable(read)?.map(|list| list.items).unwrap_or_default())
}

async fn labels_of(context: &Context, pod: &str) -> Result<Labels, ContextError> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let read = context.namespaced_api::<Pod>(namespace).get_opt(name).await;
    let read = if_readable(read.map_err(context.request_error("read a pod")))?.flatten();
    Ok(read.map(|pod| pod.labels().clone()).unwrap_or_default())
}

/// The policy that keeps the caller from the addresses of the import.
pub(super) async fn keeping_in(
    context: &Context,
    caller: &CallerFacts,
    slices: &[SliceFacts],
) -> Result<Option<String>, ContextError> {
    let Some(pod) = &caller.pod else { return Ok(None) };
    let namespace = pod.name.split_once('/').map_or("default", |(namespace, _)| namespace);
    let policies = policies_of(context, namespace).await?;
    if policies.is_empty() {
        return Ok(None);
    }
    let own_slices = slices.iter().filter(|slice| slice.is_ours).flat_map(|slice| &slice.addresses);
    let targets: Vec<_> = own_slices.filter_map(|address| address.parse().ok()).collect();
    let labels = labels_of(context, &pod.name).await?;
    Ok(egress_block(&policies, &labels, &targets))
}

/// Policies that select the backends, and let none of the nodes in.
pub(super) async fn against_nodes(
    site: &ClusterSite,
    service: &ServiceName,
    facts: &ServiceFacts,
) -> Result<Vec<String>, ContextError> {
    let Some(pod) = facts.pods.first() else { return Ok(Vec::new()) };
    let policies = policies_of(&site.context, service.namespace.as_str()).await?;
    if policies.is_empty() {
        return Ok(Vec::new());
    }
    let labels = labels_of(&site.context, &pod.name).await?;
    let nodes: Vec<IpAddr> = site.node_addresses.iter().filter_map(|ip| ip.parse().ok()).collect();
    Ok(ingress_block(&policies, &labels, &nodes).into_iter().collect())
}

fn name(policy: &NetworkPolicy) -> String {
    format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any())
}

/// The first policy of those that select the pod and none of which lets it out to one of the `targets`.
fn egress_block(
    policies: &[NetworkPolicy],
    labels: &Labels,
    targets: &[std::net::SocketAddr],
) -> Option<String> {
    let of = policies.iter().filter(|policy| applies(policy, labels, "Egress"));
    let of: Vec<_> = of.collect();
    let lets_out = |policy: &&NetworkPolicy| {
        let rules = policy.spec.iter().flat_map(|spec| spec.egress.iter().flatten());
        rules.into_iter().any(|rule| {
            let ports = rule.ports.iter().flatten();
            let numbers: Vec<_> = ports
                .map(|p| (p.port.clone(), p.end_port))
                .filter_map(|(port, end)| match port {
                    Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(n)) => {
                        Some((n, end.unwrap_or(n)))
                    }
                    Some(_) => None,
                    None => Some((0, i32::from(u16::MAX))),
                })
                .collect();
            let any_port = rule.ports.as_ref().is_none_or(Vec::is_empty);
            let fits = |port: u16| {
                any_port
                    || numbers.iter().any(|(from, to)| (*from..=*to).contains(&i32::from(port)))
            };
            targets
                .iter()
                .any(|target| fits(target.port()) && any_peer(rule.to.as_deref(), target.ip()))
        })
    };
    let is_free = targets.is_empty() || of.iter().any(lets_out);
    of.first().filter(|_| !is_free).map(|policy| name(policy))
}

/// The first policy of those that select the pod and none of which lets a node in.
fn ingress_block(policies: &[NetworkPolicy], labels: &Labels, nodes: &[IpAddr]) -> Option<String> {
    let of: Vec<_> = policies.iter().filter(|p| applies(p, labels, "Ingress")).collect();
    let lets_in = |policy: &&NetworkPolicy| {
        let rules = policy.spec.iter().flat_map(|spec| spec.ingress.iter().flatten());
        let mut rules = rules.into_iter();
        rules.any(|rule| nodes.iter().any(|node| any_peer(rule.from.as_deref(), *node)))
    };
    let is_free = nodes.is_empty() || of.iter().any(lets_in);
    of.first().filter(|_| !is_free).map(|policy| name(policy))
}

fn applies(policy: &NetworkPolicy, labels: &Labels, kind: &str) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.clone().unwrap_or_else(|| {
        let egress = spec.egress.is_some().then(|| "Egress".to_owned());
        std::iter::once("Ingress".to_owned()).chain(egress).collect()
    });
    let selects = spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, labels));
    selects && types.iter().any(|known| known == kind)
}

/// True if a rule without peers, or one of these, is for an address that is no pod's.
fn any_peer(peers: Option<&[NetworkPolicyPeer]>, ip: IpAddr) -> bool {
    match peers {
        None | Some([]) => true,
        Some(peers) => peers.iter().filter_map(|p| p.ip_block.as_ref()).any(|b| has(b, ip)),
    }
}

fn has(block: &IPBlock, ip: IpAddr) -> bool {
    let except = block.except.iter().flatten().any(|cidr| contains(cidr, ip));
    contains(&block.cidr, ip) && !except
}

fn contains(cidr: &str, ip: IpAddr) -> bool {
    cidr.parse::<IpPrefix>().is_ok_and(|range| range.contains(ip))
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let expressions = selector.match_expressions.iter().flatten().all(|wanted| {
        let value = labels.get(&wanted.key);
        let listed = value.is_some_and(|v| wanted.values.iter().flatten().any(|w| w == v));
        match &*wanted.operator {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    exact && expressions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(spec: Value) -> NetworkPolicy {
        let meta = json!({"name": "p", "namespace": "agents"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn labels() -> Labels {
        [("app".to_owned(), "support-bot".to_owned())].into()
    }

    #[test]
    fn a_policy_is_in_the_callers_way_unless_one_lets_it_reach_the_import() {
        let targets = ["198.18.0.1:15080".parse().unwrap()];
        let dns = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]});
        let blocked = |specs: &[Value]| {
            let all: Vec<_> = specs.iter().cloned().map(policy).collect();
            egress_block(&all, &labels(), &targets).is_some()
        };
        assert!(blocked(std::slice::from_ref(&dns)));
        let block = |cidr: &str| json!({"podSelector": {"matchLabels": {"app": "support-bot"}}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]});
        assert!(!blocked(&[dns.clone(), block("198.18.0.0/15")]), "policies add up");
        assert!(blocked(&[dns.clone(), block("10.0.0.0/8")]));
        assert!(!blocked(&[block("0.0.0.0/0")]));
        let other =
            json!({"podSelector": {"matchLabels": {"app": "other"}}, "policyTypes": ["Egress"]});
        assert!(!blocked(&[other]), "it is for other pods");
        assert!(!blocked(&[json!({"podSelector": {}})]), "a policy without types is for ingress");
        let port = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "TCP", "port": 15000, "endPort": 15100}]}]});
        assert!(!blocked(&[port]));
        assert!(blocked(&[
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}]}]})
        ]));
    }

    #[test]
    fn a_policy_is_in_the_backends_way_unless_one_lets_nodes_in() {
        let nodes = ["172.18.2.2".parse().unwrap()];
        let blocked = |spec: Value| ingress_block(&[policy(spec)], &labels(), &nodes);
        assert_eq!(
            blocked(json!({"podSelector": {}, "policyTypes": ["Ingress"]})).as_deref(),
            Some("agents/p")
        );
        assert_eq!(blocked(json!({"podSelector": {}, "ingress": [{}]})), None);
        let from = |cidr: &str, except: &[&str]| json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": except}}]}]});
        assert_eq!(blocked(from("172.18.0.0/16", &[])), None);
        assert!(blocked(from("172.18.0.0/16", &["172.18.2.0/24"])).is_some());
        let wanted = json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["support-bot"]}]});
        assert_eq!(blocked(json!({"podSelector": wanted})), None);
        assert!(
            contains("fd00::/8", "fd00::1".parse().unwrap())
                && !contains("fd00::/8", "10.0.0.1".parse().unwrap())
        );
        assert!(
            !contains("10.0.0.0/40", "10.0.0.1".parse().unwrap())
                && !contains("no", "10.0.0.1".parse().unwrap())
        );
    }
}
