//! `adit pki`: a cluster's authority, its nodes' certificates, what clusters hand to each other.
//!
//! Every path is given, nothing that exists is replaced unless asked, keys are 0600 and never printed.
//! What certificates look like and what is refused is decided in `adit-pki`; here are arguments and words.

mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adit_config::parse_duration;
use adit_core::name::NodeName;
use adit_core::spiffe::TrustDomain;
use adit_pki::authority::{self, ClusterAuthority, KeyKind};
use adit_pki::files::{self, FileError, IfExists};
use adit_pki::time::{in_words, rfc3339};
use adit_pki::{TrustBundle, UnixTime};
use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};

use crate::output::print;

/// Keys and certificates: who is who between clusters
///
/// Each cluster is a trust domain with an authority of its own. Its nodes prove who they are with
/// certificates that it issued; another cluster believes them because it was handed this cluster's trust
/// bundle: the authority's certificate, never its key. There is no shared root.
#[derive(Debug, clap::Args)]
#[command(after_long_help = TOUR)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: PkiCommand,
}

const TOUR: &str = "Two clusters, from nothing:

  edge$ adit pki init   --trust-domain edge.example --dir ca
  edge$ adit pki issue  --ca ca --node e1 --out /var/lib/adit
  edge$ adit pki bundle --ca ca --out edge.pem        # hand edge.pem to the people of bank
  edge$ adit pki show   bank.pem                      # look at what they handed over
  bank$ …the same, the other way round

Compare fingerprints of handed-over bundles over a channel you trust (a call, a signed mail):
whoever can swap a bundle on its way can act as that cluster.";

#[derive(Debug, Subcommand)]
enum PkiCommand {
    Init(InitArgs),
    Issue(IssueArgs),
    Bundle(BundleArgs),
    Show(show::Args),
}

/// Make a cluster's authority
///
/// Writes DIR/ca.pem (the certificate, which may be known to everybody) and DIR/ca.key.pem (its key, mode
/// 0600: whoever has it can act as any node of the cluster). Keep DIR off the nodes; they need only what
/// `adit pki issue` writes for them. An authority that is there already is never replaced: all that it
/// issued would be void.
#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The cluster's trust domain, such as edge.example: lower-case letters, digits, '.', '-' and '_'.
    /// No other cluster may have the same
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// The folder to write to; made (mode 0700) if it is not there
    #[arg(long)]
    dir: PathBuf,
    /// Lifetime of the authority
    #[arg(long, value_name = "TIME", default_value = "1825d", value_parser = parse_validity)]
    valid_for: Duration,
    /// Kind of the new key
    #[arg(long, value_name = "KIND", default_value = "p256")]
    key: KeyChoice,
}

/// Issue a node's certificate, with a new key
///
/// Writes DIR/node.pem (the certificate), DIR/node.key.pem (its key, mode 0600) and DIR/ca.pem (the cluster's
/// own trust bundle), which is the folder that `identity:` in a node's configuration names. The certificate
/// says spiffe://TRUSTDOMAIN/adit/node/NAME.
#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// The authority's folder, as `adit pki init` wrote it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The node's name, as `node.name` in its configuration
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// The node's folder; made (mode 0700) if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Lifetime of the certificate, 1m to 90d: a number and s, m, h or d. Nothing renews a
    /// certificate that is kept in files, so the default leaves time for people; where something
    /// does, take 24h
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_ttl)]
    ttl: Duration,
    /// Kind of the new key
    #[arg(long, value_name = "KIND", default_value = "p256")]
    key: KeyChoice,
    /// Replace a certificate and key that are there already (to renew them). ca.pem is left as it is
    #[arg(long)]
    overwrite: bool,
}

/// Write a cluster's trust bundle, to hand to another cluster
///
/// The bundle holds certificates only; it may be sent in the open, but must arrive unchanged. It needs no
/// key, so ca.pem alone is enough of the authority's folder.
#[derive(Debug, clap::Args)]
struct BundleArgs {
    /// The authority's folder, as `adit pki init` wrote it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The file to write; standard output if left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The form: PEM certificates, or SPIFFE's JSON, which SPIRE and other SPIFFE tools read
    #[arg(long, default_value = "pem")]
    format: BundleFormat,
    /// Replace FILE if it is there already
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BundleFormat {
    Pem,
    Spiffe,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyChoice {
    /// ECDSA on NIST P-256, which everything understands
    P256,
    /// Ed25519
    Ed25519,
}

impl From<KeyChoice> for KeyKind {
    fn from(key: KeyChoice) -> Self {
        match key {
            KeyChoice::P256 => Self::P256,
            KeyChoice::Ed25519 => Self::Ed25519,
        }
    }
}

/// Runs one of the commands.
///
/// # Errors
/// The reason why it could not be done, in words for the person who asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        PkiCommand::Init(args) => init(&args)?,
        PkiCommand::Issue(args) => issue(&args)?,
        PkiCommand::Bundle(args) => bundle(&args)?,
        PkiCommand::Show(args) => return show::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let domain = args.trust_domain.clone();
    let authority =
        ClusterAuthority::create(domain, args.key.into(), args.valid_for, UnixTime::now())?;
    let (certificate, key) = (args.dir.join(files::BUNDLE), args.dir.join(files::AUTHORITY_KEY));
    refuse_existing(&[&certificate, &key], "an authority is never replaced: move it away first")?;
    files::make_folder(&args.dir)?;
    // The key first: a certificate without its key would look like a whole authority.
    files::write_key(&key, authority.key_pem().as_bytes(), IfExists::Keep)?;
    let pem = authority.bundle()?.to_pem();
    with_key(&key, IfExists::Keep, || files::write(&certificate, pem.as_bytes(), IfExists::Keep))?;
    print(&format!(
        "{}: certificate of trust domain {}, valid until {}\n\
         {}: its key; whoever has it can act as any node of this cluster\n",
        certificate.display(),
        authority.domain(),
        rfc3339(authority.certificate().not_after),
        key.display(),
    ))
}

fn issue(args: &IssueArgs) -> anyhow::Result<()> {
    let ca = files::load_authority(&args.ca).context("cannot use the authority")?;
    let now = UnixTime::now();
    let node = ca.issue(&args.node, args.key.into(), args.ttl, now).context("cannot issue")?;
    let (chain, key) = (args.out.join(files::NODE_CHAIN), args.out.join(files::NODE_KEY));
    let existing = if args.overwrite { IfExists::Replace } else { IfExists::Keep };
    if existing == IfExists::Keep {
        refuse_existing(&[&chain, &key], "--overwrite replaces them")?;
    }
    files::make_folder(&args.out)?;
    write_bundle(&ca, &args.out.join(files::BUNDLE))?;
    files::write_key(&key, node.key_pem().as_bytes(), existing)?;
    let pem = node.certificate.to_pem();
    with_key(&key, existing, || files::write(&chain, pem.as_bytes(), existing))?;
    let left = node.certificate.not_after.as_secs().saturating_sub(now.as_secs());
    print(&format!(
        "{}: {}, valid until {} ({} from now)\n{}: its key\n",
        chain.display(),
        node.certificate.id,
        rfc3339(node.certificate.not_after),
        in_words(Duration::from_secs(left)),
        key.display(),
    ))
}

/// Writes what belongs to a new key, and removes the key again if that fails: alone it is of no
/// use, and would prevent the next attempt.
fn with_key(
    key: &Path,
    existing: IfExists,
    write: impl FnOnce() -> Result<(), FileError>,
) -> anyhow::Result<()> {
    let written = write();
    if written.is_err() && existing == IfExists::Keep {
        std::fs::remove_file(key).ok();
    }
    Ok(written?)
}

/// Writes the cluster's bundle into a node's folder. A bundle that is there and includes the
/// authority stays: it may hold the next authority, too.
fn write_bundle(ca: &ClusterAuthority, path: &Path) -> anyhow::Result<()> {
    if !path.try_exists()? {
        return Ok(files::write(path, ca.bundle()?.to_pem().as_bytes(), IfExists::Keep)?);
    }
    let known = files::load_bundle(path, ca.domain())?;
    let own = ca.certificate().certificate();
    if known.authorities().iter().any(|authority| authority.certificate() == own) {
        return Ok(());
    }
    bail!(
        "{} does not hold the authority that would issue this: add its certificate there first, or every \
         sibling refuses the node",
        path.display()
    )
}

fn bundle(args: &BundleArgs) -> anyhow::Result<()> {
    let path = args.ca.join(files::BUNDLE);
    let bundle = TrustBundle::from_own_pem(&files::read(&path)?)
        .with_context(|| path.display().to_string())?;
    let text = match args.format {
        BundleFormat::Pem => bundle.to_pem(),
        BundleFormat::Spiffe => bundle.to_spiffe(),
    };
    let Some(out) = &args.out else { return print(&text) };
    let existing = if args.overwrite { IfExists::Replace } else { IfExists::Keep };
    if existing == IfExists::Keep {
        refuse_existing(&[out], "--overwrite replaces it")?;
    }
    files::write(out, text.as_bytes(), existing)?;
    print(&format!("{}: trust bundle of {}\n", out.display(), bundle.domain()))
}

/// Refuses before anything is written, rather than half-way.
fn refuse_existing(paths: &[&PathBuf], hint: &str) -> anyhow::Result<()> {
    for path in paths {
        // A dangling link counts: it would be followed.
        if path.symlink_metadata().is_ok() {
            bail!("{} exists and is left as it is ({hint})", path.display());
        }
    }
    Ok(())
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    parse_duration(text, &(authority::MIN_CERT_LIFETIME..=authority::MAX_CERT_LIFETIME))
}

fn parse_validity(text: &str) -> Result<Duration, String> {
    parse_duration(text, &(authority::MIN_CERT_LIFETIME..=authority::MAX_CA_LIFETIME))
}
