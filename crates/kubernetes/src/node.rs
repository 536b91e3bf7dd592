//! The node's side: what it watches, and how it asks for its certificate.
//!
//! * [`observed`]: all that a node has seen of its cluster, as one value that is also cached on its
//!   disk; [`watch`] keeps it up to date.
//! * [`state`]: turns that value into what the data path understands; [`backends`] decides which
//!   EndpointSlices are believed.
//! * [`certificate`]: asks the controller for a certificate.
//! * `reader_pods`: whose pods may read the node's metrics.
//! * `location` and `installation`: where the node runs, and whether Adit still does.

mod backends;
pub mod certificate;
mod installation;
mod location;
pub mod observed;
mod reader_pods;
pub mod state;
pub mod watch;

pub use self::installation::{installation_uid, is_uninstalled};
pub use self::location::NodeLocation;
pub use self::reader_pods::{METRICS_LABEL, ReaderPods};
