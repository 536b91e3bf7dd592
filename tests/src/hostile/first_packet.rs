//! First packets of a QUIC client, made by hand: from any address, with any frames.

use std::sync::Arc;

use adit_pki::tls;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Keys, Version};

/// Bytes of a datagram that may begin a handshake.
const SIZE: usize = 1200;

/// The Initial packets of one client.
pub struct InitialSealer {
    keys: Keys,
    id: [u8; 20],
    next: u32,
}

impl InitialSealer {
    /// A client whose connection ID is made of `nth`.
    ///
    /// # Panics
    /// Never: the suite is one of TLS 1.3.
    #[must_use]
    pub fn new(nth: u64) -> Self {
        let rustls::SupportedCipherSuite::Tls13(suite) =
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        else {
            unreachable!("a suite of TLS 1.3");
        };
        let mut id = [0; 20];
        id[..8].copy_from_slice(&nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let quic = suite.quic_suite().unwrap();
        let keys = Keys::initial(Version::V1, suite, quic.quic, &id, rustls::Side::Client);
        Self { keys, id, next: 0 }
    }

    /// Frames that fit one packet.
    #[must_use]
    pub fn room(&self) -> usize {
        SIZE - self.header(0).len() - self.keys.local.packet.tag_len()
    }

    /// Long header, Initial, four bytes of packet number; version 1; both IDs; no token; length.
    fn header(&self, number: u32) -> Vec<u8> {
        let mut header = [&[0xc3, 0, 0, 0, 1, 20][..], &self.id, &[8], &[7; 8], &[0]].concat();
        let number_at = header.len() + 2;
        header.extend((0x4000 | (SIZE - number_at) as u16).to_be_bytes());
        header.extend(number.to_be_bytes());
        header
    }

    /// A datagram with these frames, sealed as RFC 9001 §5.2 says.
    ///
    /// # Panics
    /// Where they do not fit.
    pub fn seal(&mut self, frames: &[u8]) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        let mut packet = self.header(number);
        let header_len = packet.len();
        let number_at = header_len - 4;
        packet.extend(frames);
        assert!(packet.len() <= SIZE - 16, "{} bytes of frames", frames.len());
        packet.resize(SIZE - 16, 0);
        let (header, payload) = packet.split_at_mut(header_len);
        let sealed = self.keys.local.packet.encrypt_in_place(number.into(), header, payload);
        packet.extend(sealed.unwrap().as_ref());
        let sample = packet[number_at + 4..number_at + 20].to_vec();
        let (first, rest) = packet.split_at_mut(1);
        let number = &mut rest[number_at - 1..number_at + 3];
        self.keys.local.header.encrypt_in_place(&sample, &mut first[0], number).unwrap();
        packet
    }
}

/// A frame with a client's hello, which fits one packet since it has no post-quantum share.
///
/// # Panics
/// Never: the configuration is whole.
#[must_use]
pub fn client_hello() -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let roots = rustls::RootCertStore::empty();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    // initial_source_connection_id, of [`InitialSealer`].
    let params = [&[0x0f, 8][..], &[7; 8]].concat();
    let name = ServerName::try_from("victim").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), Version::V1, name, params).unwrap();
    let mut hello = Vec::new();
    client.write_hs(&mut hello);
    let len = (0x4000 | hello.len() as u16).to_be_bytes();
    [&[CRYPTO, 0][..], &len, &hello].concat()
}

const CRYPTO: u8 = 6;

/// As many frames as fit `room`, each with one byte of a handshake, with gaps: of a thousand, from the `nth` on, over and
/// over. The first byte of the handshake is not among them.
#[must_use]
pub fn crumbs(nth: &mut u16, room: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    while frames.len() + 5 <= room {
        let offset = 0x4000 | (1 + 2 * *nth);
        frames.push(CRYPTO);
        frames.extend(offset.to_be_bytes());
        frames.extend([1, b'x']);
        *nth = (*nth + 1) % 1000;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_packet_fills_a_datagram_and_differs_by_its_client_and_number() {
        let hello = client_hello();
        let mut client = InitialSealer::new(1);
        let packets =
            [client.seal(&hello), client.seal(&hello), InitialSealer::new(2).seal(&hello)];
        assert!(packets.iter().all(|packet| packet.len() == SIZE));
        assert!(packets[0][100..] != packets[1][100..] && packets[0][100..] != packets[2][100..]);
        assert_eq!(packets[0][..6], [packets[0][0], 0, 0, 0, 1, 20]);
        assert_eq!(packets[0][0] & 0xf0, 0xc0, "a long header of an Initial");
    }

    #[test]
    fn a_packet_brings_two_hundred_pieces() {
        let (mut nth, client) = (0, InitialSealer::new(1));
        assert!(crumbs(&mut nth, client.room()).len() / 5 > 200);
        assert!(nth > 200);
    }
}
