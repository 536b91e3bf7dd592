//! Publishing a state: readers are woken for what differs, and for nothing else.

use tokio::sync::watch;

/// Publishes `value` unless it equals what was published last. Returns true if it was published.
pub fn publish_if_changed<T: PartialEq>(sender: &watch::Sender<T>, value: T) -> bool {
    sender.send_if_modified(|last| {
        let differs = *last != value;
        if differs {
            *last = value;
        }
        differs
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_a_value_that_differs_wakes_readers() {
        let first = Arc::new(vec![1]);
        let (sender, reader) = watch::channel(first.clone());
        assert!(!publish_if_changed(&sender, Arc::new(vec![1])));
        assert!(!reader.has_changed().unwrap());
        assert!(Arc::ptr_eq(&reader.borrow(), &first), "readers keep sharing what they have");
        assert!(publish_if_changed(&sender, Arc::new(vec![2])));
        assert!(reader.has_changed().unwrap());
    }
}
