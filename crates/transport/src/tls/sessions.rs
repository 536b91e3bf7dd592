//! TLS sessions whose keys count the pieces of what they decrypt: see [`super::packet_pieces`].

use std::any::Any;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
    Session, UnsupportedVersion,
};
use quinn::{ConnectError, ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;

use super::packet_pieces::{ConnectionPieces, PacketKind};

/// TLS for connections that peers begin. All that are accepted with a clone share its counts: each needs one of its own.
pub(crate) struct BoundedServerConfig {
    pub(crate) inner: Arc<QuicServerConfig>,
    pub(crate) pieces: Arc<ConnectionPieces>,
}

/// TLS for one connection that this side begins.
pub(crate) struct BoundedClientConfig {
    pub(crate) inner: Arc<QuicClientConfig>,
    pub(crate) pieces: Arc<ConnectionPieces>,
}

struct BoundedSession {
    inner: Box<dyn Session>,
    pieces: Arc<ConnectionPieces>,
    /// The keys of handshake packets have been made; those that follow are for what comes after the handshake.
    has_handshake_keys: bool,
}

fn count_in(pieces: &Arc<ConnectionPieces>, kind: PacketKind, keys: Keys) -> Keys {
    Keys { header: keys.header, packet: pieces.count_in(kind, keys.packet) }
}

impl ServerConfig for BoundedServerConfig {
    /// For first packets, before it is known to which connection they belong: each is counted alone.
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let keys = ServerConfig::initial_keys(&*self.inner, version, dst_cid)?;
        Ok(count_in(&Arc::default(), PacketKind::Handshake, keys))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let inner = ServerConfig::start_session(Arc::clone(&self.inner), version, params);
        let pieces = Arc::clone(&self.pieces);
        Box::new(BoundedSession { inner, pieces, has_handshake_keys: false })
    }
}

impl ClientConfig for BoundedClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner =
            ClientConfig::start_session(Arc::clone(&self.inner), version, server_name, params)?;
        let pieces = Arc::clone(&self.pieces);
        Ok(Box::new(BoundedSession { inner, pieces, has_handshake_keys: false }))
    }
}

impl Session for BoundedSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let keys = self.inner.initial_keys(dst_cid, side);
        count_in(&self.pieces, PacketKind::Handshake, keys)
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
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buf)?;
        let is_after = std::mem::replace(&mut self.has_handshake_keys, true);
        let kind = if is_after { PacketKind::Stream } else { PacketKind::Handshake };
        Some(count_in(&self.pieces, kind, keys))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.inner.next_1rtt_keys()?;
        Some(self.pieces.count_in(PacketKind::Stream, keys))
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
