//! `whenEmpty` of an export: whether streams wait for the first backend, and within which bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use adit_core::snapshot::{HoldLimits, Hop};

use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=HoldLimits::MAX_TIMEOUT;
const STREAMS: RangeInclusive<u32> = 1..=HoldLimits::MAX_STREAMS;

/// Reads the key of an export that a stream may enter as `hop` says.
pub(super) fn when_empty(
    fields: &mut MapReader<'_>,
    hop: Option<Hop>,
) -> Option<Option<HoldLimits>> {
    let Some(item) = fields.optional("whenEmpty") else { return Some(None) };
    let hold = if item.is_map() {
        limits(&item).map(Some)
    } else {
        let words = [("refuse", None), ("hold", Some(HoldLimits::default()))];
        item.value(|text| value::choice(text, &words))
    };
    if hold.is_some_and(|hold| hold.is_some()) && hop == Some(Hop::SameNode) {
        let message = "hold needs hop: any, since the first backend may come to any node";
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
        return None;
    }
    hold
}

fn limits(item: &ValueReader<'_>) -> Option<HoldLimits> {
    let mut fields = item.fields()?;
    let timeout = fields.required("hold", "a duration, such as 60s");
    let streams = fields.optional("streams");
    fields.finish();
    let timeout = timeout?.value(|text| value::duration(text, &TIMEOUT));
    let streams = match streams {
        Some(item) => item.number(|text| value::number(text, &STREAMS)),
        None => Some(HoldLimits::default().streams),
    };
    Some(HoldLimits { timeout: timeout?, streams: streams? })
}
