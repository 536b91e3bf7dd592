//! Names of clusters, nodes, services and workloads.
//!
//! Each name is a newtype whose only door is [`FromStr`]: whoever holds one holds a name that obeys
//! its grammar, so nothing further in needs to check lengths, characters or terminal escapes.
//! Grammars are Kubernetes' own, because every name here is or becomes the name of an object there.
//! Identities (SPIFFE IDs) live in [`crate::spiffe`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The reason why a string is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {kind}: {rule}")]
pub struct NameError {
    /// The kind of name that the string should be.
    pub kind: &'static str,
    /// The string, cut to 300 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        Self { kind, value: value.chars().take(300).collect(), rule }
    }
}

const LABEL_RULE: &str = "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const SUBDOMAIN_RULE: &str = "1 to 253 characters: labels of a-z, 0-9 and '-' joined by dots, each beginning and ending with a letter or digit";
const PORT_RULE: &str =
    "empty, or 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const APP_PROTOCOL_RULE: &str =
    "1 to 128 characters: an optional DNS prefix and '/', then letters, digits, '-', '_' and '.'";

/// RFC 1123 label, as Kubernetes wants it.
fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&b.len())
        && b.first().is_some_and(edge)
        && b.last().is_some_and(edge)
        && b.iter().all(|c| edge(c) || *c == b'-')
}

/// RFC 1123 subdomain.
fn is_subdomain(s: &str) -> bool {
    (1..=253).contains(&s.len()) && s.split('.').all(is_label)
}

/// Kubernetes' qualified name: `[prefix/]name`.
fn is_qualified(s: &str) -> bool {
    let (prefix, name) = s.split_once('/').map_or((None, s), |(p, n)| (Some(p), n));
    let b = name.as_bytes();
    s.len() <= 128
        && prefix.is_none_or(is_subdomain)
        && (1..=63).contains(&b.len())
        && b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:ident, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(s) { Ok(Self(s.into())) } else { Err(NameError::new($kind, s, $rule)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A cluster, as the operator calls it. An RFC 1123 label.
    ClusterName, "cluster name", LABEL_RULE, is_label
}
name! {
    /// A node of a cluster; a Kubernetes node name if there is a Kubernetes node. An RFC 1123 subdomain.
    NodeName, "node name", SUBDOMAIN_RULE, is_subdomain
}

impl Default for PortName {
    /// The name of a port that has none.
    fn default() -> Self {
        Self("".into())
    }
}

impl NodeName {
    /// The name of a cluster's controller among its nodes. The controller is none of them: it subscribes to
    /// their hubs and carries nothing. No machine has this name: `.internal` is nobody's domain.
    #[must_use]
    pub fn controller() -> Self {
        Self("controller.adit.internal".into())
    }

    /// True if this is the controller's name.
    #[must_use]
    pub fn is_controller(&self) -> bool {
        *self == Self::controller()
    }
}

/// A node and its cluster, written `node NODE of CLUSTER`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node's name there.
    pub node: NodeName,
}

impl NodeKey {
    /// The key of `node` of `cluster`.
    #[must_use]
    pub fn new(cluster: &ClusterName, node: &NodeName) -> Self {
        Self { cluster: cluster.clone(), node: node.clone() }
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of {}", self.node, self.cluster)
    }
}

name! {
    /// A Kubernetes namespace. An RFC 1123 label.
    Namespace, "namespace", LABEL_RULE, is_label
}
name! {
    /// A Kubernetes ServiceAccount. An RFC 1123 subdomain.
    ServiceAccount, "service account", SUBDOMAIN_RULE, is_subdomain
}
name! {
    /// The name of a Service's port: a label, or empty for the one port of a Service that names none.
    PortName, "port name", PORT_RULE, |s| s.is_empty() || is_label(s)
}
name! {
    /// A Service port's `appProtocol`, e.g. `kgateway.dev/a2a`. A Kubernetes qualified name.
    AppProtocol, "appProtocol", APP_PROTOCOL_RULE, is_qualified
}

/// A Service, written `NAMESPACE/NAME`. Both parts are RFC 1123 labels.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace of the Service, the same in both clusters.
    pub namespace: Namespace,
    name: Arc<str>,
}

impl ServiceName {
    /// The longest `NAMESPACE/NAME`, in bytes.
    pub const MAX_LEN: usize = 63 + 1 + 63;

    /// The Service's own name, without its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const RULE: &str = "NAMESPACE/NAME, each 1 to 63 of a-z, 0-9 and '-'";
        let error = || NameError::new("service", s, RULE);
        let (namespace, name) = s.split_once('/').ok_or_else(error)?;
        if !is_label(name) {
            return Err(error());
        }
        Ok(Self { namespace: namespace.parse().map_err(|_| error())?, name: name.into() })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for ServiceName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ServiceName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "0", "a-b", "trustusbank-bank-agents", &"a".repeat(63)] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "é", "a\u{1b}[0m", &"a".repeat(64)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_is_a_namespace_and_a_name() {
        let s: ServiceName = "trustusbank-bank-agents/fraud-bot".parse().unwrap();
        assert_eq!((s.namespace.as_str(), s.name()), ("trustusbank-bank-agents", "fraud-bot"));
        assert_eq!(s.to_string(), "trustusbank-bank-agents/fraud-bot");
        for bad in ["", "/", "a", "a/", "/b", "a/b/c", "a/b.c", "A/b"] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn app_protocols_are_qualified_names() {
        for good in ["http", "kgateway.dev/a2a", "kubernetes.io/h2c", "HTTP_2.x"] {
            assert!(good.parse::<AppProtocol>().is_ok(), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "Upper.dev/a", "-a", &"a".repeat(64)] {
            assert!(bad.parse::<AppProtocol>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_unnamed_port_has_the_empty_name() {
        assert!("".parse::<PortName>().is_ok());
        assert!("http".parse::<PortName>().is_ok());
        assert!("HTTP".parse::<PortName>().is_err());
    }
}
