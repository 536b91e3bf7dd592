//! The facts for `adit doctor`, as a cluster's API server and its nodes show them.
//!
//! Decides nothing: [`adit_core::doctor::diagnose`] does. What `adit status` reads is read by the same functions
//! ([`super::status`]). What may not be read is left out, and never taken for a fault.
//!
//! * [`ClusterSite`]: a cluster that was asked, and Adit in it. `service`: a Service and what is behind it. `caller`: who
//!   calls. `policies`: NetworkPolicies. `exec`: a question to a node's daemon.
//!   `early`: Agents of kagent that were made before those that they name.

mod caller;
mod early;
mod exec;
mod policies;
mod service;
mod site;

pub use self::site::ClusterSite;

use super::context::ContextError;

/// Returns `None` if reading is forbidden or there is no such kind: not everybody may read everything.
fn if_readable<T>(read: Result<T, ContextError>) -> Result<Option<T>, ContextError> {
    match read {
        Err(error) if error.is_forbidden() || error.is_not_found() => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
pub(super) mod tests;
