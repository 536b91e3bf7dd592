//! `triage-bot`: opens a case for a payment that another agent will not decide alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use a2a::{A2AError, Message, Part, Role, StreamResponse};
use a2a_server::{AgentExecutor, ExecutorContext};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::{AgentDescription, Payment};

/// The contents of the card.
pub(crate) const ABOUT: AgentDescription = AgentDescription {
    name: "triage-bot",
    description: "Opens a case for a payment and says what happens to it next.",
    skill: "open a case",
};

/// The agent. Clones share their count of cases.
#[derive(Debug, Clone, Default)]
pub(crate) struct TriageBot {
    cases: Arc<AtomicU64>,
}

impl TriageBot {
    /// The number of cases that were opened so far.
    pub(crate) fn cases(&self) -> u64 {
        self.cases.load(Ordering::Relaxed)
    }

    fn answer(&self, ctx: &ExecutorContext) -> Message {
        let payment = ctx.message.as_ref().and_then(Message::text).and_then(Payment::parse);
        let text = payment.map_or_else(
            || "I need a payment's number and amount.".to_owned(),
            |Payment { number, .. }| {
                let case = self.cases.fetch_add(1, Ordering::Relaxed) + 1;
                format!("case T-{case}: hold payment {number} and call the customer")
            },
        );
        let mut answer = Message::new(Role::Agent, vec![Part::text(text)]);
        answer.context_id = Some(ctx.context_id.clone());
        answer
    }
}

impl AgentExecutor for TriageBot {
    fn execute(
        &self,
        ctx: ExecutorContext,
    ) -> BoxStream<'static, Result<StreamResponse, A2AError>> {
        let answer = self.answer(&ctx);
        stream::once(async { Ok(StreamResponse::Message(answer)) }).boxed()
    }

    fn cancel(&self, ctx: ExecutorContext) -> BoxStream<'static, Result<StreamResponse, A2AError>> {
        let error = A2AError::task_not_cancelable(&ctx.task_id);
        stream::once(async { Err(error) }).boxed()
    }
}
