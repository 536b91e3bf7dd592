//! The adit binary: commands for people; one of them runs the daemon.
//!
//! Each command is a module with its arguments and a `run`; this file only chooses among them and turns
//! what they return into an exit status: 0 done, 1 failed (`check`: the file has errors), 2 used wrongly
//! (`pki show`: something is unusable), 3 begun and not finished (`install`, `upgrade`, `uninstall`, `invite`, `join`). Logic that another program would need lives in the crates below.

mod agents;
mod check;
mod cluster_args;
mod controller;
mod crds;
mod declare;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod generate;
mod install;
mod invitation;
mod invite;
mod join;
mod link;
mod migrate;
mod node;
mod output;
mod pki;
mod prepare;
mod probe;
mod progress;
mod status;
mod tap;
mod top;
mod uninstall;
mod upgrade;
mod version;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Freed memory goes back to the system after a second or so (.cargo/config.toml). glibc's
/// allocator keeps most of it: a node that had been flooded stayed at two or three times of what it
/// needs.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Carries A2A traffic between clusters over mutually authenticated QUIC.
#[derive(Debug, Parser)]
#[command(name = "adit", version, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, 1 failed (check: the file has errors), 2 used wrongly \
                        (pki show: something is unusable), 3 begun and not finished (install, upgrade, uninstall, invite, join: run it again)."
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Agents(agents::Args),
    Check(check::Args),
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
    #[command(hide = true)]
    Crds(crds::Args),
    Controller(controller::Args),
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    Doctor(doctor::Args),
    Export(declare::ExportArgs),
    Import(declare::ImportArgs),
    Install(install::Args),
    #[command(hide = true)]
    Invitation(invitation::InvitationArgs),
    Invite(invite::InviteArgs),
    Join(join::JoinArgs),
    Link(link::LinkArgs),
    #[command(hide = true)]
    Man(generate::ManArgs),
    Migrate(migrate::MigrateArgs),
    Node(node::Args),
    Pki(pki::Args),
    Prepare(prepare::Args),
    Probe(probe::Args),
    Status(status::Args),
    Tap(tap::Args),
    Top(top::Args),
    Uninstall(uninstall::Args),
    Unlink(link::UnlinkArgs),
    Upgrade(upgrade::Args),
    Version(version::Args),
}

fn main() -> ExitCode {
    // With several crypto providers in the graph rustls refuses to choose. Ours pass theirs explicitly;
    // this is for libraries that ask for the process's default. An error says that there is one already.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("adit: another crypto provider is installed");
        return ExitCode::FAILURE;
    }
    let done = match Cli::parse().command {
        CliCommand::Agents(args) => agents::run(&args),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Completions(args) => generate::completions(&args, Cli::command()),
        CliCommand::Crds(args) => crds::run(&args),
        CliCommand::Controller(args) => controller::run(args),
        #[cfg(feature = "demo")]
        CliCommand::Demo(args) => demo::run(&args),
        CliCommand::Doctor(args) => doctor::run(&args),
        CliCommand::Export(args) => declare::export(&args),
        CliCommand::Import(args) => declare::import(&args),
        CliCommand::Install(args) => install::run(&args),
        CliCommand::Invitation(args) => invitation::run(&args),
        CliCommand::Invite(args) => invite::run(&args),
        CliCommand::Join(args) => join::run(&args),
        CliCommand::Link(args) => link::link(&args),
        CliCommand::Man(args) => generate::man(&args, Cli::command()),
        CliCommand::Migrate(args) => migrate::migrate(&args),
        CliCommand::Node(args) => node::run(args),
        CliCommand::Pki(args) => pki::run(args),
        CliCommand::Prepare(args) => prepare::run(&args),
        CliCommand::Probe(args) => probe::run(&args),
        CliCommand::Status(args) => status::run(args),
        CliCommand::Tap(args) => tap::run(&args),
        CliCommand::Top(args) => top::run(&args),
        CliCommand::Uninstall(args) => uninstall::run(&args),
        CliCommand::Unlink(args) => link::unlink(&args),
        CliCommand::Upgrade(args) => upgrade::run(&args),
        CliCommand::Version(args) => version::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("adit: {error:#}");
        ExitCode::FAILURE
    })
}
