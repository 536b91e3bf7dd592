//! The node-local range in network namespaces: who reaches it, who does not, and that it is kept.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use adit_host::routes::{self, LocalRange, NetworkWatch, RouteChanges};
use adit_host::tcp::{listen, listen_transparent};
use adit_tests::lab::{self, LabHost};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

const V4: &str = "198.18.0.7:15080";
const V6: &str = "[fd00:ad17::7]:15080";

fn range() -> LocalRange {
    LocalRange {
        v4: Some("198.18.0.0/15".parse().unwrap()),
        v6: Some("fd00:ad17::/64".parse().unwrap()),
    }
}

fn node_addresses() -> Vec<IpAddr> {
    ["172.18.0.2", "fc00::2"].map(|a| a.parse().unwrap()).into()
}

/// A node with a pod, and a neighbour that sends all of the range to the node.
struct RangeLab {
    node: LabHost,
    pod: LabHost,
    neighbour: LabHost,
}

impl RangeLab {
    fn new() -> Self {
        lab::bridge("lan");
        let [node, neighbour] = ["node", "neighbour"].map(LabHost::new);
        node.plug("lan", "172.18.0.2/24");
        neighbour.plug("lan", "172.18.0.3/24");
        neighbour.ip(&["route", "add", "198.18.0.0/15", "via", "172.18.0.2"]);
        node.ip(&["addr", "add", "fc00::2/64", "dev", "eth0", "nodad"]);
        neighbour.ip(&["addr", "add", "fc00::3/64", "dev", "eth0", "nodad"]);
        neighbour.ip(&["route", "add", "fd00:ad17::/64", "via", "fc00::2"]);
        let pod = node.pod("pod", "10.244.1.5");
        node.ip(&["addr", "add", "fd44::1/64", "dev", "v-pod", "nodad"]);
        pod.ip(&["addr", "add", "fd44::5/64", "dev", "eth0", "nodad"]);
        pod.ip(&["route", "add", "default", "via", "fd44::1"]);
        Self { node, pod, neighbour }
    }

    fn ensure(&self, range: LocalRange) -> RouteChanges {
        self.node.enter(move || block_on(routes::ensure(&range, &node_addresses())).unwrap())
    }

    /// The changes that are made after `ip` with these arguments, once the kernel reports it.
    fn after(&self, breaking: &[&str]) -> RouteChanges {
        let node = self.node.clone();
        let breaking: Vec<String> = breaking.iter().map(|s| (*s).into()).collect();
        self.node.enter(move || {
            block_on(async move {
                let mut watch = NetworkWatch::new().unwrap();
                node.ip(&breaking.iter().map(String::as_str).collect::<Vec<_>>());
                let news = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
                news.unwrap_or_else(|_| panic!("no news of: ip {}", breaking.join(" "))).unwrap();
                routes::ensure(&range(), &node_addresses()).await.unwrap()
            })
        })
    }

    /// All rules and routes of the node but those of link-local addresses, which come when they are ready.
    fn routing(&self) -> String {
        let show = |args: &[&str]| {
            let out = self.node.command("ip").args(args).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let v4 = show(&["rule"]) + &show(&["route", "show", "table", "all"]);
        let v6 = show(&["-6", "rule"]) + &show(&["-6", "route", "show", "table", "1984"]);
        (v4 + &v6).lines().filter(|l| !l.contains("fe80:")).map(|l| format!("{l}\n")).collect()
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Tells each caller who it is.
fn serve(address: &str) {
    let listener = listen_transparent(address.parse().unwrap(), false).unwrap();
    listener.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, peer)) = listener.accept() {
            socket.write_all(peer.ip().to_string().as_bytes()).unwrap();
        }
    });
}

/// Asks whoever listens there who we are.
fn ask(address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let mut socket =
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|e| e.kind())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(|e| e.kind())?;
    Ok(answer)
}

#[test]
fn pods_and_the_node_itself_reach_it_and_a_neighbour_does_not() {
    lab::run("pods_and_the_node_itself_reach_it_and_a_neighbour_does_not", || {
        let lab = RangeLab::new();
        lab.ensure(range());
        lab.node.enter(|| [V4, V6, "172.18.0.2:15080", "[fc00::2]:15080"].map(serve));
        assert_eq!(lab.pod.enter(|| ask(V4)), Ok("10.244.1.5".into()));
        assert_eq!(lab.pod.enter(|| ask(V6)), Ok("fd44::5".into()));
        assert_eq!(lab.node.enter(|| ask(V4)), Ok("172.18.0.2".into()));
        assert_eq!(lab.node.enter(|| ask(V6)), Ok("fc00::2".into()));
        assert_eq!(lab.neighbour.enter(|| ask("172.18.0.2:15080")), Ok("172.18.0.3".into()));
        assert_eq!(lab.neighbour.enter(|| ask("[fc00::2]:15080")), Ok("fc00::3".into()));
        for closed in [V4, V6] {
            assert_eq!(lab.neighbour.enter(move || ask(closed)), Err(ErrorKind::TimedOut));
        }
    });
}

#[test]
fn where_nobody_listens_ipv6_refuses_and_ipv4_is_silent() {
    lab::run("where_nobody_listens_ipv6_refuses_and_ipv4_is_silent", || {
        let lab = RangeLab::new();
        lab.ensure(range());
        assert_eq!(lab.pod.enter(|| ask(V6)), Err(ErrorKind::ConnectionRefused));
        assert_eq!(lab.pod.enter(|| ask(V4)), Err(ErrorKind::TimedOut));
    });
}

#[test]
fn no_packet_for_the_range_leaves_the_node() {
    lab::run("no_packet_for_the_range_leaves_the_node", || {
        let lab = RangeLab::new();
        // The neighbour has the very addresses, and all of the pod's traffic is led there, as some CNIs do.
        lab.neighbour.ip(&["addr", "add", "198.18.0.7/32", "dev", "lo"]);
        lab.neighbour.ip(&["addr", "add", "fd00:ad17::7/128", "dev", "lo", "nodad"]);
        lab.neighbour.ip(&["route", "add", "10.244.1.5/32", "via", "172.18.0.2"]);
        lab.neighbour.ip(&["route", "add", "fd44::/64", "via", "fc00::2"]);
        lab.neighbour.enter(|| [V4, V6].map(serve));
        lab.node.enter(|| {
            for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
            }
        });
        lab.node.ip(&["route", "add", "default", "via", "172.18.0.3", "table", "2"]);
        lab.node.ip(&["rule", "add", "pref", "512", "from", "10.244.1.5", "lookup", "2"]);
        lab.node.ip(&["-6", "route", "add", "default", "via", "fc00::3", "table", "2"]);
        lab.node.ip(&["-6", "rule", "add", "pref", "110", "from", "fd44::5", "lookup", "2"]);
        let ask = |address: &'static str| lab.pod.enter(move || ask(address));
        assert_eq!([ask(V4), ask(V6)].map(|a| a.is_ok()), [true, true], "the neighbour");
        lab.ensure(range());
        assert_eq!(ask(V6), Err(ErrorKind::ConnectionRefused), "nobody listens on the node");
        lab.node.enter(|| [V4, V6].map(serve));
        assert_eq!(ask(V4), Ok("10.244.1.5".into()));
        assert_eq!(ask(V6), Ok("fd44::5".into()));
        // As while the route is made anew.
        lab.node.ip(&["route", "del", "local", "198.18.0.0/15", "table", "1984"]);
        lab.node.ip(&["-6", "route", "del", "local", "fd00:ad17::/64", "table", "1984"]);
        assert_eq!(ask(V4), Err(ErrorKind::HostUnreachable));
        assert_eq!(ask(V6), Err(ErrorKind::NetworkUnreachable));
    });
}

#[test]
fn nothing_is_made_twice_and_what_is_lost_is_put_back_at_once() {
    lab::run("nothing_is_made_twice_and_what_is_lost_is_put_back_at_once", || {
        let lab = RangeLab::new();
        let first = lab.ensure(range());
        assert_eq!((first.added.len(), first.removed.len()), (8, 0), "{first}");
        assert!(lab.ensure(range()).is_empty());
        let whole = lab.routing();

        let added = |text: &str| RouteChanges { added: vec![text.into()], removed: vec![] };
        let route = "route local 198.18.0.0/15 dev lo table 1984 src 172.18.0.2";
        let after = |breaking: &[&str]| lab.after(breaking);
        assert_eq!(
            after(&["route", "del", "local", "198.18.0.0/15", "table", "1984"]),
            added(route)
        );
        let flushed = after(&["route", "flush", "table", "1984"]).added;
        assert_eq!(flushed, ["route unreachable 198.18.0.0/15 table 1984", route]);
        let lookup = "rule to fd00:ad17::/64 lookup 1984";
        assert_eq!(after(&["-6", "rule", "del", "pref", "104"]), added(lookup));
        let guard = "rule iif eth0 to 198.18.0.0/15 blackhole";
        assert_eq!(after(&["rule", "del", "pref", "103"]), added(guard));
        assert_eq!(lab.routing(), whole);

        // A second uplink comes, by its default route, and goes.
        assert!(after(&["link", "add", "wan0", "type", "bridge"]).is_empty());
        assert!(after(&["link", "set", "wan0", "up"]).is_empty());
        let guards = after(&["route", "add", "default", "dev", "wan0"]);
        assert_eq!(guards.added.len(), 2, "{guards}");
        assert!(guards.to_string().contains("added rule iif wan0 to 198.18.0.0/15 blackhole"));
        assert_eq!(after(&["link", "del", "wan0"]).removed.len(), 2);

        // What a version of us with other preferences has left.
        let old = ["rule", "add", "pref", "1984", "to", "198.18.0.0/15", "lookup", "1984"];
        let changes = after(&[&old[..], &["protocol", "173"]].concat());
        assert_eq!(changes.removed, ["a rule that is not as we make it"]);
        assert_eq!(lab.routing(), whole);
    });
}

#[test]
fn another_range_or_address_takes_the_place_of_the_old_one() {
    lab::run("another_range_or_address_takes_the_place_of_the_old_one", || {
        let lab = RangeLab::new();
        lab.ensure(range());
        let only_v4 = LocalRange { v6: None, ..range() };
        assert_eq!(lab.ensure(only_v4).removed.len(), 4);
        let other = LocalRange { v4: Some("100.64.0.0/10".parse().unwrap()), v6: None };
        let changes = lab.ensure(other);
        assert_eq!((changes.added.len(), changes.removed.len()), (4, 4), "{changes}");
        assert!(lab.ensure(other).is_empty());
        lab.node.ip(&["addr", "add", "172.18.0.9/24", "dev", "eth0"]);
        let source = lab.node.enter(move || {
            let absent_first = ["192.0.2.1", "172.18.0.9"].map(|a| a.parse().unwrap());
            block_on(routes::ensure(&other, &absent_first)).unwrap()
        });
        let text = "route local 100.64.0.0/10 dev lo table 1984 src 172.18.0.";
        let expected =
            RouteChanges { added: vec![format!("{text}9")], removed: vec![format!("{text}2")] };
        assert_eq!(source, expected);
    });
}

#[test]
fn removing_leaves_what_others_made() {
    lab::run("removing_leaves_what_others_made", || {
        let lab = RangeLab::new();
        lab.node.ip(&["rule", "add", "pref", "103", "to", "203.0.113.0/24", "lookup", "main"]);
        lab.node.ip(&["route", "add", "203.0.113.0/24", "dev", "eth0", "table", "1984"]);
        let before = lab.routing();
        lab.ensure(range());
        assert_ne!(lab.routing(), before);
        let remove = || block_on(routes::remove()).unwrap();
        assert_eq!(lab.node.enter(remove).removed.len(), 8);
        assert_eq!(lab.routing(), before);
        assert!(lab.node.enter(remove).is_empty());
    });
}

#[test]
fn without_privilege_the_error_says_what_is_missing() {
    lab::run("without_privilege_the_error_says_what_is_missing", || {
        let lab = RangeLab::new();
        lab.node.enter(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            let error = block_on(routes::ensure(&range(), &node_addresses())).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("cannot add rule iif eth0 to 198.18.0.0/15 blackhole: "),
                "{text}"
            );
            assert!(text.ends_with("CAP_NET_ADMIN)"), "{text}");
            let error = listen_transparent(V4.parse().unwrap(), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
            // What a node without privilege does is as ever.
            assert!(listen("127.0.0.1:0".parse().unwrap(), true).is_ok());
            let error = listen(V4.parse().unwrap(), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        });
    });
}

#[test]
fn a_machine_knows_its_own_addresses_and_the_device_of_each_pod() {
    lab::run("a_machine_knows_its_own_addresses_and_the_device_of_each_pod", || {
        let lab = RangeLab::new();
        let look = || lab.node.enter(|| block_on(routes::host_addresses()).unwrap());
        let pod: IpAddr = "10.244.1.5".parse().unwrap();
        let before = look();
        for own in ["127.0.0.1", "172.18.0.2", "fc00::2", "10.244.255.1", "fd44::1"] {
            assert!(before.own.contains(&own.parse().unwrap()), "{own}: {before:?}");
        }
        assert!(!before.own.contains(&pod) && before.devices.contains_key(&pod), "{before:?}");
        lab.node.ip(&["link", "del", "v-pod"]);
        assert!(!look().devices.contains_key(&pod));
        let _next = lab.node.pod("next", "10.244.1.5");
        assert_ne!(look().devices[&pod], before.devices[&pod], "another pod's device");
    });
}
