//! An export or a link by itself: the hops that one cluster can say, without a caller.

use super::facts::{CallerNode, ConditionFacts, DoctorFacts, ExportObject};
use super::{Diagnosis, DoctorHop, DoctorSubject, HopOutcome, Walk, here, link, list, there};

/// The most grants that a sentence names.
const MAX_SHOWN: usize = 8;

/// Finds what is wrong with a link, from the side of [`DoctorFacts::here`] and towards [`DoctorFacts::from`]. The word of
/// [`DoctorFacts::node`] is taken before the condition of the object.
#[must_use]
pub fn diagnose_link(facts: &DoctorFacts) -> Diagnosis {
    let mut walk = Walk::new(DoctorSubject::Link, facts);
    here::installation(&mut walk);
    link::peer_installation(&mut walk);
    // Without an installation there is nothing to ask for a link.
    if facts.here.as_ref().is_none_or(|here| here.installation.missing.is_empty()) {
        link::link(&mut walk);
    }
    let us = walk.here().to_owned();
    walk.end(is_up(facts), us)
}

/// Finds what is wrong with an export, from the side of [`DoctorFacts::there`]. It works if the nodes there find that a backend
/// answers: they ask all the time.
#[must_use]
pub fn diagnose_export(facts: &DoctorFacts) -> Diagnosis {
    let mut walk = Walk::new(DoctorSubject::Export, facts);
    link::peer_installation(&mut walk);
    if !walk.has_failed() {
        exported(&mut walk);
        there::backend(&mut walk);
    }
    differing(&mut walk);
    walk.end(is_served(facts), String::new())
}

/// True if a node that was asked has the link up, or, where none was, the Link says so.
pub(super) fn is_up(facts: &DoctorFacts) -> bool {
    if let CallerNode::Answered(node) = &facts.node {
        return node.link.as_ref().is_some_and(|link| link.is_up);
    }
    let condition = facts.here.as_ref().and_then(|here| here.link.as_ref());
    condition.is_some_and(|link| link.is_true)
}

/// True if the nodes find that a backend answers, and somebody may use it.
pub(super) fn is_served(facts: &DoctorFacts) -> bool {
    export(facts).is_some_and(|export| {
        let is_true = |condition: &Option<ConditionFacts>| {
            condition.as_ref().is_some_and(|condition| condition.is_true)
        };
        is_true(&export.ready) && !export.allow.is_empty()
    })
}

fn export(facts: &DoctorFacts) -> Option<&ExportObject> {
    facts.there.as_ref()?.export.as_ref()
}

/// The Service is exported, and for somebody.
fn exported(walk: &mut Walk<'_>) {
    if let Some((seen, mend)) = there::missing_export(walk) {
        return walk.fail(DoctorHop::Export, seen, mend);
    }
    let (from, service) = (walk.from(), &walk.facts.service);
    let Some(export) = export(walk.facts) else { return };
    if export.allow.is_empty() {
        let seen = format!("{from} exports {service}, and nobody may use it");
        let mend = there::export_command(walk);
        return walk.fail(DoctorHop::ExportGrant, seen, mend);
    }
    let mut clusters: Vec<_> = export.allow.iter().map(|(cluster, _)| &**cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let grants: Vec<_> = export.allow.iter().map(|(to, who)| format!("{who} of {to}")).collect();
    let more = match grants.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let grants = list(grants.iter().take(MAX_SHOWN).map(|grant| &**grant));
    walk.good(DoctorHop::Export, format!("{from} exports {service} to {}", list(clusters)));
    walk.good(DoctorHop::ExportGrant, format!("the export is for {grants}{more}"));
}

/// Nodes that do not agree are told of, since some requests are answered and others are not.
fn differing(walk: &mut Walk<'_>) {
    let is_said = walk.findings.iter().any(|finding| finding.hop == DoctorHop::Backend);
    let ready = export(walk.facts).and_then(|export| export.ready.as_ref());
    if let Some(ready) = ready.filter(|ready| !ready.is_true && !is_said) {
        let seen = format!("{} ({})", ready.message, ready.reason);
        let mend = format!("adit status{}    # what each node finds", walk.there_option());
        walk.add(DoctorHop::Backend, HopOutcome::Unknown, seen, Some(mend));
    }
}
