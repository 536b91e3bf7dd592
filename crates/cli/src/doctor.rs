//! `adit doctor`: what is in the way of a request to an import, hop by hop, and what mends it.
//!
//! [`cluster`] asks clusters by their contexts, [`local`] the daemon of this machine. Both collect facts; what follows from
//! them is decided by [`adit_core::doctor::diagnose`], and [`page`] shows it. Exit status: 0 only if a request
//! would be answered, 1 if not, 2 if that cannot be said.

mod cluster;
mod local;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;

use adit_core::doctor::Diagnosis;
use adit_core::name::{ClusterName, ServiceName};

use crate::cluster_args::KubeconfigArgs;
use crate::output::print;
use crate::status::tables::Style;

/// Find what is in the way of a request to an import, hop by hop, and what mends it
///
/// Tries it from the node of the caller, as the caller: with a stream that asks whether it would be answered, dials a
/// backend and delivers nothing. An export or a link can be looked at by itself, as one cluster has it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 a request would be answered, 1 it would not, 2 it cannot be said (a cluster or a node cannot be asked, or the command is wrong). Without SERVICE it looks at every import, and the worst counts; `export` of one context looks at its links, too, and `link` of two contexts at both ends."
)]
pub(crate) struct Args {
    /// The imported Service, NAMESPACE/NAME or NAMESPACE/NAME:PORT; `export NAMESPACE/NAME`; `link CLUSTER`, or `link` for all;
    /// without it every import
    #[arg(value_name = "SERVICE", num_args = 0..=2)]
    subject: Vec<String>,
    /// The kubeconfig context of the importing cluster and, as a second one, that of the exporting cluster; for `export` the
    /// exporting one first
    #[arg(long, value_name = "CONTEXT")]
    context: Vec<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// The caller: NAMESPACE/POD or NAMESPACE/SERVICEACCOUNT; without Kubernetes an address or NAMESPACE/SERVICEACCOUNT
    #[arg(long, value_name = "CALLER")]
    from: Option<String>,
    /// Fetch the agent's card as well, and see if its URL and what it promises hold in the caller's cluster
    #[arg(long, requires = "context")]
    card: bool,
    /// Ask the daemon with this admin socket, or at this loopback address, and no cluster
    #[arg(long, env = "ADIT_ADMIN", value_name = "SOCKET|IP:PORT")]
    admin: Option<String>,
    /// Ask the daemon that this configuration file is for, and no cluster
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "context"])]
    config: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Print the facts of this node alone, for a doctor elsewhere
    #[arg(long, hide = true, conflicts_with_all = ["context", "json"])]
    facts: bool,
}

/// Asks, decides and shows.
///
/// # Errors
/// If the answer cannot be printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let subject = match parse_subject(&args.subject) {
        Ok(subject) => subject,
        Err(error) => {
            eprintln!("adit: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    let found = match (args.context.is_empty(), args.facts) {
        (false, _) => cluster::diagnose(args, &subject),
        (true, false) => local::diagnose(args, &subject),
        (true, true) => return local::print_facts(args, &subject),
    };
    let all = match found {
        Ok(all) => all,
        Err(error) => {
            eprintln!("adit: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    if args.json {
        print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    } else {
        let style = Style::for_output(&std::io::stdout());
        let pages: Vec<_> = all.iter().map(|one| page::render(one, style)).collect();
        print(&pages.join("\n"))?;
    }
    Ok(ExitCode::from(worst(&all)))
}

/// The Service that is meant, and its port where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImportTarget {
    pub(crate) service: ServiceName,
    pub(crate) port: Option<String>,
}

/// The thing that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DoctorTarget {
    /// An import, or all.
    Import(Option<ImportTarget>),
    /// An export.
    Export(ImportTarget),
    /// The link with a cluster, or all.
    Link(Option<ClusterName>),
}

fn parse_subject(words: &[String]) -> anyhow::Result<DoctorTarget> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    Ok(match &words[..] {
        [] => DoctorTarget::Import(None),
        ["link"] => DoctorTarget::Link(None),
        ["link", cluster] => match cluster.parse() {
            Ok(cluster) => DoctorTarget::Link(Some(cluster)),
            Err(error) => anyhow::bail!("{cluster:?} is no cluster: {error}"),
        },
        ["export", service] => DoctorTarget::Export(parse_target(service)?),
        ["import", service] | [service] => DoctorTarget::Import(Some(parse_target(service)?)),
        [first, ..] => anyhow::bail!("{first:?} is neither import, export nor link"),
    })
}

pub(crate) fn parse_target(text: &str) -> anyhow::Result<ImportTarget> {
    let (service, port) = match text.rsplit_once(':') {
        Some((service, port)) => (service, Some(port.to_owned())),
        None => (text, None),
    };
    match service.parse() {
        Ok(service) => Ok(ImportTarget { service, port }),
        Err(error) => {
            anyhow::bail!("{text:?} is no Service, NAMESPACE/NAME or NAMESPACE/NAME:PORT: {error}")
        }
    }
}

/// The exit status of several: one that would not be answered counts most.
fn worst(all: &[Diagnosis]) -> u8 {
    let statuses = || all.iter().map(Diagnosis::exit_status);
    match (statuses().any(|status| status == 1), statuses().any(|status| status == 2)) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_service_and_may_name_a_port() {
        let of = |text: &str| parse_target(text).map(|t| (t.service.to_string(), t.port)).ok();
        assert_eq!(of("a/b"), Some(("a/b".to_owned(), None)));
        assert_eq!(of("a/b:http"), Some(("a/b".to_owned(), Some("http".to_owned()))));
        assert_eq!(of("b"), None);
    }

    #[test]
    fn an_export_or_a_link_is_named_by_a_word_before_it() {
        let of = |text: &str| {
            let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            parse_subject(&words).map_err(|error| error.to_string())
        };
        let target = |text: &str| parse_target(text).unwrap();
        assert_eq!(of(""), Ok(DoctorTarget::Import(None)));
        assert_eq!(of("a/b"), Ok(DoctorTarget::Import(Some(target("a/b")))));
        assert_eq!(of("import a/b:http"), Ok(DoctorTarget::Import(Some(target("a/b:http")))));
        assert_eq!(of("export a/b"), Ok(DoctorTarget::Export(target("a/b"))));
        assert_eq!(of("link"), Ok(DoctorTarget::Link(None)));
        assert_eq!(of("link bank"), Ok(DoctorTarget::Link("bank".parse().ok())));
        for wrong in ["export", "link a/b", "exports a/b", "bank"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
