//! Adit beside direct TCP and haproxy, side by side in one run; see `README.md`.
//!
//! Every load and every server is a child process of this same program, so that the CPU time of each can
//! be told apart. [`figures`] lists the rows, [`scenario`] what is done for them, [`subject`] to what.

mod figures;
mod load;
mod picture;
mod process;
mod report;
mod rounds;
mod scenario;
mod serve;
mod subject;
mod test_bed;
mod traffic;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;

/// Compares Adit with direct TCP and haproxy, and prints the rows of the target table.
#[derive(Debug, Parser)]
#[command(name = "adit-benches")]
struct BenchArgs {
    #[command(subcommand)]
    part: Option<BenchChild>,
    #[command(flatten)]
    options: BenchOptions,
}

/// The scenarios to run, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchOptions {
    /// Every loopback row once and briefly: proves that the bench works, measures nothing.
    #[arg(long)]
    smoke: bool,
    /// Only these rows, such as a1,c1.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds; every subject has its turn in each.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that a load counts; four times as many over the lossy WAN.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Writes report.md, report.json and report.svg here.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The wanlink program, for the rows over a WAN. Default: built from the rig that ADIT_RIG names.
    #[arg(long)]
    wanlink: Option<PathBuf>,
}

/// The parts of the program that it starts as processes of their own.
#[derive(Debug, Subcommand)]
#[command(rename_all = "kebab-case")]
enum BenchChild {
    /// Another program, tied to this one's life.
    #[command(hide = true)]
    Tied {
        #[arg(long)]
        net: String,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// The server.
    #[command(hide = true)]
    Serve { listen: SocketAddr },
    /// A timed load.
    #[command(hide = true)]
    Load { load: String },
    /// Connections that are kept.
    #[command(hide = true)]
    Hold { hold: String },
    /// Waits until addresses answer.
    #[command(hide = true)]
    Probe { to: String },
}

fn main() -> ExitCode {
    let args = BenchArgs::parse();
    let done = match args.part {
        Some(part) => play(part).map(|()| true),
        None => rounds::run(&args.options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("adit-benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(part: BenchChild) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match part {
        BenchChild::Tied { net, command } => match process::become_program(&net, &command)? {},
        BenchChild::Serve { listen } => runtime.block_on(serve::serve(listen)),
        BenchChild::Load { load } => {
            let outcome = runtime.block_on(load::timed(parsed(&load)?))?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
        BenchChild::Hold { hold } => runtime.block_on(load::hold(parsed(&hold)?)),
        BenchChild::Probe { to } => {
            runtime.block_on(load::probe(&parsed::<Vec<SocketAddr>>(&to)?))?;
            println!("null");
            Ok(())
        }
    }
}

fn parsed<T: DeserializeOwned>(argument: &str) -> Result<T> {
    Ok(serde_json::from_str(argument)?)
}
