//! Export objects: one for each Service that somebody wants to export.

use std::collections::BTreeSet;

use adit_core::name::ServiceName;

use super::{Change, Memory, Now, Plan, Write, about_service, nodes, ours};
use crate::api::{Export, Status};
use crate::controller::conditions;
use crate::controller::exports::{Exports, Resolved, Verdict};
use crate::controller::world::World;

pub(super) fn plan(
    world: &World,
    now: &Now<'_>,
    exports: &Exports,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let mut named = BTreeSet::new();
    for (service, resolved) in &exports.all {
        let name = resolved.spec.service.object_name();
        if !resolved.verdict.good {
            let about = about_service(world, service);
            plan.complain(about, resolved.verdict.reason, &resolved.verdict.message);
        }
        let linked = linked(service, resolved, now);
        if let Some(verdict) = linked.as_ref().filter(|verdict| !verdict.good) {
            plan.complain(about_service(world, service), verdict.reason, &verdict.message);
        }
        let refusing = nodes::refusing(now, "export", &service.to_string());
        if let Some(refusing) = &refusing {
            let about = about_service(world, service);
            plan.complain(about, "CallersRefused", &refusing.message);
        }
        let told = (linked.as_ref(), refusing.as_ref());
        let change = one(world, now, (&name, resolved), told, memory, plan);
        plan.writes.extend(change.map(Write::Export));
        named.insert(name);
    }
    for (name, stored) in &world.exports {
        if !named.contains(name) && !exports.is_kept(world, stored) {
            plan.writes.push(Write::Export(Change::Delete(stored.clone())));
        }
    }
}

/// True where every cluster that an export is granted to is linked; `None` where it is granted to none.
fn linked(service: &ServiceName, wanted: &Resolved, now: &Now<'_>) -> Option<Verdict> {
    let granted: BTreeSet<&str> = wanted.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
    let is_linked =
        |cluster: &&str| now.config.links.iter().any(|l| l.cluster.as_str() == *cluster);
    let (linked, strangers): (Vec<&str>, Vec<&str>) = granted.into_iter().partition(is_linked);
    if strangers.is_empty() {
        let message = || format!("{service} is exported to {}", linked.join(", "));
        return (!linked.is_empty()).then(|| Verdict::good("Linked", message()));
    }
    let strangers = strangers.join(", ");
    let message = format!(
        "{service} is granted to {strangers}, and there is no link to {strangers}: `adit link` makes one, and \
         `adit export {service} --remove` takes the export back"
    );
    Some(Verdict::bad("NotLinked", message))
}

fn one(
    world: &World,
    now: &Now<'_>,
    (name, wanted): (&str, &Resolved),
    (linked, refusing): (Option<&Verdict>, Option<&Verdict>),
    memory: &mut Memory,
    plan: &mut Plan,
) -> Option<Change<Export>> {
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
    let fresh = match linked {
        Some(linked) => conditions::set(&fresh, "Linked", linked, generation, &now.text()),
        None => conditions::clear(&fresh, "Linked"),
    };
    let told = nodes::Told { object: format!("Export {name}"), generation, kind: "Refusing", now };
    let fresh = told.set(&fresh, refusing, memory, plan);
    (fresh != conditions).then(|| {
        let status = Some(Status { conditions: fresh });
        Change::Status(Box::new(Export { status, ..(**stored).clone() }))
    })
}
