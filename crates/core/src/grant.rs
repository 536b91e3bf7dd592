//! Grants, and the sources and targets of streams that they speak of.
//!
//! Values only: [`crate::policy`] decides by them.

use std::fmt;
use std::str::FromStr;

use crate::name::{ClusterName, NameError, Namespace, PortName, ServiceAccount, ServiceName};
use crate::spiffe::Workload;

/// A name, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern<T> {
    /// Any name.
    Any,
    /// Exactly this name.
    Exact(T),
}

impl<T: PartialEq> Pattern<T> {
    /// True if `name` fits the pattern.
    pub fn matches(&self, name: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(n) => n == name,
        }
    }

    /// True if some name fits both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Any, _) | (_, Self::Any) => true,
        }
    }
}

impl<T: FromStr<Err = NameError>> FromStr for Pattern<T> {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        if s == "*" { Ok(Self::Any) } else { s.parse().map(Self::Exact) }
    }
}

impl<T: fmt::Display> fmt::Display for Pattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
        }
    }
}

impl<T: fmt::Display> serde::Serialize for Pattern<T> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, T: FromStr<Err = NameError>> serde::Deserialize<'de> for Pattern<T> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which workloads of a cluster that is known from the context.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPattern {
    /// Their namespace.
    pub namespace: Pattern<Namespace>,
    /// The ServiceAccount they run as.
    pub service_account: Pattern<ServiceAccount>,
}

impl WorkloadPattern {
    /// True if `workload` fits the pattern.
    #[must_use]
    pub fn matches(&self, workload: &Workload) -> bool {
        self.namespace.matches(&workload.namespace)
            && self.service_account.matches(&workload.service_account)
    }

    /// Reads `NAMESPACE/SERVICEACCOUNT`, or `SERVICEACCOUNT` in `namespace`; `*` is any.
    ///
    /// # Errors
    /// If a part is not a valid name.
    pub fn parse_in(text: &str, namespace: &Namespace) -> Result<Self, NameError> {
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (namespace.parse()?, account),
            None => (Pattern::Exact(namespace.clone()), text),
        };
        Ok(Self { namespace, service_account: account.parse()? })
    }

    /// True if some workload fits both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.namespace.overlaps(&other.namespace)
            && self.service_account.overlaps(&other.service_account)
    }
}

/// A text names no workloads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadPatternError {
    /// The text has not two parts.
    #[error("expected NAMESPACE/SERVICEACCOUNT")]
    Form,
    /// A part is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for WorkloadPattern {
    type Err = WorkloadPatternError;

    /// Reads `NAMESPACE/SERVICEACCOUNT`; each may be `*`, which is any.
    fn from_str(text: &str) -> Result<Self, WorkloadPatternError> {
        let (namespace, account) = text.split_once('/').ok_or(WorkloadPatternError::Form)?;
        Ok(Self { namespace: namespace.parse()?, service_account: account.parse()? })
    }
}

impl fmt::Display for WorkloadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

/// An entry of an export's `allow`: who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The cluster the source runs in. Always named: a new link must not widen old grants.
    pub cluster: ClusterName,
    /// Which of its workloads.
    #[serde(flatten)]
    pub workloads: WorkloadPattern,
}

/// The workload that opened a connection, as far as policy is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Its cluster: ours when outbound, the peer's when inbound.
    pub cluster: ClusterName,
    /// The workload in that cluster.
    pub workload: Workload,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Workload { namespace, service_account } = &self.workload;
        write!(f, "{namespace}/{service_account}@{}", self.cluster)
    }
}

/// The target of a stream: a service and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// Its port, by name.
    pub port: PortName,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port.as_str().is_empty() { write!(f, ":{}", self.port) } else { Ok(()) }
    }
}
