//! What Adit decides, without doing any of it.
//!
//! Everything here is a function of its arguments: no clock, no randomness, no files, no sockets. The
//! other crates ask, and act on the answer.
//!
//! * [`name`], [`spiffe`]: the words that everything else is made of.

pub mod name;
pub mod spiffe;
