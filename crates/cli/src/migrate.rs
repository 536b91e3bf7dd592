//! `adit migrate`: from a hand-written EndpointSlice and a node port to an import, and back.
//!
//! Here is what is printed; the steps themselves are in [`adit_kubernetes::operator::migrate`].

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use adit_kubernetes::operator::migrate::{
    Migration, MigrationRequest, MigrationSides, MigrationStep,
};

use crate::cluster_args::{KubeconfigArgs, block_on, parse_duration};
use crate::declare::{ServiceArg, parse_all_workloads};
use crate::output::print;

/// Move a Service from a hand-written EndpointSlice and a node port to Adit, without a lost request
///
/// Prints the plan and does it step by step; each step waits until its effect is seen. Until Adit's own endpoints are ready the old
/// ones serve, and if they do not get ready, the old ones are put back. Run again after an interruption, it goes on; --back leads
/// back to what was there. Both clusters are linked before (adit link).
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Context of the cluster whose pods answer; its Service has the node port
    #[arg(long, value_name = "CONTEXT")]
    from_context: String,
    /// Context of the cluster whose pods call; somebody wrote an EndpointSlice there
    #[arg(long, value_name = "CONTEXT")]
    to_context: String,
    /// A ServiceAccount of the calling cluster that may use it, NAMESPACE/NAME or NAME in the Service's own namespace; "*" is any. May
    /// be given several times. Needed unless the export names callers already
    #[arg(long, value_name = "SERVICEACCOUNT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Leave the Service's node port as it is
    #[arg(long)]
    keep_node_port: bool,
    /// Only print the plan
    #[arg(long)]
    plan: bool,
    /// Go back to what was there before; connections that are open through Adit go on
    #[arg(long, conflicts_with_all = ["allow", "keep_node_port"])]
    back: bool,
    /// Longest time to wait for a step's effect, as 60s or 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Time that is left to the nodes for a change of endpoints; more for clusters of thousands of Services
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// Migrates.
///
/// # Errors
/// Everything that prevents it, with the step at which it stopped.
pub(crate) fn migrate(args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let service = args.service.parse()?;
    let request = MigrationRequest {
        allow: parse_all_workloads(&args.allow, &service)?,
        service: service.clone(),
        keep_node_port: args.keep_node_port,
        timeout: args.timeout,
        settle: args.settle,
    };
    block_on(async {
        let sides = MigrationSides {
            exporting: args.kubeconfig.connect(Some(&args.from_context)).await?,
            importing: args.kubeconfig.connect(Some(&args.to_context)).await?,
        };
        let (migration, steps) = if args.back {
            let migration = Migration::prepare_back(sides, request).await?;
            let steps = migration.steps_back();
            (migration, steps)
        } else {
            let migration = Migration::prepare(sides, request).await?;
            let steps = migration.steps();
            (migration, steps)
        };
        print_plan(&migration, &steps)?;
        if args.plan {
            return Ok(ExitCode::SUCCESS);
        }
        for (index, step) in steps.iter().enumerate() {
            print_part(&format!("{}/{} ", index + 1, steps.len()))?;
            let began = Instant::now();
            match migration.perform(*step).await {
                Ok(seen) => {
                    print(&format!("ok, {:.0} s: {seen}\n", began.elapsed().as_secs_f64()))?
                }
                Err(error) => {
                    print("stopped\n")?;
                    return Err(error.into());
                }
            }
        }
        print(&last_words(args, &migration, &service.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn print_plan(migration: &Migration, steps: &[MigrationStep]) -> anyhow::Result<()> {
    let mut text = String::from("The plan:\n");
    for (index, step) in steps.iter().enumerate() {
        text += &format!("  {}. {}\n", index + 1, migration.describe(*step));
    }
    for note in &migration.notes {
        text += &format!("note: {note}\n");
    }
    print(&text)
}

/// Prints the beginning of a line, at once.
fn print_part(text: &str) -> anyhow::Result<()> {
    print(text)?;
    Ok(std::io::stdout().flush()?)
}

fn last_words(args: &MigrateArgs, migration: &Migration, service: &str) -> String {
    let (MigrateArgs { from_context: from, to_context: to, .. }, (exporter, importer)) =
        (args, migration.clusters());
    if args.back {
        return format!(
            "{service} is called as before. Once the connections that are open through Adit have ended:\n  \
             adit import {service} --context {to} --remove\n  \
             adit export {service} --context {from} --to {importer} --remove\n"
        );
    }
    format!(
        "{service} is served by {exporter}, through Adit. The way back: the same command with --back instead of --allow. What it needs is \
         kept in a ConfigMap, named in step 1; delete that once nobody wants to go back.\n"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct MigrateCli {
        #[command(flatten)]
        args: MigrateArgs,
    }

    #[test]
    fn both_contexts_are_named_and_the_way_back_asks_for_nobody() {
        let read = |text: &str| {
            let words = format!("migrate {text}");
            MigrateCli::try_parse_from(words.split_whitespace())
        };
        let sides = "--from-context bank --to-context edge";
        let args = read(&format!("n/s {sides} --allow a,b --settle 1m")).unwrap().args;
        assert_eq!((args.settle, args.timeout), (Duration::from_secs(60), Duration::from_secs(60)));
        assert!(read(&format!("n/s {sides} --back")).is_ok());
        for bad in ["n/s", "n/s --from-context bank", &format!("n/s {sides} --back --allow a")] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
