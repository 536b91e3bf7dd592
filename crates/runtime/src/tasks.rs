//! Tasks that must run as long as their owner: that one of them ends is an error.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// Named tasks, none of which should ever end by itself. They end when this is dropped.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A task that ended although it should not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskEnded {
    /// The task returned.
    #[error("{0} ended by itself, which is a bug")]
    ByItself(&'static str),
    /// The task panicked; the log has the panic's message.
    #[error("{0} ended by a panic, which is a bug")]
    ByPanic(&'static str),
}

impl Tasks {
    /// Runs `task`; `name` is what [`TaskEnded`] calls it.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until one of them ends; for ever if there is none. Cancel-safe.
    pub async fn ended(&mut self) -> TaskEnded {
        let name = |id| self.names.get(&id).copied().unwrap_or("a task");
        match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => TaskEnded::ByItself(name(id)),
            Some(Err(error)) => TaskEnded::ByPanic(name(error.id())),
            None => std::future::pending().await,
        }
    }

    /// Ends them all.
    pub async fn shutdown(&mut self) {
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_ends_is_named() {
        let mut tasks = Tasks::default();
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, tasks.ended()).await.is_err(), "there is none");
        tasks.spawn("the one that lasts", pending());
        assert!(timeout(day, tasks.ended()).await.is_err());
        tasks.spawn("the one that returns", ready(()));
        assert_eq!(tasks.ended().await, TaskEnded::ByItself("the one that returns"));
        tasks.spawn("the one that panics", async { panic!("as it should in this test") });
        assert_eq!(tasks.ended().await, TaskEnded::ByPanic("the one that panics"));
        tasks.shutdown().await;
        assert!(timeout(day, tasks.ended()).await.is_err());
    }
}
