//! Handshakes that linked clusters' nodes begin and that fail: which way packets are lost, which side refuses whose
//! certificate, or that they are an attack.
//!
//! Anybody may send a first packet, and claim any name. So a fault counts against a link only if it comes
//! from an address at which the cluster is known to have nodes; there is one record for each kind of fault,
//! and one log line a minute at most. Of certificates from elsewhere that claim a linked cluster's name
//! nothing is kept but their number.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::throttle::Throttle;
use adit_runtime::Mutex;
use tokio::time::Instant;

use super::certificate_refusal::refusal_hint;

/// Time for which a fault counts, from its last occurrence: a node dials every 30 s at least.
const FAULT_LIFETIME: Duration = Duration::from_secs(90);
/// The least time between two lines of one cluster about one kind of fault.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// As the reason of [`Code::OneWay`]: a connection showed it, and no handshake.
pub(super) const UNACKNOWLEDGED: &str = "unacknowledged";

/// Handshakes that failed, by cluster.
#[derive(Debug, Default)]
pub(super) struct HandshakeFaults(Mutex<BTreeMap<ClusterName, ClusterFaults>>);

#[derive(Debug)]
struct ClusterFaults {
    faults: BTreeMap<Code, HandshakeFault>,
    warnings: Throttle<Code, Instant>,
    claimed: ClaimedRefusals,
}

impl Default for ClusterFaults {
    fn default() -> Self {
        Self {
            faults: BTreeMap::new(),
            warnings: Throttle::new(WARN_INTERVAL),
            claimed: ClaimedRefusals::default(),
        }
    }
}

/// Handshakes of a cluster's nodes that failed in one way, since one of them passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HandshakeFault {
    /// Number of handshakes.
    pub(super) count: u64,
    /// The time of the last.
    pub(super) at: Instant,
    /// The address from which it came.
    pub(super) from: IpAddr,
    /// The reason why a certificate was refused: a label, a colon, a sentence, and the identity that it
    /// claims. The peer's word if the peer refused. Empty if no certificate was refused.
    pub(super) why: Box<str>,
}

/// Certificates that were refused here, from addresses at which nobody is known, and that claim a cluster's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ClaimedRefusals {
    /// Number of certificates.
    pub(super) count: u64,
    /// The time of the last.
    pub(super) at: Option<Instant>,
}

impl HandshakeFaults {
    /// Records a fault of a handshake from an address of this cluster; true if it is worth a log line.
    pub(super) fn record(
        &self,
        cluster: &ClusterName,
        from: IpAddr,
        code: Code,
        why: &str,
    ) -> bool {
        let now = Instant::now();
        let mut table = self.0.lock();
        let of = table.entry(cluster.clone()).or_default();
        of.record(from, code, why);
        of.warnings.try_pass(code, now)
    }

    /// Records a handshake that is under way for so long that its peer seems to receive nothing. It may pass
    /// yet.
    pub(super) fn record_suspected(&self, cluster: &ClusterName, from: IpAddr) {
        self.0.lock().entry(cluster.clone()).or_default().record(from, Code::OneWay, "");
    }

    /// Records that a peer at this address receives nothing, as a connection with it shows.
    pub(super) fn record_unacknowledged(&self, cluster: &ClusterName, from: IpAddr) {
        let mut table = self.0.lock();
        table.entry(cluster.clone()).or_default().record(from, Code::OneWay, UNACKNOWLEDGED);
    }

    /// Records that a certificate from elsewhere was refused that claims this cluster's name.
    pub(super) fn record_claim(&self, cluster: &ClusterName) {
        let mut table = self.0.lock();
        let claimed = &mut table.entry(cluster.clone()).or_default().claimed;
        *claimed = ClaimedRefusals { count: claimed.count + 1, at: Some(Instant::now()) };
    }

    /// Forgets the faults of an address from which a handshake with a node of the cluster passed.
    pub(super) fn clear_for_address(&self, cluster: &ClusterName, address: IpAddr) {
        if let Some(of) = self.0.lock().get_mut(cluster) {
            of.faults.retain(|_, fault| fault.from != address.to_canonical());
            of.claimed = ClaimedRefusals::default();
        }
    }

    /// The last fault of a cluster's handshakes, if that is not long ago.
    pub(super) fn last(&self, cluster: &ClusterName) -> Option<(Code, HandshakeFault)> {
        let table = self.0.lock();
        let recent = table.get(cluster)?.faults.iter().filter(|(_, fault)| fault.is_recent());
        recent.max_by_key(|(_, fault)| fault.at).map(|(code, fault)| (*code, fault.clone()))
    }

    /// Refused certificates from elsewhere that claim the cluster's name, if the last is not long ago.
    pub(super) fn recent_claims(&self, cluster: &ClusterName) -> Option<u64> {
        let claimed = self.0.lock().get(cluster)?.claimed;
        claimed.at.filter(|at| at.elapsed() < FAULT_LIFETIME).map(|_| claimed.count)
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.lock().retain(|cluster, _| keep(cluster));
    }
}

impl ClusterFaults {
    fn record(&mut self, from: IpAddr, code: Code, why: &str) {
        let before = self.faults.get(&code).filter(|fault| fault.is_recent());
        let count = before.map_or(0, |fault| fault.count) + 1;
        let fault = HandshakeFault { count, at: Instant::now(), from, why: why.into() };
        self.faults.insert(code, fault);
    }
}

impl HandshakeFault {
    fn is_recent(&self) -> bool {
        self.at.elapsed() < FAULT_LIFETIME
    }

    /// A sentence about the fault, for people; `code` is its kind.
    pub(super) fn sentence(&self, code: Code, cluster: &ClusterName) -> String {
        let Self { count, from, why, .. } = self;
        let ago = self.at.elapsed().as_secs();
        if code == Code::OneWay {
            let seen = if &**why == UNACKNOWLEDGED {
                format!("{from} acknowledges nothing that is sent to it, last seen {ago} s ago")
            } else {
                format!(
                    "its handshakes from {from} end without hearing an answer: seen {count} times, last {ago} s ago"
                )
            };
            return format!(
                "packets of {cluster} reach this node, and this node's do not reach {cluster}: UDP from here to \
                 there is blocked ({seen})"
            );
        }
        if code == Code::ProtocolError {
            return format!(
                "handshakes of {cluster} from {from} come in more pieces than any handshake has, and are ended: seen \
                 {count} times, last {ago} s ago"
            );
        }
        if code == Code::RefusedByPeer {
            let hint = refusal_hint(why, cluster.as_str(), "this node");
            return format!(
                "{cluster} refuses this node's certificate{hint}: {why} (dialling from {from}, {ago} s ago)"
            );
        }
        let hint = refusal_hint(why, "this node", cluster.as_str());
        format!(
            "this node refuses the certificate of {cluster}{hint}: {why} (from {from}, {ago} s ago)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_thousand_faults_are_four_records_and_a_line_a_minute() {
        let (table, bank) = (HandshakeFaults::default(), "bank".parse().unwrap());
        let mut lines = 0;
        for n in 0..100_000_u32 {
            let code =
                [Code::OneWay, Code::CertificateRefused, Code::RefusedByPeer][n as usize % 3];
            let from = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            lines += usize::from(table.record(&bank, from, code, &format!("no: {n}")));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // 100 s, three kinds.
        assert_eq!(lines, 6);
        let kept = table.0.lock().get(&bank).map(|of| of.faults.len());
        assert_eq!(kept, Some(3));
        let (code, last) = table.last(&bank).unwrap();
        assert_eq!((code, &*last.why), (Code::OneWay, "no: 99999"));
        table.clear_for_address(&bank, last.from);
        assert_eq!(table.last(&bank).unwrap().0, Code::RefusedByPeer, "others still fail");
        tokio::time::advance(FAULT_LIFETIME).await;
        assert_eq!(table.last(&bank), None);
    }
}
