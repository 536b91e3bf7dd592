//! The deny list: peers that are refused, whatever a certificate proves.
//!
//! An operator writes it ([`DenyEntry`]); `adit-pki` looks at it whenever a certificate is verified. Values
//! only: whoever composes a [`crate::snapshot::Snapshot`] decides what an entry does to links and routes.

use std::fmt;
use std::str::FromStr;

use crate::name::{ClusterName, NameError, NodeName};

/// The longest serial number, in bytes (RFC 5280 §4.1.2.2).
pub const MAX_SERIAL_LEN: usize = 20;

/// The longest [`DenyEntry::reason`], in characters.
pub const MAX_REASON_LEN: usize = 200;

/// A certificate's serial number, without leading zeros; at most [`MAX_SERIAL_LEN`] bytes if a person wrote
/// it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertSerial(Box<[u8]>);

impl CertSerial {
    /// From the bytes of a certificate's INTEGER.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Self(bytes[zeros..].into())
    }
}

/// Hexadecimal digits, with or without a colon between each two of them, as tools print them.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let digits: Vec<u8> = if text.contains(':') {
        let pairs = bytes.split(|c| *c == b':');
        pairs.map(|pair| pair.try_into().ok()).collect::<Option<Vec<[u8; 2]>>>()?.concat()
    } else {
        bytes.to_vec()
    };
    let value = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let nibbles: Vec<u8> = digits.into_iter().map(value).collect::<Option<_>>()?;
    // A number of an odd length lacks its leading zero.
    let (first, rest) = nibbles.split_at(nibbles.len() % 2);
    let pairs = rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    Some(first.iter().copied().chain(pairs).collect())
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl FromStr for CertSerial {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const RULE: &str = "1 to 40 hexadecimal digits, as `adit pki show` prints them";
        let error = || NameError::new("serial number", s, RULE);
        let serial = Self::from_bytes(&parse_hex(s).ok_or_else(error)?);
        if serial.0.is_empty() || serial.0.len() > MAX_SERIAL_LEN {
            return Err(error());
        }
        Ok(serial)
    }
}

impl fmt::Display for CertSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for CertSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The SHA-256 of a public key: of the whole SubjectPublicKeyInfo, in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl FromStr for KeyHash {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const RULE: &str = "64 hexadecimal digits, the SHA-256 of a SubjectPublicKeyInfo, as `adit pki show` prints it";
        // A digit that was lost in copying is no leading zero.
        let digits = s.chars().filter(|c| *c != ':').count();
        let bytes = parse_hex(s).filter(|_| digits == 64).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| NameError::new("hash of a key", s, RULE))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The peers that an entry denies. Shown as the configuration writes it: `denied.nodes: bank/b1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeniedPeer {
    /// All nodes of a cluster.
    Cluster(ClusterName),
    /// A node of a cluster, whatever certificate it has.
    Node(ClusterName, NodeName),
    /// Every certificate with this serial number, and all that it signed; of one cluster only, if one is
    /// named.
    Serial(CertSerial, Option<ClusterName>),
    /// Every certificate of this key, and all that it signed.
    Key(KeyHash),
}

impl fmt::Display for DeniedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(cluster) => write!(f, "denied.clusters: {cluster}"),
            Self::Node(cluster, node) => write!(f, "denied.nodes: {cluster}/{node}"),
            Self::Serial(serial, None) => write!(f, "denied.serials: {serial}"),
            Self::Serial(serial, Some(cluster)) => {
                write!(f, "denied.serials: {serial} of {cluster}")
            }
            Self::Key(key) => write!(f, "denied.keys: {key}"),
        }
    }
}

/// An entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyEntry {
    /// The peers that are denied.
    pub peer: DeniedPeer,
    /// The operator's own words for why, at most [`MAX_REASON_LEN`] characters. Never sent to a peer.
    pub reason: Option<Box<str>>,
}

/// The nodes of `cluster` that are denied by name.
pub fn denied_nodes<'a>(
    denied: &'a [DenyEntry],
    cluster: &'a ClusterName,
) -> impl Iterator<Item = &'a NodeName> {
    denied.iter().filter_map(move |entry| match &entry.peer {
        DeniedPeer::Node(of, node) if of == cluster => Some(node),
        DeniedPeer::Node(..)
        | DeniedPeer::Cluster(_)
        | DeniedPeer::Serial(..)
        | DeniedPeer::Key(_) => None,
    })
}

/// True if a cluster is denied as a whole.
#[must_use]
pub fn is_cluster_denied(denied: &[DenyEntry], cluster: &ClusterName) -> bool {
    denied.iter().any(|entry| matches!(&entry.peer, DeniedPeer::Cluster(of) if of == cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(text: &str) -> Option<String> {
        text.parse::<CertSerial>().ok().map(|s| s.to_string())
    }

    #[test]
    fn serials_are_read_as_every_tool_prints_them() {
        for text in ["00:ab:0C", "ab0c", "AB0C", "0ab0c", "0000ab0c"] {
            assert_eq!(serial(text).as_deref(), Some("ab0c"), "{text}");
        }
        assert_eq!(serial("7").as_deref(), Some("07"));
        assert!(serial(&"f".repeat(40)).is_some());
        for bad in
            ["", "0", "00:00", "0x12", "ab 0c", "ab:c", "ab::0c", "xyz", "é", &"f".repeat(42)]
        {
            assert_eq!(serial(bad), None, "{bad:?}");
        }
        assert_eq!(CertSerial::from_bytes(&[0, 0xab, 0x0c]).to_string(), "ab0c");
    }

    #[test]
    fn a_key_is_a_whole_hash() {
        let text = "ab".repeat(32);
        assert_eq!(text.parse::<KeyHash>().unwrap().to_string(), text);
        let colons: Vec<_> = std::iter::repeat_n("AB", 32).collect();
        assert_eq!(colons.join(":").parse::<KeyHash>().unwrap().to_string(), text);
        for bad in [&text[2..], &text[1..], &format!("{text}00"), "sha256//", ""] {
            assert!(bad.parse::<KeyHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_read_as_they_are_written() {
        let bank: ClusterName = "bank".parse().unwrap();
        let node = DeniedPeer::Node(bank.clone(), "b1".parse().unwrap());
        assert_eq!(node.to_string(), "denied.nodes: bank/b1");
        let all = [DenyEntry { peer: node, reason: None }];
        assert_eq!(denied_nodes(&all, &bank).count(), 1);
        assert_eq!(denied_nodes(&all, &"edge".parse().unwrap()).count(), 0);
        assert!(!is_cluster_denied(&all, &bank));
    }
}
