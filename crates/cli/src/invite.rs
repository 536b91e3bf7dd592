//! `adit invite`: lets the operator of another cluster ask, once, to be linked with this one.

use std::io::{IsTerminal, stderr, stdin};
use std::process::ExitCode;
use std::time::Duration;

use adit_config::cluster::ClusterLink;
use adit_core::name::ClusterName;
use adit_core::text::human_seconds;
use adit_kubernetes::operator::bundle;
use adit_kubernetes::operator::context::Context;
use adit_kubernetes::operator::invitation::{
    ApplicationNews, Invitation, JoiningCluster, check_other_cluster, fingerprint,
};
use adit_kubernetes::operator::link::{self as steps, ClusterIdentity};
use adit_pki::UnixTime;
use tokio::time::{Instant, timeout_at};

use crate::cluster_args::{ClusterArgs, block_on, confirm, exit_status, parse_duration};
use crate::link::{ImportOptions, ask_namespaces, explained, link_one_side};
use crate::output::print;

/// Link with a cluster of somebody else's: print a token for its operator, and wait until it was used
///
/// Needs access to this cluster alone; the other operator runs `adit join TOKEN`. The token is a secret: it lets whoever
/// has it ask once to be linked, and you see who asks, and the fingerprint of the other cluster's certificates, before
/// anything is changed. It ends with its use, its time, or this command. The first line of standard output is the token.
#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    #[command(flatten)]
    one: ClusterArgs,
    /// Name of this cluster, if it has none yet; otherwise it is named after its context
    #[arg(long, value_name = "NAME")]
    name: Option<ClusterName>,
    #[command(flatten)]
    import: ImportOptions,
    /// Time after which the token is of no use any more, at most 24h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_lifetime)]
    timeout: Duration,
    /// Link with whoever uses the token first, without a question
    #[arg(long)]
    yes: bool,
    /// Time to wait for this cluster's CA, and for the link
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("an invitation lasts for a second at least".to_owned()),
        lifetime => Ok(lifetime),
    }
}

/// Invites.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn run(args: &InviteArgs) -> anyhow::Result<ExitCode> {
    let can_ask = stdin().is_terminal() && stderr().is_terminal();
    if !args.yes && !can_ask {
        anyhow::bail!(
            "nothing was changed: nobody could be asked whether to link with whoever uses the token, because this is no \
             terminal\n  hint: --yes links with whoever uses it first"
        );
    }
    block_on(async {
        let mut is_changed = false;
        let done = invite(args, &mut is_changed).await;
        exit_status(done, is_changed)
    })
}

async fn invite(args: &InviteArgs, is_changed: &mut bool) -> anyhow::Result<()> {
    let context = args.one.connect().await?;
    let named = steps::identify(&context.name, &context.document().await?, args.name.as_ref());
    let named = named.map_err(explained)?;
    if !named.changes.is_empty() {
        let edited = steps::write_name(&context, &named).await?;
        if !edited.changes.is_empty() {
            eprintln!("context {}: named this cluster {}", context.name, named.name);
            *is_changed = true;
        }
    }
    let own = bundle::wait_for_bundle(&context, &named, Instant::now() + args.wait).await?;
    let until = Duration::from_secs(UnixTime::now().as_secs()) + args.timeout;
    let deadline = Instant::now() + args.timeout;
    let until = UnixTime::since_unix_epoch(until);
    let (mut invitation, token, failed) = Invitation::open(&context, &own, until).await?;
    for one in failed {
        eprintln!("adit: this node takes no invitation, the others do: {one}");
    }
    print(&format!("{}\n", *token.to_text()))?;
    eprintln!(
        "\nGive this token to the operator of the other cluster, by a way that nobody else reads. There: adit join TOKEN\n\
         fingerprint of {}: {}\nWaiting up to {} until it is used; Ctrl-C withdraws it.",
        own.cluster,
        token.fingerprint,
        human_seconds(args.timeout.as_secs()),
    );
    let inviter = Inviter { context: &context, named: &named, own: &own, args, deadline };
    let mut is_linked = false;
    let accepted = inviter.wait(&mut invitation, &mut is_linked).await;
    *is_changed |= is_linked;
    invitation.end(is_linked).await;
    let other = accepted?;
    steps::wait_until_up(&context, &other, Instant::now() + args.wait).await?;
    print(&format!("{} and {other} are linked: the link is up\n", own.cluster))
}

/// The inviting side while it waits.
struct Inviter<'a> {
    context: &'a Context,
    named: &'a ClusterIdentity,
    own: &'a ClusterLink,
    args: &'a InviteArgs,
    deadline: Instant,
}

impl Inviter<'_> {
    /// Waits until a cluster has joined, and returns its name.
    async fn wait(
        &self,
        invitation: &mut Invitation,
        is_linked: &mut bool,
    ) -> anyhow::Result<ClusterName> {
        loop {
            let Ok(news) = timeout_at(self.deadline, invitation.next()).await else {
                anyhow::bail!(
                    "the token was not used within {}, and is of no use any more",
                    human_seconds(self.args.timeout.as_secs())
                );
            };
            let asking = match news {
                ApplicationNews::Asked(asking) => asking,
                ApplicationNews::Gone(_) => continue,
                ApplicationNews::NodeLost { pod, why } => {
                    eprintln!("adit: the node of pod {pod} has lost the invitation: {why}");
                    continue;
                }
                ApplicationNews::AllLost => anyhow::bail!(
                    "no node knows the invitation any more, so the token is of no use\n  hint: run adit invite again"
                ),
            };
            match self.decide(invitation, &asking, is_linked).await? {
                Some(other) => return Ok(other),
                None => eprintln!("Waiting on."),
            }
        }
    }

    /// Decides about a cluster that asks; returns its name if it has been linked, and `None` if the invitation stays open.
    async fn decide(
        &self,
        invitation: &mut Invitation,
        asking: &JoiningCluster,
        is_linked: &mut bool,
    ) -> anyhow::Result<Option<ClusterName>> {
        let document = self.context.document().await?;
        let other = match check_other_cluster(&asking.application.document, self.named, &document) {
            Ok(other) => other,
            Err(error) => {
                let from = &asking.application.from;
                eprintln!("adit: {from} has the token and cannot be linked: {error}");
                invitation.answer(asking, Some(format!("{}: {error}", self.own.cluster))).await;
                return Ok(None);
            }
        };
        self.introduce(asking, &other)?;
        if !self.args.yes && !tokio::task::spawn_blocking(confirm).await?? {
            let no = format!("the operator of {} said no", self.own.cluster);
            invitation.answer(asking, Some(no)).await;
            anyhow::bail!("{} was refused, and the token is of no use any more", other.cluster);
        }
        let options = self.args.import.to_request();
        let options = ask_namespaces(&options, &document, &other.cluster, &mut None)?;
        // As somebody may have thought about it for long.
        if invitation.has_gone(asking) || Instant::now() >= self.deadline {
            eprintln!("adit: {} has gone meanwhile, or the token has ended.", other.cluster);
            return Ok(None);
        }
        if let Err(error) = link_one_side(self.context, &other, &options, false).await {
            let failed =
                format!("{} could not write its link; its operator sees why", self.own.cluster);
            invitation.answer(asking, Some(failed)).await;
            return Err(error);
        }
        *is_linked = true;
        if !invitation.answer(asking, None).await {
            let Context { name, .. } = self.context;
            anyhow::bail!(
                "this side is linked, and {0} was gone before it heard so\n  hint: if its operator sees no link, run adit \
                 invite and adit join once more, which is safe; or take it back here: adit unlink --cluster {0} --context \
                 {name}",
                other.cluster
            );
        }
        Ok(Some(other.cluster))
    }

    /// Says who asks.
    fn introduce(&self, asking: &JoiningCluster, other: &ClusterLink) -> anyhow::Result<()> {
        let addresses: Vec<_> = other.addresses.iter().map(ToString::to_string).collect();
        print(&format!(
            "A cluster asks to be linked, from {}:\n  name          {}\n  trust domain  {}\n  addresses     {}\n  \
             fingerprint   {}\n  (ours)        {}\nIts operator sees the same fingerprints; compare them by voice.\n",
            asking.application.from,
            other.cluster,
            other.trust_domain,
            addresses.join(", "),
            fingerprint(other)?,
            fingerprint(self.own)?,
        ))
    }
}
