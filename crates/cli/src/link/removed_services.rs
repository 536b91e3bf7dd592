//! The effect of a changed link on the Services that were made for it, told before anybody misses
//! them.

use adit_core::name::{ClusterName, ServiceName};
use adit_kubernetes::operator::context::Context;
use adit_kubernetes::operator::edit::EditOutcome;
use adit_kubernetes::operator::made_services;

use crate::output::print;

/// Number of Services that are named.
const MAX_NAMED: usize = 20;

/// Names the Services that were made for imports from `other` and that the change removes, if any.
///
/// # Errors
/// Only if nothing can be printed: somebody who may not list Services is told nothing of them.
pub(super) async fn report_removed(
    context: &Context,
    edited: &EditOutcome,
    other: &ClusterName,
    print_only: bool,
) -> anyhow::Result<()> {
    let (false, Ok((config, _))) = (edited.changes.is_empty(), edited.after.parse()) else {
        return Ok(());
    };
    let Ok(made) = made_services::list_made_services(context, other).await else { return Ok(()) };
    let leaving = made_services::unneeded_services(&config, other, made);
    if leaving.is_empty() {
        return Ok(());
    }
    let text = sentence(&context.name, other, &leaving);
    print(&if print_only { format!("# {}", text.replace("\n  ", "\n#   ")) } else { text })
}

fn sentence(context: &str, other: &ClusterName, leaving: &[ServiceName]) -> String {
    let named: Vec<_> = leaving.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let more = match leaving.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first = named.first().cloned().unwrap_or_default();
    format!(
        "context {context}: the Services that were made for imports from {other} go: {}{more}\n  hint: `adit import \
         {first} --from {other}` keeps one\n",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_that_go_are_named_up_to_a_bound() {
        let services = |count: usize| -> Vec<ServiceName> {
            (0..count).map(|n| format!("team-a/s{n}").parse().unwrap()).collect()
        };
        let bank = "bank".parse().unwrap();
        let two = sentence("edge", &bank, &services(2));
        assert!(two.contains("from bank go: team-a/s0, team-a/s1\n"), "{two}");
        assert!(two.contains("`adit import team-a/s0 --from bank` keeps one"), "{two}");
        assert!(sentence("edge", &bank, &services(25)).contains("s19 and 5 more\n"));
    }
}
