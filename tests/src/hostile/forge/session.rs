//! A client's TLS that has its packets changed before they are sealed.

use std::any::Any;
use std::sync::Arc;

use bytes::BytesMut;
use quinn::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn::{ConnectError, ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::crypto::CryptoError;
use quinn_proto::transport_parameters::TransportParameters;

use super::{Frame, Rewrite, frames, put_varint, varint};

/// A client's TLS whose packets are rewritten once the handshake is done, or whose handshake never goes on.
pub struct Forger {
    /// The honest one.
    pub inner: Arc<quinn::crypto::rustls::QuicClientConfig>,
    /// The change that is made to packets.
    pub rewrite: Option<Rewrite>,
    /// The client says hello, and nothing more.
    pub mute: bool,
    /// True if the client sends whatever windows it is given, and takes none of the connection IDs that come later: for packets of
    /// which the other side sees no stream.
    pub is_boundless: bool,
}

impl ClientConfig for Forger {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(ForgedSession { inner, config: self, said: 0 }))
    }
}

struct ForgedSession {
    inner: Box<dyn Session>,
    config: Arc<Forger>,
    /// The number of sets of keys that came out of the handshake: its own, then those of the connection.
    said: usize,
}

/// The parameters of a server that are given, with windows of a terabyte (RFC 9000 §18).
fn boundless(given: &TransportParameters) -> TransportParameters {
    const MAX_DATA: u64 = 4;
    const MAX_STREAM_DATA: u64 = 6;
    let (mut bytes, mut out, mut at) = (Vec::new(), Vec::new(), 0);
    given.write(&mut bytes);
    while let Some(id) = varint(&bytes, &mut at) {
        let len = varint(&bytes, &mut at).unwrap_or(0) as usize;
        put_varint(&mut out, id);
        if matches!(id, MAX_DATA | MAX_STREAM_DATA) {
            out.push(8);
            put_varint(&mut out, 1 << 40);
        } else {
            put_varint(&mut out, len as u64);
            out.extend_from_slice(&bytes[at..at + len]);
        }
        at += len;
    }
    TransportParameters::read(Side::Client, &mut &out[..]).unwrap_or(*given)
}

struct Sealer {
    inner: Box<dyn PacketKey>,
    /// Connection IDs that are given are not looked at.
    ignores_ids: bool,
    rewrite: Rewrite,
}

impl ForgedSession {
    fn seal(&self, key: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        match &self.config.rewrite {
            Some(rewrite) => Box::new(Sealer {
                inner: key,
                ignores_ids: self.config.is_boundless,
                rewrite: Arc::clone(rewrite),
            }),
            None => key,
        }
    }
}

impl Session for ForgedSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.config.mute || self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if self.config.mute { Ok(false) } else { self.inner.read_handshake(buf) }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let given = self.inner.transport_parameters()?;
        Ok(given.map(|params| if self.config.is_boundless { boundless(&params) } else { params }))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buf)?;
        self.said += 1;
        if self.said < 2 {
            return Some(keys);
        }
        let KeyPair { local, remote } = keys.packet;
        let packet = KeyPair { local: self.seal(local), remote: self.seal(remote) };
        Some(Keys { header: keys.header, packet })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.inner.next_1rtt_keys()?;
        Some(KeyPair { local: self.seal(local), remote: self.seal(remote) })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

impl PacketKey for Sealer {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.inner.tag_len();
        (self.rewrite)(&mut buf[header_len..end]);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)?;
        const NEW_CONNECTION_ID: u64 = 0x18;
        for Frame { at, kind, .. } in frames(payload) {
            if self.ignores_ids && kind == NEW_CONNECTION_ID {
                payload[at].fill(0);
            }
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}
