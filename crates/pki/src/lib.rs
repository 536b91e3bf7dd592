//! Keys, certificates, trust bundles, and the one decision whether a peer is who it says.
//!
//! Every cluster is a SPIFFE trust domain with an authority of its own; clusters exchange bundles, never
//! keys, and there is no shared root. This crate never reads the clock (it takes `now`), knows no sockets,
//! and touches files only in [`files`].
//!
//! * [`verify`] decides whether a certificate is a peer's, by [`trust`] (the bundles of known clusters) and [`deny`]
//!   (peers that are refused all the same).
//! * [`tls`] configures TLS between two nodes; [`identity`] is the certificate and key that a node presents.
//! * [`authority`] makes a cluster's authority and issues nodes' certificates; [`SigningRequest`] asks for one.
//! * [`invitation`]: a key with which another cluster may ask to be linked.
//! * [`bundle`] is what clusters hand to each other; [`inspect`] shows certificates to people.

pub mod authority;
pub mod bundle;
mod crypto;
mod current;
pub mod deny;
mod der;
mod fields;
pub mod files;
mod fingerprint;
pub mod identity;
pub mod inspect;
pub mod invitation;
pub mod pem;
mod request;
pub mod time;
pub mod tls;
pub mod trust;
pub mod verify;

pub use rustls_pki_types::UnixTime;

pub use self::authority::{ClusterAuthority, KeyKind};
pub use self::bundle::TrustBundle;
pub use self::current::Current;
pub use self::deny::DenyList;
pub use self::fingerprint::BundleFingerprint;
pub use self::identity::Identity;
pub use self::invitation::{InvitationKey, InvitationSecret, InvitationToken, InvitedKeys};
pub use self::request::SigningRequest;
pub use self::trust::{Trust, TrustBundles};
pub use self::verify::{CertUsage, PeerIdentity, PeerVerifier, RefusalCount, VerifyError, peer_id};
