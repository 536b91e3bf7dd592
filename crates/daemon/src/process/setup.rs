//! The first steps of a process.

use std::io;

use tokio::runtime::Runtime;

/// The runtime of the thread that started the process: its supervisor's, and that of everything which is seldom busy.
pub(crate) fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot("start the supervisor's runtime"))
}

/// Names the step that an error of the operating system kept from succeeding.
pub(crate) fn cannot(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what}: {error}")
}
