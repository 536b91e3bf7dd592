//! `adit join`: uses the token of an invitation to link this cluster with the one that made it.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use adit_config::cluster::ClusterLink;
use adit_core::name::ClusterName;
use adit_kubernetes::operator::bundle;
use adit_kubernetes::operator::context::{ConfigDocument, Context};
use adit_kubernetes::operator::invitation::{JoinFailure, Joining, check_token, fingerprint};
use adit_kubernetes::operator::link::{self as steps, ClusterIdentity};
use adit_pki::{BundleFingerprint, InvitationToken, UnixTime};
use anyhow::Context as _;
use tokio::time::Instant;

use crate::cluster_args::{ClusterArgs, block_on, exit_status, parse_duration};
use crate::link::{ImportOptions, ask_namespaces, explained, link_one_side};
use crate::output::print;

/// Link with the cluster whose operator ran `adit invite` and handed over its token
///
/// Needs access to this cluster alone. A node of this cluster dials the other's nodes, has them prove that they are of the
/// cluster that made the token, and asks; the other operator decides. Then both sides are linked as by adit link. A token is
/// good for one use.
#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// The token; - reads it from standard input, so that it is in no list of processes and no history
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    one: ClusterArgs,
    /// Name of this cluster, if it has none yet; otherwise it is named after its context
    #[arg(long, value_name = "NAME")]
    name: Option<ClusterName>,
    #[command(flatten)]
    import: ImportOptions,
    /// Time to wait for this cluster's CA, and for the link
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
}

/// The longest token on standard input, in bytes.
const MAX_TOKEN_LEN: u64 = 64 * 1024;

/// Joins.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn run(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let token = read_token(&args.token).and_then(|text| Ok(InvitationToken::parse(&text)?));
    let token = token.context("nothing was changed")?;
    block_on(async {
        let mut is_changed = false;
        let done = join(args, &token, &mut is_changed).await;
        exit_status(done, is_changed)
    })
}

fn read_token(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    let input = std::io::stdin().lock();
    input.take(MAX_TOKEN_LEN).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

async fn join(
    args: &JoinArgs,
    token: &InvitationToken,
    is_changed: &mut bool,
) -> anyhow::Result<()> {
    let context = args.one.connect().await?;
    let document = context.document().await?;
    let named = steps::identify(&context.name, &document, args.name.as_ref()).map_err(explained)?;
    let own = bundle::wait_for_bundle(&context, &named, Instant::now()).await;
    let own_fingerprint = own.as_ref().ok().and_then(|own| fingerprint(own).ok());
    check(token, &named, &document, own_fingerprint)?;
    if !named.changes.is_empty() {
        crate::link::write_name(&context, &named).await?;
        *is_changed = true;
    }
    let own = match own {
        Ok(own) => own,
        Err(_) => bundle::wait_for_bundle(&context, &named, Instant::now() + args.wait).await?,
    };
    let options = args.import.to_request();
    let options = ask_namespaces(&options, &context.document().await?, &token.cluster, &mut None)?;
    eprintln!("Asking {}, from a node of context {}.", token.cluster, context.name);
    let joining = Joining::dial(&context, token, &named, &document).await?;
    let other = joining.other.clone();
    introduce(&joining.address, &own, &other)?;
    eprintln!("Waiting for the answer of its operator; Ctrl-C gives up.");
    match joining.ask(&own).await {
        Ok(()) => {}
        Err(JoinFailure::Refused(why)) => {
            anyhow::bail!("{} has not linked this cluster: {why}", other.cluster)
        }
        Err(JoinFailure::Unknown(why)) => anyhow::bail!(
            "{why}\n  hint: {0} may have linked its side, which is of no effect alone. Ask its operator; then run adit \
             invite and adit join once more, which is safe, or there: adit unlink --cluster {1}",
            other.cluster,
            named.name
        ),
    }
    // The other side is.
    *is_changed = true;
    let written = link_one_side(&context, &other, &options, false).await;
    written.with_context(|| half_done(&context, &other, &named))?;
    steps::wait_until_up(&context, &other.cluster, Instant::now() + args.wait).await?;
    print(&format!("{} and {} are linked: the link is up\n", named.name, other.cluster))
}

/// Says what to do if the other side is linked and this one could not be.
fn half_done(context: &Context, other: &ClusterLink, own: &ClusterIdentity) -> String {
    format!(
        "{0} has linked its side, and this side could not be written: mend that, and run adit invite there and adit join here \
         once more, which is safe; or have its operator run: adit unlink --cluster {1}. Context {2}",
        other.cluster, own.name, context.name
    )
}

fn check(
    token: &InvitationToken,
    named: &ClusterIdentity,
    document: &ConfigDocument,
    own: Option<BundleFingerprint>,
) -> anyhow::Result<()> {
    Ok(check_token(token, named, document, own, UnixTime::now())?)
}

fn introduce(address: &str, own: &ClusterLink, other: &ClusterLink) -> anyhow::Result<()> {
    print(&format!(
        "{} answers at {address}, and has proved to be the cluster that made the token:\n  trust domain  {}\n  fingerprint   \
         {}\n  (ours)        {}\nIts operator sees the same fingerprints; compare them by voice.\n",
        other.cluster,
        other.trust_domain,
        fingerprint(other)?,
        fingerprint(own)?,
    ))
}
