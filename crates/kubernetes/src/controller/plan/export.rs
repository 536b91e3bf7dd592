//! Export objects: one for each Service that somebody wants to export.

mod ready;

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::name::ServiceName;

pub(super) use self::ready::ExportHistory;
use self::ready::ExportVerdict;
use super::{Change, Memory, Now, Plan, Write, about_service, nodes, ours};
use crate::api::{Export, Status};
use crate::controller::conditions;
use crate::controller::exports::{Exports, Resolved, Verdict};
use crate::controller::world::World;

/// The condition about its backends.
const READY: &str = "Ready";

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
        let is_usable =
            !resolved.spec.allow.is_empty() && linked.as_ref().is_none_or(|verdict| verdict.good);
        let ready = Backends::of(is_usable, world.exports.get(&name), service, now, memory, plan);
        if let Backends::Are(ExportVerdict { verdict, note: Some(note) }) = &ready {
            plan.complain(about_service(world, service), verdict.reason, note);
        }
        let told =
            ExportFindings { linked: linked.as_ref(), refusing: refusing.as_ref(), ready: &ready };
        let change = one(world, now, (&name, resolved), &told, memory, plan);
        plan.writes.extend(change.map(Write::Export));
        named.insert(name);
    }
    memory.exports.keep(|service| exports.all.contains_key(service));
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

/// What is said of an export beside its own verdict.
struct ExportFindings<'a> {
    linked: Option<&'a Verdict>,
    refusing: Option<&'a Verdict>,
    ready: &'a Backends,
}

/// What is known of an export's backends.
enum Backends {
    /// Nothing new: what is said of them stays.
    Unknown,
    /// Nobody could use them.
    Unused,
    Are(ExportVerdict),
}

impl Backends {
    fn of(
        is_usable: bool,
        stored: Option<&Arc<Export>>,
        service: &ServiceName,
        now: &Now<'_>,
        memory: &mut Memory,
        plan: &mut Plan,
    ) -> Self {
        if !is_usable {
            return Self::Unused;
        }
        let conditions = Status::conditions(stored.and_then(|export| export.status.as_ref()));
        let before = conditions::find(conditions, READY).map(|c| c.status == "True");
        let seen = memory.exports.see(now, service, before, plan);
        seen.map_or(Self::Unknown, Self::Are)
    }
}

fn one(
    world: &World,
    now: &Now<'_>,
    (name, wanted): (&str, &Resolved),
    told: &ExportFindings<'_>,
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
    let fresh = match told.linked {
        Some(linked) => conditions::set(&fresh, "Linked", linked, generation, &now.text()),
        None => conditions::clear(&fresh, "Linked"),
    };
    let by_nodes = |kind| {
        let object = format!("Export {name}");
        nodes::Told { object, generation, kind, is_vague: false, now }
    };
    let fresh = by_nodes("Refusing").set(&fresh, told.refusing, memory, plan);
    let ready = by_nodes(READY);
    let fresh = match told.ready {
        Backends::Unknown => fresh,
        Backends::Unused => ready.set(&fresh, None, memory, plan),
        Backends::Are(said) => ready.set(&fresh, Some(&said.verdict), memory, plan),
    };
    (fresh != conditions).then(|| {
        let status = Some(Status { conditions: fresh });
        Change::Status(Box::new(Export { status, ..(**stored).clone() }))
    })
}
