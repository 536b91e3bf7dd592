//! Attacks a real node with everything that a linked cluster can do, and prints what became of it.
//!
//! `hostile [--only NAME,NAME] [--seconds N] [--recovery N] [--memory MIB] [--short]` runs each attack beside honest
//! traffic and prints a table; its exit status says whether the victim held in every row. `--list` names
//! them. `--memory` bounds the victim by a control group (default 256; 0 for no bound). `--short` judges
//! counts, memory and the way back only, as the gate does.
//!
//! `hostile attack NAME --root DIR --target ADDRESS --seconds N --part P [--goodbye]` is the enemy's own process.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use adit_tests::hostile::attacks::{ALL, Attack, AttackContext, AttackCounts, AttackPace};
use adit_tests::hostile::client::Enemy;
use adit_tests::hostile::judge::{Court, Form, Trial};
use adit_tests::lab;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// The victim's memory in MiB.
const MEMORY: u64 = 256;
/// The way back may take so many seconds.
const RECOVERY: f64 = 30.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str| text(name).map(|v| v.parse::<f64>().expect("a number"));
    if args.first().is_some_and(|a| a == "attack") {
        let attack = find(&args[1]);
        let (seconds, part) =
            (number("--seconds").unwrap_or(10.0), number("--part").unwrap_or(1.0));
        let (root, target) = (text("--root").unwrap(), text("--target").unwrap());
        let goodbye = args.iter().any(|a| a == "--goodbye");
        attack_now(attack, (&root, &target), (seconds, part), goodbye);
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|a| a == "--list") {
        for attack in ALL {
            println!("{:<23} {}", attack.name, attack.what);
        }
        return ExitCode::SUCCESS;
    }
    let only = text("--only");
    let chosen: Vec<&Attack> = match &only {
        Some(names) => names.split(',').map(find).collect(),
        None => ALL.iter().collect(),
    };
    let memory = number("--memory").map_or(MEMORY, |n| n as u64);
    let short = args.iter().any(|a| a == "--short");
    let (seconds, recovery) = (number("--seconds"), number("--recovery").unwrap_or(RECOVERY));
    let mut held = true;
    let ran = lab::run_program("hostile", || {
        held = run(&chosen, (seconds, recovery), short, Some(memory).filter(|n| *n > 0));
    });
    if ran && held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn find(name: &str) -> &'static Attack {
    ALL.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("no attack is called {name}"))
}

fn run(
    chosen: &[&Attack],
    (seconds, recovery): (Option<f64>, f64),
    short: bool,
    memory: Option<u64>,
) -> bool {
    let program = std::env::current_exe().unwrap();
    let mut court = Court::open(memory, Path::new(&program));
    println!("{}", Trial::COLUMNS);
    let mut held = true;
    for attack in chosen {
        let (part, default) = if short { attack.short.unwrap_or((0.2, 2.0)) } else { (1.0, 12.0) };
        let form = Form { seconds: seconds.unwrap_or(default), part, recovery, timed: !short };
        let trial = court.try_attack(attack, form);
        println!("{}", trial.row());
        eprintln!("    {}", trial.details());
        held &= trial.faults().is_empty();
    }
    let left = court.close();
    left.iter().for_each(|fault| println!("{fault}"));
    held && left.is_empty()
}

/// The enemy's process: attacks, and prints what it counted.
fn attack_now(
    attack: &Attack,
    (root, target): (&str, &str),
    (seconds, part): (f64, f64),
    goodbye: bool,
) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let counts = Arc::new(AttackCounts::default());
    let counted = Arc::clone(&counts);
    runtime.block_on(async move {
        let enemy = Enemy::load(Path::new(root), "mallory", "bank", target.parse().unwrap());
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let pace = AttackPace { until, seconds, part };
        let watchers = TaskTracker::new();
        let enemy = Arc::new(enemy);
        let means = AttackContext { enemy: Arc::clone(&enemy), pace, counts, watchers };
        // A moment before it would end by itself, so that nobody says goodbye who is not told to.
        let patience = Duration::from_secs_f64((seconds - 0.03).max(0.1));
        let mut running = (attack.run)(means);
        drop(timeout(patience, &mut running).await);
        if goodbye {
            enemy.say_goodbye().await;
        }
        println!("{}", serde_json::to_string(&counted.all()).unwrap());
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
    });
}
