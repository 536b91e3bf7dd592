//! The certificate of a node on Kubernetes: had before it starts, and renewed at half of its life.
//!
//! One that was given is looked at before it replaces another. Where this node's clock and the controller's
//! differ it may be of no use here, and the next one would not be better: each attempt in vain is followed
//! by a pause.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use adit_config::Config;
use adit_core::backoff::Backoff;
use adit_kubernetes::Client;
use adit_kubernetes::node::certificate::{NodeCertificate, request_certificate};
use adit_pki::authority::BACKDATE_INTERVAL;
use adit_pki::files::{self, IfExists};
use adit_pki::inspect::inspect;
use adit_pki::time::rfc3339;
use adit_pki::{Identity, UnixTime};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::node::config_update::ConfigUpdate;
use crate::node::credentials;

/// The pauses after requests that failed.
const REFUSED_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The pauses after certificates that cannot be used, longer since the API server keeps each for an hour.
const UNUSABLE_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));
/// The longest nap between two looks at the clock: a machine that was asleep finds its certificate old.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Makes sure that there is a certificate that can be used; `present` has the configuration as it is at each
/// attempt, and the bundle of the CA that signs then.
///
/// # Errors
/// If it cannot be kept, and those of `present`.
pub(in crate::node) async fn ensure_certificate(
    client: &Client,
    present: impl AsyncFn() -> Result<Config, String>,
) -> Result<(), String> {
    ensure_with(present, UnixTime::now, requester(client)).await
}

async fn ensure_with<A: Future<Output = IssueResult>>(
    present: impl AsyncFn() -> Result<Config, String>,
    now: impl Fn() -> UnixTime,
    ask: impl Fn(Config) -> A,
) -> Result<(), String> {
    let mut failures = 0;
    loop {
        let config = present().await?;
        let Err(reason) = usable_identity(&config, now()) else { return Ok(()) };
        tracing::info!(reason, "asking for a certificate");
        match obtain_certificate(&config, &now, &ask).await {
            Ok(_) => return Ok(()),
            Err(RenewalError::Disk(error)) => return Err(error),
            Err(failure) => {
                tracing::warn!("no certificate yet: {failure}");
                failure.back_off(&mut failures).await;
            }
        }
    }
}

/// Renews the certificate for as long as it is polled. `present` gives the configuration in force, if there is a good
/// one; `config` is the one that the node started with. Sends the names of new files as `updates`.
pub(in crate::node) async fn renew(
    client: Client,
    present: impl Fn() -> Option<Config>,
    config: Config,
    updates: mpsc::Sender<ConfigUpdate>,
) {
    let draw = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    renew_with(config, present, draw, UnixTime::now, requester(&client), updates).await;
}

async fn renew_with<A: Future<Output = IssueResult>>(
    mut config: Config,
    present: impl Fn() -> Option<Config>,
    draw: f64,
    now: impl Fn() -> UnixTime,
    ask: impl Fn(Config) -> A,
    tell: mpsc::Sender<ConfigUpdate>,
) {
    let mut failures = 0;
    loop {
        config = present().unwrap_or(config);
        let left = |identity: &Identity| until_renewal(identity, draw, now());
        if let Some(left) = usable_identity(&config, now()).ok().as_ref().and_then(left) {
            failures = 0;
            sleep(left.min(CLOCK_CHECK_INTERVAL)).await;
            continue;
        }
        let failure = match obtain_certificate(&config, &now, &ask).await {
            Ok(issued) => {
                let files = [files::NODE_CHAIN, files::NODE_KEY];
                let files = files.map(|name| config.node.identity.join(name)).into();
                // The receiver is gone only when the process ends.
                drop(tell.send(ConfigUpdate::Files(files)).await);
                match usable_identity(&config, now()).as_ref().map(left) {
                    Ok(Some(_)) => continue,
                    Ok(None) => unusable("it has to be renewed already", &issued, now()),
                    Err(why) => unusable(why, &issued, now()),
                }
            }
            Err(failure) => failure,
        };
        tracing::warn!("the certificate is not renewed yet: {failure}");
        failure.back_off(&mut failures).await;
    }
}

/// Time until half of its lifetime is over, give or take a tenth (`draw` is 0 to 1), so that nodes which
/// started together do not ask together; `None` if that is past.
fn until_renewal(identity: &Identity, draw: f64, now: UnixTime) -> Option<Duration> {
    let (from, to) = (identity.not_before().as_secs(), identity.not_after().as_secs());
    let life = Duration::from_secs(to.saturating_sub(from));
    let at = Duration::from_secs(from) + life.mul_f64(0.45 + 0.1 * draw);
    at.checked_sub(Duration::from_secs(now.as_secs())).filter(|left| !left.is_zero())
}

/// The one on disk, where it can be used.
fn usable_identity(config: &Config, now: UnixTime) -> Result<Identity, String> {
    let (folder, domain) = (&config.node.identity, &config.trust_domain);
    let loaded = files::load_node(folder, domain, &Default::default(), now);
    let join_errors = |all: Vec<files::FileError>| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let (identity, _) = loaded.map_err(join_errors)?;
    credentials::check_belongs(config, &identity)?;
    Ok(identity)
}

/// Checks that the certificate issued can be used.
fn check_issued(config: &Config, issued: &NodeCertificate, now: UnixTime) -> Result<(), String> {
    let bundle = config.node.identity.join(files::BUNDLE);
    let bundle = files::load_bundle(&bundle, &config.trust_domain).map_err(|e| e.to_string())?;
    let key = issued.key.as_bytes();
    let identity = Identity::from_pem(&issued.chain, key, &bundle, &Default::default(), now)
        .map_err(|e| e.to_string())?;
    credentials::check_belongs(config, &identity)
}

/// Why there is no new certificate.
enum RenewalError {
    /// Nobody gave one.
    Request(String),
    /// The certificate issued cannot be used.
    Unusable(String),
    /// The certificate could not be written.
    Disk(String),
}

impl RenewalError {
    /// Waits until it is worth another attempt; `failures` counts those in a row before this one.
    async fn back_off(&self, failures: &mut u32) {
        let backoff = match self {
            Self::Request(_) | Self::Disk(_) => REFUSED_BACKOFF,
            Self::Unusable(_) => UNUSABLE_BACKOFF,
        };
        sleep(backoff.delay(*failures)).await;
        *failures = failures.saturating_add(1);
    }
}

impl fmt::Display for RenewalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Request(text) | Self::Unusable(text) | Self::Disk(text)) = self;
        f.write_str(text)
    }
}

/// The error about a certificate that was just issued and cannot be used; more often than not the clocks differ.
fn unusable(why: &str, issued: &NodeCertificate, now: UnixTime) -> RenewalError {
    let leaf = inspect(&issued.chain, now).ok().and_then(|chain| chain.into_iter().next());
    let signed = leaf.map_or_else(String::new, |leaf| {
        let at = Duration::from_secs(leaf.not_before.as_secs()) + BACKDATE_INTERVAL;
        let (server_time, own_time) = (rfc3339(UnixTime::since_unix_epoch(at)), rfc3339(now));
        format!(
            " (it was signed at {server_time} by the controller's clock; by this node's it is {own_time})"
        )
    });
    RenewalError::Unusable(format!("the one that was given is of no use: {why}{signed}"))
}

/// The answer to a request for a certificate.
type IssueResult = Result<NodeCertificate, String>;

fn requester(
    client: &Client,
) -> impl Fn(Config) -> Pin<Box<dyn Future<Output = IssueResult> + Send>> + use<> {
    let client = client.clone();
    move |config| {
        let client = client.clone();
        Box::pin(async move {
            let issued =
                request_certificate(&client, &config.trust_domain, &config.node.name).await;
            issued.map_err(|e| e.to_string())
        })
    }
}

/// Asks for one, and keeps it where it can be used: one that still can is not given up for one that cannot.
async fn obtain_certificate<A: Future<Output = IssueResult>>(
    config: &Config,
    now: &impl Fn() -> UnixTime,
    ask: &impl Fn(Config) -> A,
) -> Result<NodeCertificate, RenewalError> {
    let issued = ask(config.clone()).await.map_err(RenewalError::Request)?;
    let now = now();
    check_issued(config, &issued, now).map_err(|why| unusable(&why, &issued, now))?;
    let write = |name, bytes: &[u8]| {
        let file = config.node.identity.join(name);
        files::write_key(&file, bytes, IfExists::Replace)
            .map_err(|e| RenewalError::Disk(e.to_string()))
    };
    write(files::NODE_KEY, issued.key.as_bytes())?;
    write(files::NODE_CHAIN, &issued.chain)?;
    Ok(issued)
}

#[cfg(test)]
mod tests;
