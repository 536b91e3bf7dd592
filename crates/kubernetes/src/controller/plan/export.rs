//! Export objects: one for each Service that somebody wants to export.

use std::collections::BTreeSet;

use super::{Change, Now, Plan, Write, about_service, ours};
use crate::api::{Export, Status};
use crate::controller::conditions;
use crate::controller::exports::{Exports, Resolved};
use crate::controller::world::World;

pub(super) fn plan(world: &World, now: &Now<'_>, exports: &Exports, plan: &mut Plan) {
    let mut named = BTreeSet::new();
    for (service, resolved) in &exports.all {
        let name = resolved.spec.service.object_name();
        if !resolved.verdict.good {
            let about = about_service(world, service);
            plan.complain(about, resolved.verdict.reason, &resolved.verdict.message);
        }
        plan.writes.extend(one(world, now, &name, resolved).map(Write::Export));
        named.insert(name);
    }
    for (name, stored) in &world.exports {
        if !named.contains(name) && !exports.is_kept(world, stored) {
            plan.writes.push(Write::Export(Change::Delete(stored.clone())));
        }
    }
}

fn one(world: &World, now: &Now<'_>, name: &str, wanted: &Resolved) -> Option<Change<Export>> {
    let spec = wanted.spec.clone();
    let Some(stored) = world.exports.get(name) else {
        let object = Export { metadata: ours(world, name), spec, status: None };
        return Some(Change::Create(Box::new(object)));
    };
    if stored.spec != spec {
        return Some(Change::Replace(Box::new(Export { spec, ..(**stored).clone() })));
    }
    let conditions = Status::conditions(stored.status.as_ref());
    let generation = stored.metadata.generation;
    let fresh = conditions::set(conditions, "Valid", &wanted.verdict, generation, &now.text());
    (fresh != conditions).then(|| {
        let status = Some(Status { conditions: fresh });
        Change::Status(Box::new(Export { status, ..(**stored).clone() }))
    })
}
