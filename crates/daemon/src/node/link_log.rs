//! Logs when a link comes up or goes down, and why, as the status has it at that time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::data_plane::StatusSource;
use super::process_state::ProcessState;
use crate::status::{Link, LinkHealth};

/// The links are looked at this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two lines about one link whose state stays and whose reason changes.
const REWORD_INTERVAL: Duration = Duration::from_secs(60);

/// Looks at the links for as long as it is polled. A node that drains logs nothing about its links.
pub(super) async fn watch<W: StatusSource>(known: Arc<ProcessState<W>>) {
    let mut log = LinkLog::default();
    loop {
        sleep(CHECK_INTERVAL).await;
        if known.draining.load(Relaxed) {
            return;
        }
        for LinkLogLine { link, state, code, sentence } in
            log.lines_for(&known.status_source.links().0)
        {
            match state {
                LinkHealth::Up => tracing::info!(link, "link {link} is up"),
                LinkHealth::Degraded => {
                    tracing::warn!(link, code, "link {link} is degraded: {sentence}");
                }
                LinkHealth::Down | LinkHealth::Unknown => {
                    tracing::warn!(link, code, "link {link} is down: {sentence}");
                }
            }
        }
    }
}

/// The last line logged about each link.
#[derive(Debug, Default)]
struct LinkLog(BTreeMap<String, LoggedLink>);

#[derive(Debug)]
struct LoggedLink {
    logged: Option<(LinkHealth, String)>,
    /// The state at the last look: trouble that is over by the next one is not logged.
    last: LinkHealth,
    /// The time at which another reason for the same state was logged last.
    reworded: Option<Instant>,
}

/// A line to log.
#[derive(Debug, PartialEq, Eq)]
struct LinkLogLine {
    link: String,
    state: LinkHealth,
    code: String,
    sentence: String,
}

impl LinkLog {
    fn lines_for(&mut self, links: &[Link]) -> Vec<LinkLogLine> {
        self.0.retain(|name, _| links.iter().any(|l| l.cluster == *name));
        let mut lines = Vec::new();
        for link in links {
            let first = || LoggedLink { logged: None, last: LinkHealth::Unknown, reworded: None };
            let seen = self.0.entry(link.cluster.clone()).or_insert_with(first);
            let settled = link.state == LinkHealth::Up || seen.last == link.state;
            seen.last = link.state;
            let reason = link.reason.clone().unwrap_or_default();
            let is_same = |(state, code): &(LinkHealth, String)| {
                if *state != link.state || *code == reason.code {
                    return *state == link.state;
                }
                // A peer may have another reason every second.
                seen.reworded.is_some_and(|at| at.elapsed() < REWORD_INTERVAL)
            };
            if !settled || seen.logged.as_ref().is_some_and(is_same) {
                continue;
            }
            if seen.logged.as_ref().is_some_and(|(state, _)| *state == link.state) {
                seen.reworded = Some(Instant::now());
            }
            seen.logged = Some((link.state, reason.code.clone()));
            lines.push(LinkLogLine {
                link: link.cluster.clone(),
                state: link.state,
                code: reason.code,
                sentence: reason.sentence,
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Reason;

    fn link(state: LinkHealth) -> Vec<Link> {
        let reason = Some(Reason { code: "link-down".into(), sentence: "no answer".into() });
        vec![Link { cluster: "bank".into(), state, reason, ..Link::default() }]
    }

    #[tokio::test(start_paused = true)]
    async fn another_reason_for_the_same_state_is_told_and_not_all_the_time() {
        let mut log = LinkLog::default();
        let mut lines = 0;
        for n in 0..120 {
            let mut links = link(LinkHealth::Down);
            let code = if n % 2 == 0 { "one-way" } else { "certificate-refused" };
            links[0].reason = Some(Reason { code: code.into(), sentence: "no".into() });
            let said = log.lines_for(&links);
            assert!(n != 2 || said.iter().all(|line| line.code == "one-way"), "{said:?}");
            lines += said.len();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 3, "the first, and one a minute");
    }

    #[test]
    fn each_change_that_lasts_is_told_once() {
        let mut log = LinkLog::default();
        let mut states = |state| {
            let lines = log.lines_for(&link(state));
            lines.into_iter().map(|l| l.state).collect::<Vec<_>>()
        };
        assert_eq!(states(LinkHealth::Down), [], "it may be up in a moment");
        assert_eq!(states(LinkHealth::Down), [LinkHealth::Down]);
        assert_eq!(states(LinkHealth::Down), []);
        assert_eq!(states(LinkHealth::Up), [LinkHealth::Up]);
        assert_eq!(states(LinkHealth::Degraded), []);
        assert_eq!(states(LinkHealth::Up), [], "it was over by the next look");
        assert_eq!(states(LinkHealth::Degraded), []);
        assert_eq!(states(LinkHealth::Degraded), [LinkHealth::Degraded]);
    }
}
