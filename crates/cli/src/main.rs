//! The adit binary: commands for people; one of them runs the daemon.

fn main() {}
