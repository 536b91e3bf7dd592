//! Counts of refused connections that never fall while connections are refused, though the series that they are the sum
//! of end one by one.

use std::collections::BTreeMap;

use super::NodesSummary;

/// Kind, name and code of an item.
type ItemKey = (String, String, String);

/// The counts that were told of each item, from one summary to the next. No more are kept than a summary has items.
#[derive(Debug, Default)]
pub struct RefusalTotals(BTreeMap<ItemKey, ToldCount>);

#[derive(Debug)]
struct ToldCount {
    total: u64,
    /// The sum that nodes reported, when it was told.
    sum: u64,
    /// Since when, RFC 3339 in UTC.
    since: String,
}

impl RefusalTotals {
    /// Raises each count of a summary to what was told before and what has come since.
    pub fn apply(&mut self, summary: &mut NodesSummary) {
        let mut told = BTreeMap::new();
        for item in &mut summary.items {
            let Some(refused) = &mut item.refused else { continue };
            let key = (item.kind.clone(), item.name.clone(), item.code.clone());
            let sum = refused.count;
            let since = refused.since.clone();
            let mut count = self.0.remove(&key).unwrap_or(ToldCount { total: sum, sum, since });
            count.total = count.total.saturating_add(sum.saturating_sub(count.sum));
            count.sum = sum;
            // Both are RFC 3339 in UTC.
            count.since = count.since.min(refused.since.clone());
            (refused.count, refused.since) = (count.total, count.since.clone());
            told.insert(key, count);
        }
        self.0 = told;
    }
}
