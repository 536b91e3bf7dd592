//! The two HTTP servers of a node.
//!
//! * [`control`]: on a Unix socket (0600) or a loopback address; tells everything and changes things. [`probe`] is its
//!   question what would become of a stream, [`traffic`] who talks with whom, [`tap`] streams as they begin and end.
//!   [`invitation`]: what commands that invite other clusters have it do.
//! * [`public`]: read-only, for the kubelet and Prometheus; tells no more than they need.
//!
//! Both run on a thread of their own, so that a node whose data path is busy still answers, and both treat
//! who connects as a stranger: [`serve`] bounds headers, time and the number of connections. The Unix
//! socket's file is [`socket`]'s; [`client`] is what `adit status` asks with.

pub mod answer;
pub mod client;
pub mod control;
pub mod invitation;
pub mod probe;
pub mod public;
pub mod serve;
pub mod socket;
pub mod tap;
pub mod traffic;

#[cfg(test)]
mod tests;
