//! Handshakes in memory, as QUIC runs them: rustls against rustls, without sockets, with a clock that
//! stands still.

use std::sync::Arc;

use adit_pki::UnixTime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::quic::{ClientConnection, ServerConnection, Version};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::forge::{ForgedCert, NOW, at};

/// A clock that stands at a time.
#[derive(Debug)]
struct FixedClock(UnixTime);

impl TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// The clock of all handshakes here.
pub(crate) fn clock() -> Arc<dyn TimeProvider> {
    clock_at(at(NOW))
}

/// A clock that stands elsewhere.
pub(crate) fn clock_at(time: UnixTime) -> Arc<dyn TimeProvider> {
    Arc::new(FixedClock(time))
}

/// The side that gave up a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeSide {
    Client,
    Server,
}

/// Both ends of a finished handshake.
#[derive(Debug)]
pub(crate) struct FinishedHandshake {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    /// The first bytes that the client sent.
    pub(crate) hello: Vec<u8>,
}

/// Runs a handshake to its end.
pub(crate) fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<FinishedHandshake, (HandshakeSide, rustls::Error)> {
    let name = "peer.invalid".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), Version::V1, name, vec![]).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server), Version::V1, vec![]).unwrap();
    let mut hello = Vec::new();
    // More rounds than a handshake has, so that what comes after it (tickets) is carried across, too.
    for _ in 0..8 {
        for bytes in flights(|buffer| client.write_hs(buffer).is_some()) {
            if hello.is_empty() {
                hello.clone_from(&bytes);
            }
            server.read_hs(&bytes).map_err(|e| (HandshakeSide::Server, e))?;
        }
        for bytes in flights(|buffer| server.write_hs(buffer).is_some()) {
            client.read_hs(&bytes).map_err(|e| (HandshakeSide::Client, e))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(FinishedHandshake { client, server, hello })
}

/// All that a side has to say now, cut where its keys change.
fn flights(mut write: impl FnMut(&mut Vec<u8>) -> bool) -> Vec<Vec<u8>> {
    let mut flights = Vec::new();
    loop {
        let mut bytes = Vec::new();
        let keys_changed = write(&mut bytes);
        if bytes.is_empty() && !keys_changed {
            return flights;
        }
        flights.push(bytes);
    }
}

/// A client that presents `forged` and believes everybody.
pub(crate) fn impostor_client(forged: &ForgedCert) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), clock())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(presents(forged));
    config.alpn_protocols = vec![b"adit".to_vec()];
    Arc::new(config)
}

/// A server that presents `forged` and believes everybody.
pub(crate) fn impostor_server(forged: &ForgedCert) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider(), clock())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Gullible))
        .with_cert_resolver(presents(forged));
    config.alpn_protocols = vec![b"adit".to_vec()];
    Arc::new(config)
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Does not ask whether key and certificate belong together: some keys cannot even sign.
fn presents(forged: &ForgedCert) -> Arc<SingleCertAndKey> {
    let key = aws_lc_rs::sign::any_supported_type(&forged.key).unwrap();
    Arc::new(CertifiedKey::new(forged.chain.clone(), key).into())
}

/// Believes everybody.
#[derive(Debug)]
pub(crate) struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
