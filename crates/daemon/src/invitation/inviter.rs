//! Keeps an invitation at the node of this pod for as long as the command on the other end of standard input lives.

use std::time::Duration;

use adit_core::invitation::{InvitationTerms, InviterCommand, InviterEvent};
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::lines::{LineError, read_line, write_line};
use crate::admin::client::{self, AdminAddress, AdminClientError};
use crate::admin::invitation::{
    ApplicantAnswerReply, ApplicantAnswerRequest, InvitationEndRequest, InvitationReply,
    InvitationRequest,
};

/// The longest wait for somebody who asks, at once: the invitation is renewed as often.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// Offers the invitation that `input` begins with at the node at `address`, tells `output` who asks, and passes answers
/// on. The end of `input` withdraws it.
///
/// # Errors
/// If the command cannot be understood or heard. What the node refuses is said to the command.
pub async fn run(
    address: &AdminAddress,
    mut input: impl AsyncBufRead + Unpin + Send + 'static,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), LineError> {
    let Some(InviterCommand::Offer(terms)) = read_line(&mut input).await? else {
        return Err(LineError::NotUnderstood);
    };
    let node = NodeClient { address, key: terms.key.clone() };
    if let Err(error) = node.poll(Some(terms), 0, Duration::ZERO).await {
        return write_line(&mut output, &InviterEvent::Failed(error)).await;
    }
    write_line(&mut output, &InviterEvent::Offered).await?;
    // A line must not be lost where something else comes first.
    let (lines, mut commands) = mpsc::channel(1);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Ok(Some(command)) = read_line::<InviterCommand>(&mut input).await {
            if lines.send(command).await.is_err() {
                break;
            }
        }
    });
    let ended = node.relay(&mut commands, &mut output).await;
    reading.abort_all();
    if !matches!(ended, Ok(Relayed::Ended)) {
        // Whoever comes is told; if the node has ended, too, there is nobody to tell.
        node.end(false).await.ok();
    }
    match ended? {
        Relayed::Ended | Relayed::CommandGone => Ok(()),
        Relayed::Failed(error) => write_line(&mut output, &InviterEvent::Failed(error)).await,
    }
}

/// The way in which it ended.
enum Relayed {
    /// The command ended it.
    Ended,
    /// The command is gone.
    CommandGone,
    /// The node refuses.
    Failed(String),
}

/// The node, asked about one invitation.
struct NodeClient<'a> {
    address: &'a AdminAddress,
    key: String,
}

impl NodeClient<'_> {
    async fn relay(
        &self,
        commands: &mut mpsc::Receiver<InviterCommand>,
        output: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Relayed, LineError> {
        let mut seen = 0;
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv() => command,
                polled = self.poll(None, seen, RENEWAL_INTERVAL) => {
                    let applicant = match polled {
                        Ok(reply) => reply.applicant,
                        Err(error) => return Ok(Relayed::Failed(error)),
                    };
                    let number = applicant.as_ref().map_or(0, |applicant| applicant.number);
                    if number != seen {
                        seen = number;
                        let event = applicant.map_or(InviterEvent::Gone, InviterEvent::Application);
                        write_line(output, &event).await?;
                    }
                    continue;
                }
            };
            match command {
                None => return Ok(Relayed::CommandGone),
                Some(InviterCommand::Offer(_)) => return Err(LineError::NotUnderstood),
                Some(InviterCommand::Answer { number, refusal }) => {
                    let is_delivered = match self.answer(number, refusal).await {
                        Ok(is_delivered) => is_delivered,
                        Err(error) => return Ok(Relayed::Failed(error)),
                    };
                    // The applicant who was answered is none any more, which is no news.
                    seen = if seen == number { 0 } else { seen };
                    write_line(output, &InviterEvent::Answered { number, is_delivered }).await?;
                }
                Some(InviterCommand::End { is_used }) => {
                    return Ok(match self.end(is_used).await {
                        Ok(()) => Relayed::Ended,
                        Err(error) => Relayed::Failed(error),
                    });
                }
            }
        }
    }

    async fn poll(
        &self,
        terms: Option<InvitationTerms>,
        seen: u64,
        wait: Duration,
    ) -> Result<InvitationReply, String> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(0);
        let request = InvitationRequest { key: self.key.clone(), terms, seen, wait_ms };
        self.ask("/v1/invitation", &request).await
    }

    async fn answer(&self, number: u64, refusal: Option<String>) -> Result<bool, String> {
        let request = ApplicantAnswerRequest { key: self.key.clone(), number, refusal };
        let reply: ApplicantAnswerReply = self.ask("/v1/invitation/answer", &request).await?;
        Ok(reply.is_delivered)
    }

    async fn end(&self, is_used: bool) -> Result<(), String> {
        let request = InvitationEndRequest { key: self.key.clone(), is_used };
        self.ask::<serde_json::Value>("/v1/invitation/end", &request).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, String> {
        let body = serde_json::to_string(request).map_err(|e| e.to_string())?;
        let answer = client::request(self.address, Method::POST, path, &body).await;
        let answer = answer.map_err(|error: AdminClientError| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|e| e.to_string())
    }
}
