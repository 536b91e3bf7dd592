//! Keys, certificates, trust bundles, and the one decision whether a peer is who it says.
//!
//! Every cluster is a SPIFFE trust domain with an authority of its own; clusters exchange bundles, never
//! keys, and there is no shared root. This crate never reads the clock (it takes `now`), knows no sockets,
//! and touches files only in [`files`].
//!
//! * [`verify`]: is this certificate a peer's? [`trust`]: whom a node believes. [`deny`]: whom it refuses all the same.
//! * [`tls`]: how two nodes speak TLS. [`identity`]: what a node presents.
//! * [`authority`]: making a cluster's authority and issuing nodes' certificates. [`SigningRequest`]: asking for one.
//! * [`bundle`]: what clusters hand to each other. [`inspect`]: what is in a certificate, for people.

pub mod authority;
pub mod bundle;
mod current;
pub mod deny;
mod der;
mod fields;
pub mod files;
pub mod identity;
pub mod inspect;
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
pub use self::identity::Identity;
pub use self::request::SigningRequest;
pub use self::trust::{Trust, TrustBundles};
pub use self::verify::{CertUsage, PeerIdentity, PeerVerifier, RefusalCount, VerifyError, peer_id};
