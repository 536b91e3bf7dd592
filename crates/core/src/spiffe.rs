//! SPIFFE IDs, byte for byte, and the roles that Adit reads from their paths.
//!
//! The grammar is that of the SPIFFE-ID standard (§2): scheme `spiffe`, a trust domain of
//! `a-z 0-9 . - _`, path segments of `a-z A-Z 0-9 . - _`, no percent sign, no empty segment, no
//! trailing slash, 2048 bytes at most. Nothing is normalised: an ID that would need it is refused, so
//! that two spellings can never name one identity. Verification of certificates is in `adit-pki`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::{Namespace, NodeName, ServiceAccount};

/// The longest SPIFFE ID, in bytes (SPIFFE-ID §2.3).
pub const MAX_ID_LEN: usize = 2048;
/// The longest trust domain, in bytes (SPIFFE-ID §2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// The reason why a string is not a SPIFFE ID, or not one that has a role in Adit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Longer than the standard allows.
    #[error("longer than {MAX_ID_LEN} bytes")]
    TooLong,
    /// Does not begin with `spiffe://`.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// The trust domain is empty, too long or has other characters than `a-z 0-9 . - _`.
    #[error("trust domain must be 1 to {MAX_TRUST_DOMAIN_LEN} of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// A path segment is empty, `.`, `..` or has a character outside `a-z A-Z 0-9 . - _`.
    #[error(
        "path segments must be made of a-z, A-Z, 0-9, '.', '-' and '_', and be neither empty, '.' nor '..'"
    )]
    Path,
    /// The path is none of `/adit/node/NAME`, `/adit/controller`, `/ns/NAMESPACE/sa/SERVICEACCOUNT`.
    #[error("path is neither /adit/node/NAME, /adit/controller nor /ns/NAMESPACE/sa/NAME")]
    Role,
}

/// A SPIFFE trust domain: one cluster's certificate authority and what it vouches for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain as text, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID `spiffe://TRUSTDOMAIN/adit/node/NODE`.
    #[must_use]
    pub fn node_id(&self, node: &NodeName) -> SpiffeId {
        SpiffeId { text: format!("spiffe://{self}/adit/node/{node}").into(), domain: self.clone() }
    }

    /// The ID `spiffe://TRUSTDOMAIN/adit/controller`.
    #[must_use]
    pub fn controller_id(&self) -> SpiffeId {
        SpiffeId { text: format!("spiffe://{self}/adit/controller").into(), domain: self.clone() }
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        let legal =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if s.is_empty() || s.len() > MAX_TRUST_DOMAIN_LEN || !s.bytes().all(legal) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(s.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A whole SPIFFE ID, valid by construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain inside the ID: the one whose bundle must verify its certificate.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash; empty for a trust domain's own ID.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text["spiffe://".len() + self.domain.as_str().len()..]
    }

    /// The role of the holder of this ID.
    ///
    /// # Errors
    /// [`SpiffeError::Role`] if the path has no meaning here.
    pub fn role(&self) -> Result<Role, SpiffeError> {
        let mut segments = self.path().split('/').skip(1);
        let mut next = || segments.next().unwrap_or_default();
        let role = match (next(), next(), next(), next(), next()) {
            ("adit", "node", name, "", "") => name.parse().ok().map(Role::Node),
            ("adit", "controller", "", "", "") => Some(Role::Controller),
            ("ns", namespace, "sa", account, "") => {
                match (namespace.parse::<Namespace>(), account.parse::<ServiceAccount>()) {
                    (Ok(namespace), Ok(service_account)) => {
                        Some(Role::Workload(Workload { namespace, service_account }))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        role.ok_or(SpiffeError::Role)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        if s.len() > MAX_ID_LEN {
            return Err(SpiffeError::TooLong);
        }
        let rest = s.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(d, p)| (d, Some(p)));
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(legal);
        let domain = domain.parse()?;
        if path.is_some_and(|p| !p.split('/').all(segment)) {
            return Err(SpiffeError::Path);
        }
        Ok(Self { text: s.into(), domain })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The role of a SPIFFE ID's holder, as its path says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    /// `/adit/node/NAME`: a daemon; the only role that may be a peer.
    Node(NodeName),
    /// `/adit/controller`: accepted in its own cluster only.
    Controller,
    /// `/ns/NAMESPACE/sa/SERVICEACCOUNT`: asserted by nodes, never a party to a connection.
    Workload(Workload),
}

/// A workload within a trust domain that is known from the context: namespace and ServiceAccount.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its namespace.
    pub namespace: Namespace,
    /// The ServiceAccount that it runs as.
    pub service_account: ServiceAccount,
}

impl Workload {
    /// The workload of an account that is written `NAMESPACE/SERVICEACCOUNT`; `None` if it is written otherwise.
    #[must_use]
    pub fn from_account(text: &str) -> Option<Self> {
        let (namespace, account) = text.split_once('/')?;
        Some(Self { namespace: namespace.parse().ok()?, service_account: account.parse().ok()? })
    }

    /// The workload's ID in `domain`: `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT`.
    #[must_use]
    pub fn id(&self, domain: &TrustDomain) -> SpiffeId {
        SpiffeId { text: format!("spiffe://{domain}{self}").into(), domain: domain.clone() }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(s: &str) -> Result<SpiffeId, SpiffeError> {
        s.parse()
    }

    #[test]
    fn roles_are_paths() {
        let role = |s: &str| id(s).unwrap().role();
        assert_eq!(role("spiffe://td/adit/node/b1.lan"), Ok(Role::Node("b1.lan".parse().unwrap())));
        assert_eq!(role("spiffe://td/adit/controller"), Ok(Role::Controller));
        let Ok(Role::Workload(w)) = role("spiffe://td/ns/agents/sa/support-bot") else { panic!() };
        assert_eq!(w.id(&"td".parse().unwrap()).as_str(), "spiffe://td/ns/agents/sa/support-bot");
        for other in [
            "spiffe://td",
            "spiffe://td/adit",
            "spiffe://td/adit/node",
            "spiffe://td/adit/node/a/b",
            "spiffe://td/adit/node/UPPER",
            "spiffe://td/adit/controller/x",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/b/ns/a",
        ] {
            assert_eq!(role(other), Err(SpiffeError::Role), "{other}");
        }
    }

    #[test]
    fn hostile_spellings_are_refused() {
        for (bad, why) in [
            ("", SpiffeError::Scheme),
            ("SPIFFE://td/a", SpiffeError::Scheme),
            ("https://td/a", SpiffeError::Scheme),
            ("spiffe://", SpiffeError::TrustDomain),
            ("spiffe:///a", SpiffeError::TrustDomain),
            ("spiffe://TD/a", SpiffeError::TrustDomain),
            ("spiffe://td:443/a", SpiffeError::TrustDomain),
            ("spiffe://user@td/a", SpiffeError::TrustDomain),
            ("spiffe://td/", SpiffeError::Path),
            ("spiffe://td/a/", SpiffeError::Path),
            ("spiffe://td//a", SpiffeError::Path),
            ("spiffe://td/./a", SpiffeError::Path),
            ("spiffe://td/../a", SpiffeError::Path),
            ("spiffe://td/%61dmin", SpiffeError::Path),
            ("spiffe://td/a?q", SpiffeError::Path),
            ("spiffe://td/a#f", SpiffeError::Path),
            ("spiffe://td/a\0", SpiffeError::Path),
            ("spiffe://td/é", SpiffeError::Path),
        ] {
            assert_eq!(id(bad), Err(why), "{bad:?}");
        }
        assert_eq!(id(&format!("spiffe://td/{}", "a".repeat(2048))), Err(SpiffeError::TooLong));
        assert_eq!(id(&format!("spiffe://{}", "a".repeat(256))), Err(SpiffeError::TrustDomain));
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_not_at_all(s in "\\PC{0,80}") {
            if let Ok(id) = id(&s) {
                prop_assert_eq!(id.to_string(), s);
            }
        }

        #[test]
        fn valid_ids_keep_their_parts(td in "[a-z0-9._-]{1,40}", path in "(/[a-zA-Z0-9_-]{1,12}){0,5}") {
            let text = format!("spiffe://{td}{path}");
            let id = id(&text).unwrap();
            prop_assert_eq!(id.trust_domain().as_str(), td);
            prop_assert_eq!(id.path(), path);
        }
    }
}
