//! The decisions of Adit, without any of their effects.
//!
//! Everything here is a function of its arguments: no clock, no randomness, no files, no sockets. The
//! other crates ask, and act on the answer.
//!
//! * [`name`], [`spiffe`], [`code`]: the words that everything else is made of.
//! * [`snapshot`]: what a node believes; the data path reads nothing else. [`shared_map`]: why a copy of it
//!   costs nothing.
//! * [`grant`]: what is allowed to whom; [`policy`]: who may use what. [`routing`]: which hub, node or
//!   backend. [`announce`]: what other clusters receive. [`fault`]: why a backend is not ready. [`admission`]: who may be a peer. [`deny_list`]: who may
//!   not, whatever he proves. [`address`]: addresses that no workload can have. [`prefix`]: ranges of addresses. [`backoff`], [`throttle`]:
//!   how long to wait.
//! * [`doctor`]: from what was seen of an import to the first thing that is in its way.
//! * [`invitation`]: what a command and a node say to each other while clusters join by invitation.
//! * [`text`]: numbers with their nouns, sizes and times, and text of strangers made safe to show.
//! * [`traffic`]: who talks with whom, and the rates between two looks at a node.
//! * [`wire`]: every byte that two nodes exchange, and what is refused.

pub mod address;
pub mod admission;
pub mod announce;
pub mod backoff;
pub mod code;
pub mod deny_list;
pub mod doctor;
pub mod fault;
pub mod grant;
pub mod invitation;
pub mod name;
pub mod policy;
pub mod prefix;
pub mod routing;
pub mod shared_map;
pub mod snapshot;
pub mod spiffe;
pub mod text;
pub mod throttle;
pub mod traffic;
pub mod wire;
