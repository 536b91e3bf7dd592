//! `fraud-bot`: looks at a payment, tells what it is doing while it does it, and asks `triage-bot` in
//! its own cluster about payments that are too large to decide alone.
//!
//! A caller may ask it to keep step ([`IN_STEP`]): then it sends an event only after the caller has
//! asked for it through [`StepGate`]. If anything between the two held events back, they would stop
//! there; so the story can say that events pass one by one without sleeping to make it look so.

use std::sync::Arc;

use a2a::{
    A2AError, Artifact, Message, Part, Role, StreamResponse, TaskArtifactUpdateEvent, TaskState,
    TaskStatus, TaskStatusUpdateEvent,
};
use a2a_server::{AgentExecutor, ExecutorContext};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::Semaphore;

use super::{AgentDescription, Payment, triage};
use crate::caller::{Caller, IN_STEP};

/// The contents of the card.
pub(crate) const ABOUT: AgentDescription = AgentDescription {
    name: "fraud-bot",
    description: "Says whether a payment is in order; escalates what it will not decide alone.",
    skill: "check a payment",
};

/// Above this, in whole euros, the agent asks `triage-bot`.
const LIMIT: u64 = 10_000;

/// The means by which a caller lets the agent go on, one event at a time.
#[derive(Debug, Clone)]
pub(crate) struct StepGate(Arc<Semaphore>);

impl StepGate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets the agent send one more event.
    pub(crate) fn step(&self) {
        self.0.add_permits(1);
    }

    async fn wait(&self) -> Result<(), A2AError> {
        let permit =
            self.0.acquire().await.map_err(|_| A2AError::internal("the demo has ended"))?;
        permit.forget();
        Ok(())
    }
}

/// The agent.
#[derive(Debug, Clone)]
pub(crate) struct FraudBot {
    /// The client by which it reaches `triage-bot`, as any workload of its cluster would.
    pub(crate) cluster: Caller,
    pub(crate) pace: StepGate,
}

impl AgentExecutor for FraudBot {
    fn execute(
        &self,
        ctx: ExecutorContext,
    ) -> BoxStream<'static, Result<StreamResponse, A2AError>> {
        let message = ctx.message.as_ref();
        let Some(payment) = message.and_then(Message::text).and_then(Payment::parse) else {
            let question = Payment { number: 4711, amount: 90 }.question();
            let hint = format!("I need a payment's number and amount, such as: {question}");
            let hint = Message::new(Role::Agent, vec![Part::text(hint)]);
            return stream::once(async { Ok(StreamResponse::Message(hint)) }).boxed();
        };
        let in_step = message
            .and_then(|m| m.metadata.as_ref())
            .is_some_and(|m| m.get(IN_STEP) == Some(&true.into()));
        let work = PaymentCheck {
            bot: self.clone(),
            in_step,
            payment,
            task: ctx.task_id,
            context: ctx.context_id,
            verdict: String::new(),
        };
        stream::unfold((work, CheckStep::History), |(mut work, stage)| async move {
            let (event, next) = work.perform(stage).await?;
            Some((event, (work, next)))
        })
        .boxed()
    }

    fn cancel(&self, ctx: ExecutorContext) -> BoxStream<'static, Result<StreamResponse, A2AError>> {
        let update = status(ctx.task_id, ctx.context_id, TaskState::Canceled, None);
        stream::once(async { Ok(update) }).boxed()
    }
}

/// The steps for one payment, in this order.
#[derive(Debug, Clone, Copy)]
enum CheckStep {
    History,
    Compare,
    Escalate,
    Verdict,
    Complete,
    Over,
}

struct PaymentCheck {
    bot: FraudBot,
    in_step: bool,
    payment: Payment,
    task: String,
    context: String,
    verdict: String,
}

impl PaymentCheck {
    async fn perform(
        &mut self,
        stage: CheckStep,
    ) -> Option<(Result<StreamResponse, A2AError>, CheckStep)> {
        if matches!(stage, CheckStep::Over) {
            return None;
        }
        if self.in_step
            && let Err(error) = self.bot.pace.wait().await
        {
            return Some((Err(error), CheckStep::Over));
        }
        let Payment { number, amount } = self.payment;
        let (event, next) = match stage {
            CheckStep::Over => return None,
            CheckStep::History => (self.working("account history read".into()), CheckStep::Compare),
            CheckStep::Compare if amount > LIMIT => {
                (self.working(format!("{amount} EUR is above my limit")), CheckStep::Escalate)
            }
            CheckStep::Compare => {
                self.verdict = format!("payment {number} is in order");
                (self.working("payee and amount are as usual".into()), CheckStep::Verdict)
            }
            CheckStep::Escalate => match self.ask_triage().await {
                Ok(answer) => {
                    self.verdict = format!("payment {number} is held; triage-bot: {answer}");
                    (self.working("triage-bot answered".into()), CheckStep::Verdict)
                }
                Err(error) => return Some((Err(error), CheckStep::Over)),
            },
            CheckStep::Verdict => (self.artifact(), CheckStep::Complete),
            CheckStep::Complete => (
                status(self.task.clone(), self.context.clone(), TaskState::Completed, None),
                CheckStep::Over,
            ),
        };
        Some((Ok(event), next))
    }

    async fn ask_triage(&self) -> Result<String, A2AError> {
        let triage = self.bot.cluster.agent(triage::ABOUT.name).await?;
        triage.ask(self.payment).await
    }

    fn working(&self, text: String) -> StreamResponse {
        status(self.task.clone(), self.context.clone(), TaskState::Working, Some(text))
    }

    fn artifact(&self) -> StreamResponse {
        StreamResponse::ArtifactUpdate(TaskArtifactUpdateEvent {
            task_id: self.task.clone(),
            context_id: self.context.clone(),
            artifact: Artifact {
                artifact_id: a2a::new_artifact_id(),
                name: Some("verdict".into()),
                description: None,
                parts: vec![Part::text(self.verdict.clone())],
                metadata: None,
                extensions: None,
            },
            append: None,
            last_chunk: Some(true),
            metadata: None,
        })
    }
}

fn status(task: String, context: String, state: TaskState, text: Option<String>) -> StreamResponse {
    let message = text.map(|text| Message::new(Role::Agent, vec![Part::text(text)]));
    StreamResponse::StatusUpdate(TaskStatusUpdateEvent {
        task_id: task,
        context_id: context,
        status: TaskStatus { state, message, timestamp: None },
        metadata: None,
    })
}
