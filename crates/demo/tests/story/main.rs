//! The story's checks, put to the test: with nodes that do as they should every step holds, and with a
//! fault in a node the step that is about it fails with a reason that fits.
//!
//! The nodes are [`fake`] ones, which can be told to be at fault; that the real ones do as they should
//! is shown where the binary is (`adit demo --once` in `crates/cli/tests`).

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use adit_demo::{DemoEnd, DemoFailure, DemoOptions, NodeLauncher, run};

mod fake;

/// The output of a demo, for a look at it afterwards.
#[derive(Clone, Default)]
struct StoryOutput(Arc<Mutex<Vec<u8>>>);

impl Write for StoryOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while writing").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn play(launch: NodeLauncher) -> (Result<DemoEnd, DemoFailure>, String) {
    let page = StoryOutput::default();
    let options = DemoOptions { once: true, colour: false, program: "adit".into(), launch };
    let played = run(&options, Box::new(page.clone())).await;
    let told = page.0.lock().expect("nobody panics while writing").clone();
    (played, String::from_utf8(told).expect("what is told is text"))
}

/// This test binary again, as a node with a fault.
fn node(config: &Path, fault: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "become_a_node", "--ignored", "--nocapture"]);
    command.env("FAKE_NODE", config).env("FAKE_FAULT", fault);
    command
}

#[test]
#[ignore = "the nodes of the other tests, which start it themselves"]
fn become_a_node() {
    if let Some(config) = std::env::var_os("FAKE_NODE") {
        let fault = std::env::var("FAKE_FAULT").expect("a fault is named, if an empty one");
        fake::run(Path::new(&config), &fault);
    }
}

#[tokio::test]
async fn with_sound_nodes_every_step_holds() {
    let (played, told) = play(|config| node(config, "")).await;
    assert_eq!(played.expect(&told), DemoEnd::Told, "{told}");
    for step in 1..=12 {
        assert!(told.contains(&format!("\n{step:>2} ")), "step {step} is not told:\n{told}");
    }
    for fact in [
        "payment 4711 is in order",
        "4 events, each sent only after",
        "case T-1: hold payment 4713",
        "code denied",
        "noticed after",
        "answered at the first try",
        "no stream is left open",
        "All nodes have left",
    ] {
        assert!(told.contains(fact), "{fact:?} is not told:\n{told}");
    }
}

macro_rules! faults {
    ($($name:ident: $fault:literal => $step:literal, $reason:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (played, told) = play(|config| node(config, $fault)).await;
                let failed = played.expect_err(&told);
                if let Some(kept) = &failed.kept {
                    std::fs::remove_dir_all(kept).expect("the kept files can be removed");
                }
                let reason = failed.to_string();
                assert!(reason.contains($reason), "{reason}");
                assert_eq!(failed.step, $step, "{reason}");
            }
        )*
    };
}

faults! {
    a_node_without_connections_is_found: "lonely" => 4, "not linked with b1 and b2 within 10 s";
    an_altered_card_is_found: "alters" => 5, "the card read in edge differs";
    a_caller_taken_for_proved_is_found: "proves" => 6, "(asserted: false)";
    a_caller_taken_for_another_is_found: "mistakes" => 6, "takes the caller for \"";
    events_that_are_held_back_are_found: "holds" => 7, "nothing within 10 s";
    a_grant_for_everyone_is_found: "grants" => 9, "report-bot was answered, though no grant names it";
    a_refusal_for_another_reason_is_found: "misjudges" => 9, "not a refusal for want of a grant";
    a_stream_that_ends_as_if_whole_is_found: "finishes" => 10, "takes the stream that was cut for";
    a_node_that_knows_one_way_only_is_found: "clings" => 10, "the next call: ";
    a_stream_that_is_left_open_is_found: "leaks" => 12, "streams are still open";
    a_node_that_leaves_badly_is_found: "stumbles" => 12, "b1 left with exit status: 101";
}
