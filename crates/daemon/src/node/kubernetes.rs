//! A node that runs on Kubernetes: what its cluster says becomes what a file would say.
//!
//! * [`mod@prepare`] waits until the cluster has a name and the node a certificate, and starts with what lies on disk
//!   ([`cache`]) while the API server is away.
//! * [`source`] makes configuration and state from what is observed, with [`pod_addresses`] from the machine itself.
//! * [`follow`] passes on each change of the cluster; [`certificate`] renews the certificate; [`local_range`] keeps the
//!   node-local range in the kernel, and [`state_folder`] an eye on the disk.

mod cache;
pub(super) mod certificate;
mod follow;
pub(super) mod local_range;
mod pod_addresses;
mod prepare;
mod source;
pub(super) mod state_folder;
#[cfg(test)]
mod tests;

pub(super) use self::follow::ClusterFollower;
pub(super) use self::prepare::{PreparedNode, prepare};
pub use self::source::KubernetesNodeOptions;
pub(super) use self::source::KubernetesSource;
