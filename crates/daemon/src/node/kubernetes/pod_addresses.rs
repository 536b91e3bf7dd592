//! The machine's own word on its pods' addresses, beside the API server's.
//!
//! A pod has its address for as long as the device that leads to it. When that is gone, or another leads there, the
//! network has given the address on, and the API server may say so seconds later: whoever speaks from it
//! meanwhile is not the pod that had it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use adit_host::routes::{HostAddresses, NetworkWatch};
use adit_kubernetes::node::observed::{ObservedCluster, ObservedPod};
use tokio::time::sleep;

/// The kernel does not tell of everything, so that it is asked this often besides.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The addresses that this machine's pods still have.
#[derive(Debug, Default)]
pub(super) struct PodAddressFilter {
    /// As the kernel said last.
    pub(super) host: HostAddresses,
    /// By UID and address of a pod: the device that led there when it was first seen as it is.
    claims: BTreeMap<(String, IpAddr), (u32, ObservedPod)>,
}

impl PodAddressFilter {
    /// The `seen` cluster without the addresses that its pods do not have any more.
    pub(super) fn without_stale<'a>(
        &mut self,
        seen: &'a ObservedCluster,
    ) -> Cow<'a, ObservedCluster> {
        let uids: BTreeSet<&str> = seen.pods.values().map(|pod| pod.uid.as_str()).collect();
        self.claims.retain(|(uid, _), _| uids.contains(uid.as_str()));
        let mut lost = Vec::new();
        for (name, pod) in &seen.pods {
            let gone = |address: &&IpAddr| !self.owns(pod, **address);
            lost.extend(pod.addresses.iter().filter(gone).map(|address| (name, *address)));
        }
        let mut held = Cow::Borrowed(seen);
        for (name, address) in lost {
            if let Some(pod) = held.to_mut().pods.get_mut(name) {
                pod.addresses.retain(|has| *has != address);
            }
        }
        held
    }

    /// True if a pod still has an address. If pods share a device, or none leads to it yet, the API server's word
    /// counts.
    fn owns(&mut self, pod: &ObservedPod, address: IpAddr) -> bool {
        let device = self.host.devices.get(&address).copied();
        let key = (pod.uid.clone(), address);
        if let Some((since, known)) = self.claims.get(&key) {
            // One that goes is not made anew; one whose containers have begun again may have another device.
            if known.started_at == pod.started_at || pod.ending {
                return device == Some(*since);
            }
        }
        match device {
            Some(device) if !pod.ending => drop(self.claims.insert(key, (device, pod.clone()))),
            _ => drop(self.claims.remove(&key)),
        }
        true
    }
}

/// Waits until it may have changed.
pub(super) async fn changed(network: &mut Option<NetworkWatch>) {
    let changed = async {
        match network {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        changed = changed => changed.is_err(),
        () = sleep(POLL_INTERVAL) => network.is_none(),
    };
    if ended {
        *network = NetworkWatch::new().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: &str = "10.244.1.5";

    fn pod(uid: &str, begun: &str, ending: bool) -> ObservedCluster {
        let pod = ObservedPod {
            uid: uid.into(),
            namespace: "agents".into(),
            service_account: uid.into(),
            addresses: vec![IP.parse().unwrap()],
            ending,
            started_at: Some(begun.into()),
        };
        ObservedCluster {
            pods: [(format!("agents/{uid}"), pod)].into(),
            ..ObservedCluster::default()
        }
    }

    /// True if the address is the pod's while that device leads to it.
    fn holds(known: &mut PodAddressFilter, device: Option<u32>, seen: &ObservedCluster) -> bool {
        known.host.devices = device.map(|d| (IP.parse().unwrap(), d)).into_iter().collect();
        known.without_stale(seen).pods.values().all(|pod| !pod.addresses.is_empty())
    }

    #[test]
    fn a_pod_has_its_address_for_as_long_as_its_device() {
        for ending in [false, true] {
            let mut known = PodAddressFilter::default();
            assert!(holds(&mut known, None, &pod("a", "1", false)), "it has just begun");
            assert!(holds(&mut known, Some(7), &pod("a", "1", false)));
            let later = pod("a", "1", ending);
            assert!(holds(&mut known, Some(7), &later));
            assert!(!holds(&mut known, None, &later), "its device is gone");
            assert!(!holds(&mut known, Some(8), &later), "another speaks from there");
            assert!(holds(&mut known, Some(8), &pod("b", "2", false)), "the next one");
            assert!(holds(&mut known, Some(8), &pod("b", "2", true)));
        }
    }

    #[test]
    fn a_pod_whose_network_is_made_anew_has_its_address_again() {
        let mut known = PodAddressFilter::default();
        assert!(holds(&mut known, Some(7), &pod("a", "1", false)));
        assert!(!holds(&mut known, Some(8), &pod("a", "1", false)));
        assert!(holds(&mut known, Some(8), &pod("a", "2", false)), "its containers began again");
        // Not one that goes: its containers do not begin again.
        assert!(!holds(&mut known, Some(9), &pod("a", "3", true)));
    }

    #[test]
    fn where_pods_share_a_device_their_word_counts() {
        let mut known = PodAddressFilter::default();
        for ending in [false, true] {
            assert!(holds(&mut known, None, &pod("a", "1", ending)));
        }
        // One that was going when we began: nobody knows by which device it was reached.
        assert!(holds(&mut known, Some(7), &pod("b", "1", true)));
        assert!(holds(&mut known, Some(8), &pod("b", "1", true)));
    }
}
