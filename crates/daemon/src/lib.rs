//! The process: composition, admin, metrics, logs and drain.
