use std::net::Ipv6Addr;

use super::*;
use crate::tuning::Tuning;

fn bounds() -> HandshakeLimits {
    Tuning::default().handshakes
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn stranger(n: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + n).into())
}

const FRIEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// As many as are let in, of `many` from each of the sources.
fn flood(
    gate: &Arc<HandshakeLimiter>,
    sources: u32,
    many: usize,
    proved: bool,
) -> Vec<HandshakePermit> {
    let mut held = Vec::new();
    for source in 0..sources {
        for _ in 0..many {
            if let FirstPacketDecision::Admit(place) =
                HandshakeLimiter::admit(gate, stranger(source), proved, &bounds())
            {
                held.push(place);
            }
        }
    }
    held
}

fn enters(gate: &Arc<HandshakeLimiter>, ip: IpAddr) -> Option<HandshakePermit> {
    match HandshakeLimiter::admit(gate, ip, true, &bounds()) {
        FirstPacketDecision::Admit(place) => Some(place),
        FirstPacketDecision::Retry | FirstPacketDecision::Ignore => None,
    }
}

#[test]
fn neighbours_in_ipv6_are_one_source_and_in_ipv4_they_are_not() {
    let network = |ip: &str| network_of(ip.parse().unwrap()).to_string();
    assert_eq!(network("2001:db8:1:2:a::1"), network("2001:db8:1:2:b::9"));
    assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
}

#[tokio::test(start_paused = true)]
async fn seventeen_strangers_with_all_their_places_do_not_keep_a_known_peer_out() {
    let gate = Arc::new(HandshakeLimiter::default());
    gate.set_known_addresses(&cluster("bank"), [FRIEND]);
    gate.record_met_address(&cluster("shop"), "2001:db8::1".parse().unwrap());
    let held = flood(&gate, 17, 64, true);
    assert_eq!(held.len(), bounds().strangers.burst as usize / 2);
    assert!(enters(&gate, stranger(99)).is_none(), "a stranger is kept out");
    let friends: Vec<_> = (0..20).map_while(|_| enters(&gate, FRIEND)).collect();
    assert_eq!(friends.len(), 20);
    assert!(enters(&gate, "2001:db8::77".parse().unwrap()).is_some(), "of the same network");
    // Who is known and has not proved that he is there is answered, too.
    let unproved = HandshakeLimiter::admit(&gate, FRIEND, false, &bounds());
    assert!(!matches!(unproved, FirstPacketDecision::Ignore), "{unproved:?}");
    drop(unproved);
    drop((held, friends));
    assert_eq!(gate.in_progress(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_claims_to_be_everywhere_gets_its_own_part_and_no_other() {
    let gate = Arc::new(HandshakeLimiter::default());
    gate.set_known_addresses(&cluster("bank"), [FRIEND]);
    // It announces the addresses of the flood, and the friend's.
    gate.set_known_addresses(&cluster("evil"), (0..100_000).map(stranger).chain([FRIEND]));
    let held = flood(&gate, 100, 64, true);
    let HandshakeLimits { reserved, strangers, .. } = bounds();
    assert_eq!(
        held.len(),
        reserved / 2 + strangers.burst as usize / 2,
        "the common part, and its own"
    );
    let friends: Vec<_> = (0..64).map_while(|_| enters(&gate, FRIEND)).collect();
    assert_eq!(friends.len(), 64);
    drop((held, friends));
    let state = gate.lock_state();
    assert!(state.clusters.values().all(|known| known.held == 0) && state.sources.is_empty());
    assert_eq!(state.clusters[&cluster("evil")].announced.len(), MAX_ANNOUNCED_NETWORKS);
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_merely_claimed_take_no_reserved_place() {
    let gate = Arc::new(HandshakeLimiter::default());
    gate.set_known_addresses(&cluster("bank"), [FRIEND]);
    let mut held = Vec::new();
    loop {
        match HandshakeLimiter::admit(&gate, FRIEND, false, &bounds()) {
            FirstPacketDecision::Admit(place) => held.push(place),
            FirstPacketDecision::Retry => break,
            FirstPacketDecision::Ignore => panic!("a friend is not answered"),
        }
    }
    assert_eq!(held.len(), bounds().retry_above);
    assert!(gate.lock_state().clusters[&cluster("bank")].held == 0);
    assert!(enters(&gate, FRIEND).is_some());
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_end_at_once_are_bounded_by_the_second() {
    let gate = Arc::new(HandshakeLimiter::default());
    gate.set_known_addresses(&cluster("bank"), [FRIEND]);
    let HandshakeLimits { strangers, known, .. } = bounds();
    // Each ends before the next begins, so places are never few.
    let begun =
        |ip: &dyn Fn(u32) -> IpAddr| (0..5000).filter(|n| enters(&gate, ip(*n)).is_some()).count();
    assert_eq!(
        begun(&stranger),
        strangers.burst as usize / 2,
        "the other half is for claimed addresses"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(begun(&stranger), strangers.per_second as usize / 2);
    assert_eq!(begun(&|_| FRIEND), known.burst as usize, "the known have their own");
    // A stranger that has not proved its address is asked to, and costs no handshake.
    while let FirstPacketDecision::Admit(_) =
        HandshakeLimiter::admit(&gate, stranger(1), false, &bounds())
    {}
    assert!(matches!(
        HandshakeLimiter::admit(&gate, stranger(1), false, &bounds()),
        FirstPacketDecision::Retry
    ));
}

#[tokio::test(start_paused = true)]
async fn where_a_node_was_met_is_remembered_for_a_while_and_for_some() {
    let gate = Arc::new(HandshakeLimiter::default());
    let bank = cluster("bank");
    for n in 0..100_000 {
        tokio::time::advance(Duration::from_micros(1)).await;
        gate.record_met_address(&bank, stranger(n));
    }
    let known = |n| gate.lock_state().clusters[&bank].is_at(stranger(n));
    assert_eq!(gate.lock_state().clusters[&bank].met.len(), MAX_MET_NETWORKS);
    assert!(known(99_999) && !known(0));
    tokio::time::advance(MET_LIFETIME).await;
    assert!(!known(99_999));
    gate.retain_clusters(|_| false);
    assert!(gate.lock_state().clusters.is_empty());
}

/// Has `sources` strangers who have proved where they are knock twenty times a second each, and hold what they
/// get until it times out; counts how often a `peer` that nobody knows gets in that knocks once a second.
async fn besieged(sources: u32, seconds: u32, peer: impl Fn(u32) -> IpAddr) -> Vec<bool> {
    // Lots are drawn anew for each limiter. One stranger in a peer's own lot is chance, and not what is asked here.
    let gate = loop {
        let gate = Arc::new(HandshakeLimiter::default());
        let shares = |lot_of: &dyn Fn(IpAddr) -> usize| {
            let strangers: Vec<_> = (0..sources).map(|n| lot_of(stranger(n))).collect();
            (0..seconds).any(|n| strangers.contains(&lot_of(peer(n * 20 + 19))))
        };
        let is_shared = shares(&|ip| gate.lock_state().stranger_shares.lot_of(ip));
        if !is_shared {
            break gate;
        }
    };
    let mut held = std::collections::VecDeque::new();
    let mut entered = Vec::new();
    for tick in 0..seconds * 20 {
        for source in 0..sources {
            held.extend(enters(&gate, stranger(source)).map(|place| (Instant::now(), place)));
            // Some of whom nobody knows where they are, too.
            if let FirstPacketDecision::Admit(place) =
                HandshakeLimiter::admit(&gate, stranger(source), false, &bounds())
            {
                held.push_back((Instant::now(), place));
            }
        }
        if tick % 20 == 19 {
            entered.push(enters(&gate, peer(tick)).is_some());
        }
        tokio::time::advance(Duration::from_millis(50)).await;
        while held.front().is_some_and(|(at, _)| at.elapsed() >= bounds().timeout) {
            held.pop_front();
        }
    }
    entered
}

#[tokio::test(start_paused = true)]
async fn an_unknown_peer_has_its_share_under_a_flood() {
    let behind = |_| IpAddr::from([203, 0, 113, 7]);
    for (sources, within) in [(17, 1), (60, 2), (250, 12)] {
        let entered = besieged(sources, 50, behind).await;
        // What the flood takes before any share is known comes back when it times out.
        let later = &entered[12..];
        let longest = later.split(|entered| *entered).map(<[bool]>::len).max().unwrap_or(99);
        assert!(longest <= within, "{sources} strangers: out for {longest} s in a row: {later:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn claimed_addresses_leave_validated_ones_their_rate() {
    let gate = Arc::new(HandshakeLimiter::default());
    let mut begun = 0;
    for second in 0..60 {
        for source in 0..1000 {
            // Each ends at once.
            let entered = HandshakeLimiter::admit(&gate, stranger(source), false, &bounds());
            begun += usize::from(matches!(entered, FirstPacketDecision::Admit(_)));
        }
        assert!(enters(&gate, FRIEND).is_some(), "after {second} s");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let HandshakeLimits { strangers, .. } = bounds();
    assert!(begun <= (strangers.burst / 2 + 60 * strangers.per_second / 2) as usize, "{begun}");
}

#[tokio::test(start_paused = true)]
async fn shares_take_the_same_memory_whoever_comes() {
    let gate = Arc::new(HandshakeLimiter::default());
    for n in 0..100_000 {
        enters(&gate, stranger(n));
        enters(&gate, Ipv6Addr::from_bits(u128::from(n) << 70).into());
    }
    let sharers = gate.lock_state().stranger_shares.sharers();
    assert!((4000..=4096).contains(&sharers) && gate.lock_state().sources.is_empty(), "{sharers}");
    tokio::time::advance(Duration::from_secs(10)).await;
    enters(&gate, FRIEND);
    assert_eq!(gate.lock_state().stranger_shares.sharers(), 1, "who knocks no more has no share");
}
