//! A process in a node's pod, by `kubectl exec`: JSON documents, one a line, to it and from it.
//!
//! Nothing that is secret is an argument. Its input ends with the command here, however that ends, and so does the process.

use std::process::Stdio;
use std::time::Duration;

use adit_core::text::printable_ascii;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::operator::context::Context;

/// The most of an error that is shown, in bytes.
const MAX_ERROR_BYTES: usize = 400;
/// The time in which an error is there, from the end of a process's output.
const ERROR_TIMEOUT: Duration = Duration::from_secs(3);

/// The input of a process in a pod.
#[derive(Debug)]
pub(in crate::operator) struct NodeInput(ChildStdin);

/// The output of a process in a pod. The process ends with it.
#[derive(Debug)]
pub(in crate::operator) struct NodeOutput {
    output: BufReader<ChildStdout>,
    max_line: usize,
    errors: JoinSet<String>,
    _child: Child,
}

/// Starts `/adit` with these arguments in a node's pod. No line of its output is longer than `max_line` bytes.
pub(in crate::operator) fn start(
    context: &Context,
    pod: &str,
    arguments: &[&str],
    max_line: usize,
) -> Result<(NodeInput, NodeOutput), String> {
    let mut command = context.command_in_node(pod, &["--stdin"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("kubectl cannot be run: {error}"))?;
    let (Some(input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("kubectl has no input or output".to_owned());
    };
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let (mut errors, mut read) = (errors, Vec::new());
        // What follows is read, too, or the process would wait.
        (&mut errors).take(MAX_ERROR_BYTES as u64).read_to_end(&mut read).await.ok();
        tokio::io::copy(&mut errors, &mut tokio::io::sink()).await.ok();
        String::from_utf8_lossy(&read).trim().replace('\n', "; ")
    });
    Ok((
        NodeInput(input),
        NodeOutput { output: BufReader::new(output), max_line, errors: reading, _child: child },
    ))
}

impl NodeInput {
    /// Sends a line.
    pub(in crate::operator) async fn send(&mut self, line: &impl Serialize) -> Result<(), String> {
        let mut text = serde_json::to_vec(line).map_err(|error| error.to_string())?;
        text.push(b'\n');
        let gone = |error| format!("its process is gone: {error}");
        self.0.write_all(&text).await.map_err(gone)?;
        self.0.flush().await.map_err(gone)
    }
}

impl NodeOutput {
    /// Receives the next line; may not be cancelled and called again.
    pub(in crate::operator) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = Vec::new();
        let limit = self.max_line as u64;
        let read = (&mut self.output).take(limit).read_until(b'\n', &mut line).await;
        read.map_err(|error| error.to_string())?;
        if line.is_empty() {
            return Err(self.error().await);
        }
        serde_json::from_slice(&line).map_err(|_| {
            "it says what this command does not understand: are both of the same version?"
                .to_owned()
        })
    }

    /// The words with which it ended.
    async fn error(&mut self) -> String {
        let said = timeout(ERROR_TIMEOUT, self.errors.join_next()).await;
        let said = said.ok().flatten().and_then(Result::ok).unwrap_or_default();
        if said.contains("unrecognized subcommand") || said.contains("unexpected argument") {
            return "its version is older than this command: `adit upgrade` first".to_owned();
        }
        if said.is_empty() {
            return "its process has ended".to_owned();
        }
        printable_ascii(said.as_bytes(), MAX_ERROR_BYTES)
    }
}
