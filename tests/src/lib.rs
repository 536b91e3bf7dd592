//! What the suites share: networks that are simulated, and clusters that exist only in a test.
//!
//! Nothing here is a test. [`net`] has two implementations of the transport's seam, [`identity`] makes
//! nodes that can prove themselves to each other.

pub mod identity;
pub mod net;
