//! The keys of an export that only a Service which is named can have: `as` and `makeAlias`, another name for
//! other clusters, and `whenEmpty: hold`.

use adit_core::name::ServiceName;
use adit_core::snapshot::HoldLimits;

use super::super::cross_refs::{CrossRefs, UniqueNames};
use super::super::services;
use crate::cluster::{ExportAlias, ServiceSelection};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

/// The keys of an export that are about its alias.
pub(super) struct AliasTerms<'a> {
    pub(super) alias: Option<ExportAlias>,
    pub(super) make_alias: bool,
    /// Where `as` stands.
    item: Option<ValueReader<'a>>,
}

/// Reads them; `None` if one is wrong.
pub(super) fn alias_terms<'a>(fields: &mut MapReader<'a>) -> Option<AliasTerms<'a>> {
    let item = fields.optional("as");
    let make = fields.optional("makeAlias");
    let alias = match &item {
        Some(item) => item.value(value::name::<ExportAlias>).map(Some),
        None => Some(None),
    };
    let make_alias = make.as_ref().map_or(Some(false), ValueReader::boolean);
    if let (Some(make), Some(true), None) = (&make, make_alias, &item) {
        let message = "makeAlias without as: there is no other name to make a Service of";
        make.error(ValueProblem::new(ProblemKind::MissingKey, message));
        return None;
    }
    Some(AliasTerms { alias: alias?, make_alias: make_alias?, item })
}

impl AliasTerms<'_> {
    /// Refuses an alias of Services that are selected: one name would stand for several.
    pub(super) fn reject_selection(&self) {
        if let Some(item) = &self.item {
            let message =
                "one alias cannot stand for all Services of a selection: name one (service)";
            item.error(ValueProblem::new(ProblemKind::Conflict, message));
        }
    }
}

/// A Service that is exported, not imported, and under a name that no other export has.
pub(super) fn claim(
    item: &ValueReader<'_>,
    service: &ServiceName,
    refs: &CrossRefs,
    (taken, alias): (&mut UniqueNames, Option<&AliasTerms<'_>>),
) {
    let alias =
        alias.and_then(|terms| Some((terms.item.as_ref()?, &terms.alias.as_ref()?.service)));
    let Some((at, name)) = alias else {
        services::claim_export(item, service, refs, taken);
        return;
    };
    services::claim_export(at, name, refs, taken);
    services::reject_imported(item, service, refs);
}

/// Refuses to have streams wait for Services that are selected: those are entered at their pods' nodes alone.
pub(super) fn reject_hold(
    item: &ValueReader<'_>,
    hold: Option<HoldLimits>,
    services: Option<&ServiceSelection>,
) {
    if let (Some(_), Some(ServiceSelection::Selected { .. })) = (hold, services) {
        let message = "whenEmpty: hold is for a Service that is named (service)";
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
    }
}
