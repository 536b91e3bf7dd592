//! The metric of refused flows by source. Unlike what status shows ([`super::refusals`]) a series of it is never taken
//! back, so the sources that get one are bounded for the life of the process, and all others are counted as one.
//!
//! Sources of another cluster get none: their names are for that cluster to choose.

use std::collections::{BTreeSet, HashMap};

use ::metrics::Counter;
use adit_core::code::Code;
use adit_core::name::{ClusterName, ServiceName};
use adit_core::spiffe::Workload;

use super::direction::Direction;
use super::metrics;
use super::refusals::RefusalKey;

/// The most sources of one service that have series of their own.
const MAX_OF_SERVICE: usize = 8;
/// The most sources of all services.
const MAX_SOURCES: usize = 256;
/// The label of all others.
const OTHER: &str = "other";

/// A service with the cluster that is linked, and which way streams to it go.
type ServiceKey = (Direction, ServiceName, ClusterName);

/// The counts, by service, source as it is labelled, and code; and the sources that have a label.
#[derive(Debug, Default)]
pub(super) struct RefusedSources {
    counts: HashMap<(ServiceKey, String, Code), Counter>,
    named: HashMap<ServiceKey, BTreeSet<Workload>>,
    total: usize,
}

impl RefusedSources {
    /// Counts a refusal. A number that only a peer knows is to be told as one.
    pub(super) fn count(&mut self, (direction, cluster, target, source): &RefusalKey, code: Code) {
        let service = (*direction, target.service.clone(), cluster.clone());
        let label = match source {
            Some(source) if *direction == Direction::Outbound => self.label(&service, source),
            Some(_) | None => String::new(),
        };
        let count = self.counts.entry((service, label, code)).or_insert_with_key(
            |((direction, service, link), source, code)| {
                metrics::refused(*direction, &service.to_string(), link.as_str(), (source, *code))
            },
        );
        count.increment(1);
    }

    fn label(&mut self, service: &ServiceKey, source: &Workload) -> String {
        let named = self.named.entry(service.clone()).or_default();
        if !named.contains(source) {
            if named.len() >= MAX_OF_SERVICE || self.total >= MAX_SOURCES {
                return OTHER.to_owned();
            }
            named.insert(source.clone());
            self.total += 1;
        }
        format!("{}/{}", source.namespace, source.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusals::tests::asker;
    use super::*;

    fn sources(refused: &RefusedSources, service: usize) -> Vec<&str> {
        let name = format!("agents/a{service}");
        let of = refused.counts.keys().filter(|((_, s, _), ..)| s.to_string() == name);
        let mut sources: Vec<&str> = of.map(|(_, source, _)| source.as_str()).collect();
        sources.sort_unstable();
        sources
    }

    #[test]
    fn series_are_bounded_whoever_asks_for_what() {
        let mut refused = RefusedSources::default();
        for source in 0..1000 {
            refused.count(&asker(Direction::Outbound, 0, Some(source)), Code::Denied);
        }
        refused.count(&asker(Direction::Outbound, 0, None), Code::SourceUnknown);
        let named = sources(&refused, 0);
        assert_eq!((named.len(), named[0], named[9]), (10, "", OTHER));
        for service in 1..1000 {
            for source in 0..2 {
                refused.count(&asker(Direction::Outbound, service, Some(source)), Code::Denied);
            }
        }
        let own = refused.counts.keys().filter(|(_, source, _)| source.contains('/')).count();
        assert_eq!(own, MAX_SOURCES, "all services together");
        assert_eq!(sources(&refused, 999), [OTHER]);
    }

    #[test]
    fn names_that_another_cluster_chose_are_no_labels() {
        let mut refused = RefusedSources::default();
        for source in 0..1000 {
            refused.count(&asker(Direction::Inbound, 0, Some(source)), Code::Denied);
        }
        assert_eq!(sources(&refused, 0), [""]);
    }
}
