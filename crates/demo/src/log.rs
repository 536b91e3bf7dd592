//! Reads a node's log for the streams that it carried or refused.
//!
//! The story quotes these lines: why a caller was refused, which node a call went through, how many
//! bytes it had. A line has a millisecond or two to arrive after the call has ended, so readers wait
//! for it, with a deadline.

use std::collections::VecDeque;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_daemon::telemetry::STREAM;
use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// The pause between two looks at the file.
const LOG_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// The time that a line may take to arrive, from when it is waited for.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// A finished or refused stream, as the node logs it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamRecord {
    module: String,
    /// `outbound` or `inbound`.
    pub(crate) direction: String,
    /// `NAMESPACE/ACCOUNT@CLUSTER`.
    pub(crate) source: String,
    /// True if the source is only asserted by the peer.
    pub(crate) asserted: bool,
    /// `NAMESPACE/SERVICE:PORT`.
    pub(crate) target: String,
    /// The node of the other cluster.
    pub(crate) peer_node: String,
    /// The code with which it ended, of the closed list.
    pub(crate) code: String,
    /// True if nothing was delivered.
    pub(crate) refused: bool,
    /// The meaning of that code, in one sentence.
    message: String,
    /// More about this end, where there is more.
    reason: String,
    /// Bytes of the answer.
    pub(crate) bytes_in: u64,
    /// Bytes of the question.
    pub(crate) bytes_out: u64,
}

impl StreamRecord {
    /// The reason of its end: what the node logged of this very end, or what the code means.
    pub(crate) fn why(&self) -> &str {
        if self.reason.is_empty() { &self.message } else { &self.reason }
    }
}

/// A log that is read on and on: no line is given twice.
#[derive(Debug)]
pub(crate) struct NodeLog {
    path: PathBuf,
    offset: u64,
    unread: VecDeque<StreamRecord>,
}

impl NodeLog {
    /// The log at `path`, from its beginning on.
    pub(crate) fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, unread: VecDeque::new() }
    }

    /// Waits for the next stream that `wanted` accepts; others are passed over.
    ///
    /// # Errors
    ///
    /// If none arrives in time.
    pub(crate) async fn stream(
        &mut self,
        what: &str,
        wanted: impl Fn(&StreamRecord) -> bool,
    ) -> anyhow::Result<StreamRecord> {
        let deadline = Instant::now() + LINE_TIMEOUT;
        loop {
            self.read()?;
            while let Some(stream) = self.unread.pop_front() {
                if wanted(&stream) {
                    return Ok(stream);
                }
            }
            if Instant::now() >= deadline {
                bail!("{} has no line about {what}", self.path.display());
            }
            sleep(LOG_POLL_INTERVAL).await;
        }
    }

    /// Reads all whole lines that were written since the last look.
    fn read(&mut self) -> anyhow::Result<()> {
        let text = self.rest().with_context(|| format!("cannot read {}", self.path.display()))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        self.unread.extend(text[..whole].lines().filter_map(stream));
        Ok(())
    }

    fn rest(&self) -> std::io::Result<String> {
        let mut file = std::fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn stream(line: &str) -> Option<StreamRecord> {
    serde_json::from_str::<StreamRecord>(line).ok().filter(|s| s.module == STREAM)
}

/// The last lines of a log, for whoever has to know why a node ended.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn streams_are_found_past_other_lines_and_once_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e1.log");
        let line = |code: &str| format!("{{\"module\":\"{STREAM}\",\"code\":\"{code}\"}}\n");
        let text = format!("not JSON\n{{\"module\":\"other\"}}\n{}{{\"mod", line("denied"));
        fs::write(&path, line("finished") + &text).unwrap();
        let mut log = NodeLog::open(&path);
        assert_eq!(log.stream("a refusal", |s| s.code == "denied").await.unwrap().code, "denied");
        fs::write(
            &path,
            line("finished") + &text + "ule\":1}\n" + &line("drained") + &line("revoked"),
        )
        .unwrap();
        for code in ["drained", "revoked"] {
            assert_eq!(log.stream("another", |_| true).await.unwrap().code, code);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_never_arrives_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e1.log");
        fs::write(&path, "").unwrap();
        let error = NodeLog::open(&path).stream("a refusal", |_| true).await.unwrap_err();
        assert!(error.to_string().ends_with("e1.log has no line about a refusal"), "{error}");
    }
}
