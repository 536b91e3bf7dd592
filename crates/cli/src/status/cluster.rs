//! `adit status --context C`: clusters as their API servers show them. Problems come first.

use std::process::ExitCode;

use adit_core::text::escape;
use adit_kubernetes::operator::context::ContextError;
use adit_kubernetes::operator::status::{
    self as cluster_status, ClusterStatus, PodCounts, StatusItem,
};

use super::UNREACHABLE;
use super::tables::{CellStyle, Style, cell, styled_cell, table, text};
use crate::cluster_args::{KubeconfigArgs, block_on};
use crate::output::print;

/// Asks one cluster or several, and shows them.
///
/// # Errors
/// If the answer cannot be printed.
pub(super) fn run(
    contexts: &[String],
    kubeconfig: &KubeconfigArgs,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let asked = block_on(async {
        let mut asked = Vec::new();
        for name in contexts {
            asked.push(Box::pin(query(kubeconfig, name)).await);
        }
        Ok(asked)
    })?;
    // A cluster that cannot be asked hides nothing of the others.
    let mut clusters = Vec::new();
    let mut unreachable = false;
    for cluster in asked {
        match cluster {
            Ok(cluster) => clusters.push(cluster),
            Err(error) => {
                unreachable = true;
                eprintln!("adit: {error}");
            }
        }
    }
    if json {
        print(&(serde_json::to_string_pretty(&clusters)? + "\n"))?;
    } else {
        let style = Style::for_output(&std::io::stdout());
        let pages: Vec<_> = clusters.iter().map(|cluster| render_cluster(cluster, style)).collect();
        print(&pages.join("\n"))?;
    }
    Ok(match (unreachable, clusters.iter().all(ClusterStatus::is_healthy)) {
        (true, _) => ExitCode::from(UNREACHABLE),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

async fn query(kubeconfig: &KubeconfigArgs, name: &str) -> Result<ClusterStatus, ContextError> {
    let context = kubeconfig.connect(Some(name)).await?;
    Box::pin(cluster_status::query(&context)).await
}

fn render_cluster(status: &ClusterStatus, style: Style) -> String {
    let unread = "(its configuration has errors: what was good last stays in force)";
    let name = status.cluster.as_deref().unwrap_or(unread);
    let pods = |PodCounts { ready, total, .. }| format!("{ready}/{total}");
    let mut page = format!(
        "cluster {}, context {}: controller {}, nodes {}\n",
        escape(name),
        escape(&status.context),
        pods(status.controller),
        pods(status.nodes)
    );
    let mut wrong = table(style, &[]);
    for problem in status.problems() {
        let problem = in_context(&problem, &status.context);
        wrong.add_row([styled_cell("wrong", CellStyle::Bad), cell(problem)]);
    }
    for warning in &status.warnings {
        let warning = in_context(warning, &status.context);
        wrong.add_row([styled_cell("doubtful", CellStyle::Doubtful), cell(warning)]);
    }
    if wrong.row_count() > 0 {
        page += &text(&wrong);
    }
    for (what, items) in
        [("LINKS", &status.links), ("EXPORTS", &status.exports), ("IMPORTS", &status.imports)]
    {
        page += &render_section(what, items, status, style);
    }
    page
}

/// Names the context in each command for kubectl: those who print it know no context, and of two clusters it is
/// one's own.
fn in_context(text: &str, context: &str) -> String {
    text.replace("kubectl ", &format!("kubectl --context {context} "))
}

fn render_section(
    what: &str,
    items: &[StatusItem],
    status: &ClusterStatus,
    style: Style,
) -> String {
    // Since when nobody has updated the items.
    let stale = status.stale.as_deref();
    let stale_note = stale.map(|since| format!(" ({})", escape(since))).unwrap_or_default();
    if items.is_empty() {
        return format!("\n{what}{stale_note}: none\n");
    }
    let mut rows = table(style, &[]);
    for item in items {
        let how = match (&item.problem, &item.waits_for) {
            (Some(problem), _) => styled_cell(in_context(problem, &status.context), CellStyle::Bad),
            (None, Some(cause)) => styled_cell(format!("waits for {cause}"), CellStyle::Doubtful),
            (None, None) if stale.is_some() => styled_cell("well then", CellStyle::Doubtful),
            (None, None) => styled_cell("well", CellStyle::Good),
        };
        rows.add_row([cell(&item.name), cell(&item.detail), how]);
    }
    format!("\n{what}{stale_note}\n{}", text(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_is_wrong_before_what_is_well() {
        let pods = PodCounts { installed: true, ready: 1, total: 2 };
        let item = |name: &str, problem: Option<&str>| {
            StatusItem::new(name.to_owned(), "from bank".to_owned(), problem.map(str::to_owned))
        };
        let mut waits = item("n/c", None);
        waits.waits_for = Some("link bank".to_owned());
        let status = ClusterStatus {
            context: "kind-edge".to_owned(),
            cluster: Some("edge".to_owned()),
            controller: pods,
            nodes: PodCounts { ready: 2, ..pods },
            errors: vec!["a.yaml:1:2: bad\u{1b}".to_owned()],
            warnings: Vec::new(),
            troubles: vec!["no controller: kubectl -n x scale y".to_owned()],
            stale: None,
            links: Vec::new(),
            exports: Vec::new(),
            imports: vec![item("n/b", Some("nobody there (Why)")), waits, item("n/a", None)],
        };
        let page = render_cluster(&status, Style { width: None, colour: false });
        assert_eq!(
            page,
            "cluster edge, context kind-edge: controller 1/2, nodes 2/2\n  \
             wrong  a.yaml:1:2: bad\\u{1b}\n  \
             wrong  1 of 2 controller pods are ready\n  \
             wrong  no controller: kubectl --context kind-edge -n x scale y\n\n\
             LINKS: none\n\nEXPORTS: none\n\nIMPORTS\n  \
             n/b  from bank  nobody there (Why)\n  \
             n/c  from bank  waits for link bank\n  \
             n/a  from bank  well\n"
        );
        let stale = Some("as of noon; no controller since".to_owned());
        let stale = ClusterStatus { stale, ..status };
        let page = render_cluster(&stale, Style { width: None, colour: false });
        assert!(page.contains("\nEXPORTS (as of noon; no controller since): none\n"), "{page}");
        assert!(page.ends_with("n/a  from bank  well then\n"), "{page}");
    }
}
