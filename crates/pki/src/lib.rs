//! Keys, certificates, trust bundles and the verification of peers.
