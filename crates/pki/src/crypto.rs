//! The cryptography that nodes use: the cipher suites and key exchanges of aws-lc-rs that two nodes need.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// aws-lc-rs with what two nodes need, and never the process's default: nobody else's choice of
/// features changes how nodes speak.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            // AES-128 first: every machine that Adit runs on has AES instructions, and QUIC's Initial
            // packets need this suite anyway.
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            // The first one's share is sent at once, so what is recorded today stays closed to a
            // quantum computer. X25519 alone is for a build of a peer that lacks ML-KEM.
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}
