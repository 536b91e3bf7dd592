//! State: views of clusters, published and subscribed to.
//!
//! * [`publisher`]: the views that are published. * [`publish_stream`]: one stream to one subscriber.
//! * [`subscriber`]: the subscription to a linked cluster's view. * [`receive_budget`]: how much of it is
//!   read. * [`views`]: the views that were received last.
//!
//! `adit_core` makes an announcement, encodes it and decides which source is best; here it is moved.

pub(super) mod publish_stream;
pub(super) mod publisher;
mod receive_budget;
pub(super) mod subscriber;
pub(super) mod views;
