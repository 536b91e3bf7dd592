//! Kubernetes: what is watched and what is written.
//!
//! The place of all code that knows the Kubernetes API, so that neither the data path nor the file-driven
//! node ever depends on it. Nothing is here yet: a node runs from its file. What comes here turns Pods,
//! Services and EndpointSlices into the same [`adit_core::snapshot::Snapshot`] that the file makes, and
//! certificate requests into identities of [`adit_pki`].
