//! A mutex whose lock always succeeds.

use std::sync::{MutexGuard, PoisonError};

/// [`std::sync::Mutex`] without its poison: after a task has panicked while it held the lock, the next one gets it.
///
/// A panic ends one task, is counted and logged, and must not end every other task that shares a table with it. Whoever
/// locks therefore keeps the value right between any two of its statements.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for the lock. A thread that has it already waits for ever.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_panic_under_the_lock_ends_one_thread_and_no_other() {
        let numbers = Arc::new(Mutex::new(vec![1]));
        let shared = numbers.clone();
        let thread = std::thread::spawn(move || {
            let mut numbers = shared.lock();
            numbers.push(2);
            panic!("as it should in this test");
        });
        assert!(thread.join().is_err());
        assert_eq!(*numbers.lock(), [1, 2]);
    }
}
