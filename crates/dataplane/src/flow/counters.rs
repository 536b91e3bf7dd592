//! The counts that a flow keeps as it goes: bytes each way, the first of the answer, and the ways that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::Counter;

use super::direction::Direction;
use super::{Flow, metrics as series};

/// Bytes that one direction of a flow has carried, counted as they pass.
#[derive(Debug)]
pub struct ByteCounter {
    /// Written by one task alone.
    flow: AtomicU64,
    total: Counter,
    conversation: Option<Arc<AtomicU64>>,
}

impl ByteCounter {
    pub(super) fn new(total: &Counter) -> Self {
        Self { flow: AtomicU64::new(0), total: total.clone(), conversation: None }
    }

    /// Counts in another total from now on.
    pub(super) fn count_in(&mut self, total: &Counter) {
        self.total = total.clone();
    }

    /// Has what comes from now on be counted there, too.
    pub(super) fn share(&mut self, conversation: &Arc<AtomicU64>) {
        self.conversation = Some(Arc::clone(conversation));
    }

    /// Counts bytes; true if they are the first. Never from two tasks at once.
    pub(crate) fn add(&self, bytes: usize) -> bool {
        self.total.increment(bytes as u64);
        if let Some(conversation) = &self.conversation {
            conversation.fetch_add(bytes as u64, Relaxed);
        }
        let before = self.bytes();
        self.flow.store(before + bytes as u64, Relaxed);
        before == 0 && bytes > 0
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.flow.load(Relaxed)
    }
}

impl Flow {
    /// Counts bytes from TCP to the stream.
    pub(crate) fn count_sent(&self, bytes: usize) {
        if self.sent.add(bytes) && self.direction == Direction::Inbound {
            self.record_first_byte();
        }
    }

    /// Counts bytes from the stream to TCP.
    pub(crate) fn count_received(&self, bytes: usize) {
        if self.received.add(bytes) && self.direction == Direction::Outbound {
            self.record_first_byte();
        }
    }

    /// Records how long the flow has waited for the first byte of its answer.
    fn record_first_byte(&self) {
        let waited = self.started.elapsed().as_secs_f64();
        match &self.target_metrics {
            Some(metrics) => metrics.first_byte.record(waited),
            None => series::first_byte(self.direction, self.link()).record(waited),
        }
    }

    /// Counts one of the two ways that has come to its end.
    pub(crate) fn count_ended_way(&self) {
        let half_open = &self.flows.0.metrics_of(self.direction).half_open;
        match self.ended_ways.fetch_add(1, Relaxed) {
            0 => half_open.increment(1.0),
            1 => half_open.decrement(1.0),
            _ => {}
        }
    }

    /// Takes a flow that ends out of those of which one way has ended.
    pub(super) fn leave_half_open(&mut self) {
        if *self.ended_ways.get_mut() == 1 {
            self.flows.0.metrics_of(self.direction).half_open.decrement(1.0);
        }
    }
}
