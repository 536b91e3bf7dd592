//! The invitations that a node knows: in memory alone, each kept by a command that waits for its use.
//!
//! A command renews its invitation every few seconds; one that is not renewed counts as withdrawn. What was used or
//! withdrawn is remembered until its time has passed, so that whoever comes with it is told so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::invitation::MAX_LIFETIME_SECS;
use adit_core::wire::join::{JoinRefusal, MAX_DOCUMENT_LEN};
use adit_pki::{InvitationKey, InvitedKeys, UnixTime};
use adit_runtime::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// An invitation is withdrawn if its command does not renew it in this time.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Most invitations at once; beside them there is what is remembered of earlier ones.
const MAX_INVITATIONS: usize = 16;
/// Most connections that one invitation may take up, over its life.
const MAX_TRIES: u32 = 16;

/// The reason why the book does not do what a command asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The end is past, or too far away.
    #[error("an invitation must end within {} hours from now; do the clocks of this node and of its command agree?", MAX_LIFETIME_SECS / 3600)]
    Lifetime,
    /// The document is too long.
    #[error("what it says of this cluster is longer than {MAX_DOCUMENT_LEN} bytes")]
    DocumentTooLong,
    /// There are too many.
    #[error(
        "this node has {MAX_INVITATIONS} invitations already; each is forgotten when its time has passed"
    )]
    TooMany,
    /// The invitation is not there.
    #[error("this node does not know the invitation: it was started again since")]
    Unknown,
    /// The invitation is over.
    #[error("{}", .0.sentence())]
    Over(JoinRefusal),
}

/// The way in which a command ends its invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvitationEnd {
    /// Another cluster was linked by it.
    Used,
    /// The invitation is not wanted any more.
    Withdrawn,
}

/// Somebody who holds an invitation and waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// The number of it, from 1, at this node and for this invitation.
    pub number: u64,
    /// The address from which he came.
    pub remote: SocketAddr,
    /// His cluster, as he describes it. Nothing of it was checked.
    pub document: Arc<str>,
}

/// The answer to an applicant: accepted, or refused with a sentence.
pub type ApplicationAnswer = Result<(), String>;

/// A node's invitations.
#[derive(Debug)]
pub struct InvitationBook {
    invited: Arc<InvitedKeys>,
    entries: Mutex<BTreeMap<InvitationKey, Arc<OfferedInvitation>>>,
}

/// An invitation that was offered.
#[derive(Debug)]
pub(super) struct OfferedInvitation {
    pub(super) document: Arc<str>,
    deadline: Instant,
    state: watch::Sender<InvitationState>,
}

#[derive(Debug)]
struct InvitationState {
    /// Withdrawn from then on, unless it is renewed.
    renew_before: Instant,
    ended: Option<InvitationEnd>,
    tries: u32,
    applicants: u64,
    /// Somebody is on a connection of this invitation.
    is_taken: bool,
    applicant: Option<(Applicant, oneshot::Sender<AnswerDelivery>)>,
}

/// An answer, and where to say whether it reached the applicant.
pub(super) type AnswerDelivery = (ApplicationAnswer, oneshot::Sender<()>);

impl InvitationBook {
    pub(crate) fn new(invited: Arc<InvitedKeys>) -> Self {
        Self { invited, entries: Mutex::default() }
    }

    /// Offers an invitation until `until`, if its command calls [`Self::next_applicant`] every few seconds.
    ///
    /// # Errors
    /// [`BookError`], see there. One that was there before stays as it is, and is offered again only if it is not over.
    pub fn offer(
        &self,
        key: InvitationKey,
        until: UnixTime,
        now: UnixTime,
        document: &str,
    ) -> Result<(), BookError> {
        let left = until.as_secs().saturating_sub(now.as_secs());
        if left == 0 || left > MAX_LIFETIME_SECS {
            return Err(BookError::Lifetime);
        }
        if document.len() > MAX_DOCUMENT_LEN {
            return Err(BookError::DocumentTooLong);
        }
        self.forget_expired();
        let begun = Instant::now();
        let mut entries = self.entries.lock();
        if let Some(known) = entries.get(&key) {
            return known.over().map_or(Ok(()), |why| Err(BookError::Over(why)));
        }
        if entries.len() >= MAX_INVITATIONS {
            return Err(BookError::TooMany);
        }
        let state = InvitationState {
            renew_before: begun + RENEWAL_TIMEOUT,
            ended: None,
            tries: 0,
            applicants: 0,
            is_taken: false,
            applicant: None,
        };
        let entry = OfferedInvitation {
            document: document.into(),
            deadline: begun + Duration::from_secs(left),
            state: watch::Sender::new(state),
        };
        entries.insert(key, Arc::new(entry));
        self.invited.admit(key, until, now);
        tracing::info!(%key, seconds = left, "another cluster may join by invitation");
        Ok(())
    }

    /// Renews an invitation, and waits up to `within` until its applicant is another than number `seen` (0 is none).
    ///
    /// # Errors
    /// [`BookError::Over`], [`BookError::Unknown`].
    pub async fn next_applicant(
        &self,
        key: &InvitationKey,
        seen: u64,
        within: Duration,
    ) -> Result<Option<Applicant>, BookError> {
        let entry = self.find(key)?;
        let renew = || {
            if let Some(why) = entry.over() {
                return Err(BookError::Over(why));
            }
            let renew_before = Instant::now() + RENEWAL_TIMEOUT;
            entry.state.send_if_modified(|state| {
                state.renew_before = renew_before;
                false
            });
            Ok(())
        };
        renew()?;
        let number = |state: &InvitationState| state.applicant.as_ref().map_or(0, |a| a.0.number);
        let mut states = entry.state.subscribe();
        let changed = states.wait_for(|state| number(state) != seen || state.ended.is_some());
        // Its sender is `entry`'s, which is held here.
        drop(tokio::time::timeout(within, changed).await);
        renew()?;
        Ok(entry.state.borrow().applicant.as_ref().map(|(applicant, _)| applicant.clone()))
    }

    /// Answers an applicant. Returns false if he is gone, and does not know.
    ///
    /// # Errors
    /// [`BookError::Unknown`].
    pub async fn answer(
        &self,
        key: &InvitationKey,
        number: u64,
        answer: ApplicationAnswer,
    ) -> Result<bool, BookError> {
        let entry = self.find(key)?;
        let mut waiting = None;
        entry.state.send_if_modified(|state| {
            waiting = state.applicant.take_if(|(applicant, _)| applicant.number == number);
            waiting.is_some()
        });
        let Some((_, waiting)) = waiting else { return Ok(false) };
        let (delivered, was_delivered) = oneshot::channel();
        if waiting.send((answer, delivered)).is_err() {
            return Ok(false);
        }
        Ok(was_delivered.await.is_ok())
    }

    /// Ends an invitation. Whoever comes with it later, or waits for an answer, is told.
    ///
    /// # Errors
    /// [`BookError::Over`], if it is over already.
    pub fn end(&self, key: &InvitationKey, end: InvitationEnd) -> Result<(), BookError> {
        let entry = self.find(key)?;
        if let Some(why) = entry.over() {
            return Err(BookError::Over(why));
        }
        entry.state.send_modify(|state| state.ended = Some(end));
        tracing::info!(%key, ?end, "an invitation has ended");
        Ok(())
    }

    /// True if there is any whose time has not passed.
    pub(crate) fn is_any(&self) -> bool {
        self.forget_expired();
        !self.entries.lock().is_empty()
    }

    fn forget_expired(&self) {
        let now = Instant::now();
        self.entries.lock().retain(|key, entry| {
            let is_kept = now < entry.deadline;
            if !is_kept {
                self.invited.forget(key);
            }
            is_kept
        });
    }

    pub(super) fn find(&self, key: &InvitationKey) -> Result<Arc<OfferedInvitation>, BookError> {
        let found = self.entries.lock().get(key).cloned();
        found.ok_or(BookError::Unknown)
    }
}

impl OfferedInvitation {
    /// The reason why it cannot be used any more.
    fn over(&self) -> Option<JoinRefusal> {
        let (now, state) = (Instant::now(), self.state.borrow());
        match state.ended {
            Some(InvitationEnd::Used) => Some(JoinRefusal::Used),
            Some(InvitationEnd::Withdrawn) => Some(JoinRefusal::Withdrawn),
            None if now >= self.deadline => Some(JoinRefusal::Expired),
            None if now >= state.renew_before => Some(JoinRefusal::Withdrawn),
            None => None,
        }
    }

    /// Waits until it cannot be used any more.
    pub(super) async fn ended(&self) -> JoinRefusal {
        let mut states = self.state.subscribe();
        loop {
            if let Some(why) = self.over() {
                return why;
            }
            let renew_before = states.borrow_and_update().renew_before;
            tokio::select! {
                _ = states.changed() => {}
                () = tokio::time::sleep_until(self.deadline.min(renew_before)) => {}
            }
        }
    }

    /// Takes the one place that there is.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(super) fn take(self: &Arc<Self>) -> Result<InvitationSeat, JoinRefusal> {
        if let Some(why) = self.over() {
            return Err(why);
        }
        let mut refusal = None;
        self.state.send_if_modified(|state| {
            if state.is_taken {
                refusal = Some(JoinRefusal::Busy);
            } else if state.tries >= MAX_TRIES {
                refusal = Some(JoinRefusal::TooManyTries);
            } else {
                (state.tries, state.is_taken) = (state.tries + 1, true);
            }
            false
        });
        refusal.map_or_else(|| Ok(InvitationSeat(Arc::clone(self))), Err)
    }
}

/// The place of whoever uses an invitation; free again when it is dropped.
#[derive(Debug)]
pub(super) struct InvitationSeat(Arc<OfferedInvitation>);

impl InvitationSeat {
    /// Shows an applicant to the command. What is returned gets the answer.
    pub(super) fn apply(
        &self,
        remote: SocketAddr,
        document: Box<str>,
    ) -> oneshot::Receiver<AnswerDelivery> {
        let (answer, answered) = oneshot::channel();
        self.0.state.send_modify(|state| {
            state.applicants += 1;
            let document = document.into();
            state.applicant =
                Some((Applicant { number: state.applicants, remote, document }, answer));
        });
        answered
    }
}

impl Drop for InvitationSeat {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| (state.is_taken, state.applicant) = (false, None));
    }
}
