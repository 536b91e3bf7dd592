//! Exports that ask for one name: which of them has it.
//!
//! A rule that names a Service gives any name. Of the others the one that has the name keeps it. A name
//! that is free goes to the Service of that name; an alias gets it only if there is no such Service,
//! whose owner may want to export it, and of several aliases the oldest Service's.

use std::collections::BTreeMap;

use adit_core::name::ServiceName;
use kube::ResourceExt;

use super::offer::{ExportDecisions, ExportOffer, ExportOrigin};
use crate::api::ServiceRef;
use crate::controller::cluster_state::ClusterState;

/// Adds the export of a Service under its own name.
pub(crate) fn add_under_own_name(
    offers: &mut BTreeMap<ServiceName, ExportOffer>,
    offer: ExportOffer,
    exports: &mut ExportDecisions,
) {
    let name = offer.exported_name().clone();
    match offers.get(&name) {
        Some(holder) => refuse(exports, &offer.backend, &name, &holder.backend),
        None => drop(offers.insert(name, offer)),
    }
}

/// Adds exports by annotation under other names, after all those under own names.
pub(crate) fn add_aliased(
    offers: &mut BTreeMap<ServiceName, ExportOffer>,
    mut aliased: Vec<ExportOffer>,
    state: &ClusterState,
    exports: &mut ExportDecisions,
) {
    let age = |offer: &ExportOffer| {
        let service = state.services.get(&offer.backend);
        let made = service.and_then(|s| s.creation_timestamp()).map(|time| time.0);
        (made, offer.backend.clone())
    };
    aliased.sort_by_cached_key(age);
    for offer in aliased {
        let name = offer.exported_name().clone();
        let stored = state.exports.get(&ServiceRef::from(&name).object_name());
        let has_it = stored.is_some_and(|e| *e.spec.backend() == ServiceRef::from(&offer.backend));
        let holder = offers.get(&name).map(|holder| (holder.origin, holder.backend.clone()));
        match holder {
            Some((ExportOrigin::Implied, other)) if has_it => {
                refuse(exports, &other, &name, &offer.backend);
                offers.insert(name, offer);
            }
            Some((_, other)) => refuse(exports, &offer.backend, &name, &other),
            None if !has_it && name != offer.backend && state.services.contains_key(&name) => {
                let message = format!(
                    "{} is not exported as {name}: there is a Service of that name, which can be exported itself",
                    offer.backend
                );
                exports.name_taken.insert(offer.backend, message);
            }
            None => drop(offers.insert(name, offer)),
        }
    }
}

fn refuse(
    exports: &mut ExportDecisions,
    service: &ServiceName,
    name: &ServiceName,
    holder: &ServiceName,
) {
    let message =
        format!("{service} is not exported as {name}: {holder} is exported under that name");
    exports.name_taken.insert(service.clone(), message);
}
