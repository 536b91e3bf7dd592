//! A demo whose nodes fail: the step and the reason are told, the files kept, and
//! no process is left.

use std::path::Path;
use std::process::Command;

use adit_demo::{DemoFailure, DemoOptions, NodeLauncher, run};

async fn fails(launch: NodeLauncher) -> DemoFailure {
    let options = DemoOptions { once: true, colour: false, program: "adit".into(), launch };
    run(&options, Box::new(std::io::sink())).await.expect_err("no node, and yet all steps held")
}

fn clean(failed: &DemoFailure) {
    let kept = failed.kept.as_ref().expect("the files are kept");
    assert!(kept.join("edge/e1.yaml").is_file() && kept.join("bank/b1/node.key.pem").is_file());
    assert!(!kept.join("bank/ca.key.pem").exists(), "an authority's key was written");
    std::fs::remove_dir_all(kept).expect("the kept files can be removed");
}

#[tokio::test]
async fn a_node_that_ends_is_told_with_its_last_words() {
    let failed = fails(|_: &Path| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo first; echo no such key: nod >&2; exit 3"]);
        command
    });
    let failed = failed.await;
    let told = failed.to_string();
    assert!(told.starts_with("step 3 (Three nodes start"), "{told}");
    assert!(told.contains("b1 ended by itself (exit status: 3)"), "{told}");
    assert!(told.ends_with("no such key: nod"), "{told}");
    clean(&failed);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_told() {
    let failed = fails(|_: &Path| Command::new("/nonexistent/adit")).await;
    assert!(failed.to_string().contains("b1 cannot be started: No such file"), "{failed}");
    clean(&failed);
}

/// Time stands still but for timers: the deadline of ten seconds passes at once.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_never_ready_is_told_and_ended() {
    let failed = fails(|_: &Path| {
        let mut command = Command::new("/bin/sleep");
        command.arg("3600.14159");
        command
    });
    let failed = failed.await;
    let told = failed.to_string();
    assert!(told.contains("b1: not ready within 10 s: cannot reach the daemon"), "{told}");
    assert_eq!(running("3600.14159"), 0, "a node outlived the demo");
    clean(&failed);
}

/// The number of processes that have this argument.
fn running(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    lines.filter(|l| l.split(|b| *b == 0).any(|word| word == argument.as_bytes())).count()
}
