//! `adit agents`: the agents of one cluster or several, with what their cards say at this moment, and what of it does not work
//! from another cluster.

use std::process::ExitCode;

use adit_core::doctor::facts::CardFacts;
use adit_core::text::{count_noun, escape, human_millis};
use adit_kubernetes::operator::agents::{AgentAnswer, AgentEntry, catalogue};
use adit_kubernetes::operator::context::ContextError;
use adit_kubernetes::operator::doctor::ClusterSite;

use crate::cluster_args::{KubeconfigArgs, UNREACHABLE, block_on};
use crate::output::print;
use crate::status::tables::{CellStyle, Style};

/// List all agents that are exported or imported, with what their cards say now and what would not work from another cluster
///
/// Cards are fetched through the API server of the cluster where the agent runs, and never stored.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 every agent answers and nothing about its card is in the way, 1 something is, 2 a cluster cannot be asked (the others are shown). A service that answers without a card need not be an agent, and counts for nothing; nor does one whose own cluster is not among the contexts."
)]
pub(crate) struct Args {
    /// The kubeconfig contexts of the clusters; without it the current one. Name both sides to see what runs on either
    #[arg(long, value_name = "CONTEXT")]
    context: Vec<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Asks and shows.
///
/// # Errors
/// If the answer cannot be printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (agents, errors) = block_on(async {
        let mut contexts: Vec<_> = args.context.iter().map(|name| Some(name.as_str())).collect();
        if contexts.is_empty() {
            contexts.push(None);
        }
        let (mut sites, mut errors) = (Vec::new(), Vec::new());
        for context in contexts {
            match Box::pin(read(&args.kubeconfig, context)).await {
                Ok(site) => sites.push(site),
                Err(error) => errors.push(error.to_string()),
            }
        }
        Ok((Box::pin(catalogue(&sites)).await, errors))
    })?;
    for error in &errors {
        eprintln!("adit: {error}");
    }
    if args.json {
        let all = serde_json::json!({"agents": agents, "errors": errors});
        print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    } else if !agents.is_empty() || errors.is_empty() {
        print(&page(&agents, Style::for_output(&std::io::stdout())))?;
    }
    Ok(match (errors.is_empty(), agents.iter().all(AgentEntry::is_well)) {
        (false, _) => ExitCode::from(UNREACHABLE),
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::FAILURE,
    })
}

async fn read(
    kubeconfig: &KubeconfigArgs,
    context: Option<&str>,
) -> Result<ClusterSite, ContextError> {
    Box::pin(ClusterSite::read(kubeconfig.connect(context).await?)).await
}

/// The page: what has to be looked at first, then what is well; what has no card comes last, in one line each.
fn page(agents: &[AgentEntry], style: Style) -> String {
    if agents.is_empty() {
        return "nothing is exported or imported there\n".to_owned();
    }
    let is_bare = |one: &&AgentEntry| one.answer() == AgentAnswer::NoCard && one.is_well();
    let shown =
        |is_well: bool| agents.iter().filter(move |one| !is_bare(one) && one.is_well() == is_well);
    let blocks = shown(false).chain(shown(true)).map(|one| block(one, style));
    let mut page = blocks.collect::<Vec<_>>().join("\n");
    let bare: Vec<_> = agents.iter().filter(is_bare).collect();
    if !bare.is_empty() {
        let of = count_noun(bare.len() as u64, "service");
        page += if page.is_empty() { "" } else { "\n" };
        page += &format!("{of} without a card, which need not be agents:\n");
        for one in bare {
            let error = one.card.as_ref().and_then(|card| card.error.as_deref());
            page += &format!(
                "  {} on {}: {}\n",
                escape(&one.service),
                escape(&one.cluster),
                escape(error.unwrap_or_default())
            );
        }
    }
    page
}

fn block(one: &AgentEntry, style: Style) -> String {
    let behind =
        one.behind.as_ref().map_or_else(String::new, |name| format!(" ({})", escape(name)));
    let (answer, meaning) = match (one.answer(), &one.card) {
        (AgentAnswer::Card, Some(card)) => {
            (format!("answers, in {}", human_millis(card.milliseconds)), CellStyle::Good)
        }
        (AgentAnswer::NoCard, _) => ("answers without a card".to_owned(), CellStyle::Doubtful),
        (AgentAnswer::NotAsked, _) => {
            let sentence = format!("not asked: add the context of {}", escape(&one.cluster));
            (sentence, CellStyle::Plain)
        }
        (AgentAnswer::Silent | AgentAnswer::Card, _) => {
            ("does not answer".to_owned(), CellStyle::Bad)
        }
    };
    let mut lines = vec![format!(
        "{}  on {}{behind}  {}",
        escape(&one.service),
        escape(&one.cluster),
        style.paint(&answer, meaning)
    )];
    let mut add = |line: &str| lines.push(format!("    {}", escape(line)));
    match &one.card {
        Some(CardFacts { error: Some(error), .. }) => add(error),
        Some(card) => describe(card).iter().for_each(|line| add(line)),
        None => {}
    }
    add(&match &one.callers[..] {
        [] => "may be called by nobody".to_owned(),
        some => format!("may be called by {}", some.join(", ")),
    });
    let ready = one.imports.iter().filter(|import| import.problem.is_none());
    let ready: Vec<_> = ready.map(|import| &*import.cluster).collect();
    if !ready.is_empty() {
        add(&format!("ready in {}", ready.join(", ")));
    }
    let of_imports = one.imports.iter().filter_map(|import| {
        Some((format!("not ready in {}: {}", import.cluster, import.problem.as_deref()?), None))
    });
    let of_export = one.problem.iter().map(|problem| (problem.clone(), None));
    let of_card = one.warnings.iter().map(|w| (w.seen.clone(), w.mend.as_deref()));
    for (seen, mend) in of_export.chain(of_imports).chain(of_card) {
        lines.push(format!("  {} {}", style.paint("!", CellStyle::Doubtful), escape(&seen)));
        lines.extend(mend.map(|mend| format!("      {}", escape(mend))));
    }
    lines.join("\n") + "\n"
}

/// The words of a card about itself.
fn describe(card: &CardFacts) -> Vec<String> {
    let name = if card.name.is_empty() { "(without a name)" } else { &card.name };
    let version =
        if card.version.is_empty() { String::new() } else { format!(" {}", card.version) };
    let about = if card.description.is_empty() { "" } else { ": " };
    let mut lines = vec![format!("{name}{version}{about}{}", card.description)];
    if !card.skills.is_empty() {
        let more = if card.more_skills > 0 {
            format!(" and {} more", card.more_skills)
        } else {
            String::new()
        };
        lines.push(format!("skills: {}{more}", card.skills.join(", ")));
    }
    let versions = match &card.protocol_versions[..] {
        [] => "of no version".to_owned(),
        some => some.join(", "),
    };
    let signed = if card.is_signed { "signed (not verified)" } else { "not signed" };
    let push = if card.push_notifications { ", push notifications" } else { "" };
    lines.push(format!("A2A {versions}, {signed}{push}"));
    lines
}

#[cfg(test)]
mod tests {
    use adit_core::doctor::card::{CardFault, CardWarning};
    use adit_kubernetes::operator::agents::AgentImport;

    use super::*;

    fn entry(service: &str, card: Option<CardFacts>) -> AgentEntry {
        AgentEntry {
            service: service.to_owned(),
            cluster: "bank".to_owned(),
            behind: None,
            callers: vec!["edge: agents/support-bot".to_owned()],
            imports: vec![AgentImport { cluster: "edge".to_owned(), problem: None }],
            card,
            problem: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_page_has_first_what_has_to_be_looked_at_and_last_what_need_not_be_an_agent() {
        let card = CardFacts {
            is_answered: true,
            milliseconds: 12,
            name: "Fraud Bot".to_owned(),
            description: "Looks for fraud\u{202e}".to_owned(),
            skills: vec!["look".to_owned(), "tell".to_owned()],
            more_skills: 3,
            protocol_versions: vec!["0.3.0".to_owned()],
            is_signed: true,
            push_notifications: true,
            ..CardFacts::default()
        };
        let error = |is_answered| {
            let error = Some("HTTP 404".to_owned());
            Some(CardFacts { is_answered, error, ..CardFacts::default() })
        };
        let mut warned = entry("agents/z", Some(card));
        warned.warnings.push(CardWarning {
            fault: CardFault::Url,
            seen: "the card says x".to_owned(),
            mend: Some("set the URL".to_owned()),
        });
        let mut waits = entry("agents/elsewhere", None);
        waits.imports[0].problem = Some("link down".to_owned());
        let all = [
            entry("agents/a", None),
            entry("agents/db", error(true)),
            waits,
            AgentEntry {
                callers: Vec::new(),
                imports: Vec::new(),
                ..entry("agents/gone", error(false))
            },
            warned,
        ];
        let page = page(&all, Style { width: None, colour: false });
        assert_eq!(
            page,
            "agents/elsewhere  on bank  not asked: add the context of bank\n    \
             may be called by edge: agents/support-bot\n  \
             ! not ready in edge: link down\n\n\
             agents/gone  on bank  does not answer\n    HTTP 404\n    may be called by nobody\n\n\
             agents/z  on bank  answers, in 12 ms\n    \
             Fraud Bot: Looks for fraud\\u{202e}\n    \
             skills: look, tell and 3 more\n    \
             A2A 0.3.0, signed (not verified), push notifications\n    \
             may be called by edge: agents/support-bot\n    ready in edge\n  \
             ! the card says x\n      set the URL\n\n\
             agents/a  on bank  not asked: add the context of bank\n    \
             may be called by edge: agents/support-bot\n    ready in edge\n\n\
             1 service without a card, which need not be agents:\n  \
             agents/db on bank: HTTP 404\n"
        );
    }
}
