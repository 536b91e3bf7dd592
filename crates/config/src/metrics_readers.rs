//! Readers of the metrics of nodes from outside their machines: words for what a cluster knows, and ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use adit_core::prefix::IpPrefix;

/// An entry of `network.metricsFrom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsReader {
    /// `pods`: pods of this cluster, in namespaces that are labelled for it.
    Pods,
    /// `nodes`: this cluster's own nodes, which many networks put in the place of a pod of another node.
    Nodes,
    /// A range of addresses.
    Range(IpPrefix),
}

/// A text is no entry of `network.metricsFrom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsReaderError {
    /// The text is neither a word nor a range.
    Unknown,
    /// The range is written by another address than its first.
    NotFirst(IpPrefix),
    /// The range is one of IPv4 addresses, in the form of IPv6.
    Mapped,
}

impl fmt::Display for MetricsReaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => {
                f.write_str("expected pods, nodes, or a range of addresses as 10.0.0.0/8")
            }
            Self::NotFirst(range) => write!(f, "the range begins at {}", range.first()),
            Self::Mapped => {
                f.write_str("an IPv4 range in the form of IPv6 never fits: write it as IPv4")
            }
        }
    }
}

impl FromStr for MetricsReader {
    type Err = MetricsReaderError;

    fn from_str(text: &str) -> Result<Self, MetricsReaderError> {
        match text {
            "pods" => return Ok(Self::Pods),
            "nodes" => return Ok(Self::Nodes),
            _ => {}
        }
        let range: IpPrefix = text.parse().map_err(|_| MetricsReaderError::Unknown)?;
        let written = text.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        if written != Some(range.first()) {
            return Err(MetricsReaderError::NotFirst(range));
        }
        match range.first() {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Err(MetricsReaderError::Mapped),
            IpAddr::V6(_) | IpAddr::V4(_) => Ok(Self::Range(range)),
        }
    }
}

impl fmt::Display for MetricsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods => f.write_str("pods"),
            Self::Nodes => f.write_str("nodes"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// Whoever may read the metrics of a node from outside its machine; nobody by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsReaders(Vec<MetricsReader>);

impl MetricsReaders {
    /// The most entries.
    pub const MAX: usize = 32;

    /// Labelled pods and the nodes of this cluster.
    #[must_use]
    pub fn cluster() -> Self {
        Self(vec![MetricsReader::Pods, MetricsReader::Nodes])
    }

    /// Everybody who reaches the node.
    #[must_use]
    pub fn everybody() -> Self {
        let all =
            [IpPrefix::new(Ipv4Addr::UNSPECIFIED, 0), IpPrefix::new(Ipv6Addr::UNSPECIFIED, 0)];
        Self(all.map(MetricsReader::Range).into())
    }

    /// True if nobody may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `reader` is one of the entries.
    #[must_use]
    pub fn has(&self, reader: MetricsReader) -> bool {
        self.0.contains(&reader)
    }

    /// True if one of the ranges has `address`, which is in its canonical form.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.0.iter().any(|reader| match reader {
            MetricsReader::Range(range) => range.contains(address),
            MetricsReader::Pods | MetricsReader::Nodes => false,
        })
    }
}

impl FromIterator<MetricsReader> for MetricsReaders {
    fn from_iter<T: IntoIterator<Item = MetricsReader>>(readers: T) -> Self {
        Self(readers.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_words_and_ranges_that_can_fit() {
        for text in ["pods", "nodes", "10.0.0.0/8", "fd00::/64", "0.0.0.0/0"] {
            assert_eq!(text.parse::<MetricsReader>().unwrap().to_string(), text);
        }
        let range = IpPrefix::new(Ipv4Addr::new(10, 0, 0, 0), 8);
        for (text, error) in [
            ("pod", MetricsReaderError::Unknown),
            ("10.0.0.1", MetricsReaderError::Unknown),
            ("10.1.0.0/8", MetricsReaderError::NotFirst(range)),
            ("::ffff:10.0.0.0/104", MetricsReaderError::Mapped),
        ] {
            assert_eq!(text.parse::<MetricsReader>(), Err(error), "{text}");
        }
    }

    #[test]
    fn ranges_have_their_addresses_and_words_have_none() {
        let readers: MetricsReaders =
            ["pods", "nodes", "10.0.0.0/8"].iter().map(|t| t.parse().unwrap()).collect();
        assert!(readers.has_address("10.1.2.3".parse().unwrap()));
        assert!(!readers.has_address("11.1.2.3".parse().unwrap()));
        assert!(
            readers.has(MetricsReader::Pods) && !MetricsReaders::default().has(MetricsReader::Pods)
        );
        for ip in ["192.0.2.1", "2001:db8::1"] {
            assert!(MetricsReaders::everybody().has_address(ip.parse().unwrap()), "{ip}");
            assert!(!MetricsReaders::cluster().has_address(ip.parse().unwrap()), "{ip}");
        }
    }
}
