//! The certificate of a node on Kubernetes: had before it starts, and renewed at half of its life.

use std::time::Duration;

use adit_config::Config;
use adit_kubernetes::Client;
use adit_kubernetes::node::certificate::request;
use adit_pki::files::{self, Existing};
use adit_pki::{Identity, UnixTime};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::process::credentials;
use crate::process::origin::Input;

/// What is waited after a certificate could not be had, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest nap between two looks at the clock: a machine that was asleep finds its certificate old.
const NAP: Duration = Duration::from_secs(60);

/// Makes sure that there is a certificate that can be used.
///
/// # Errors
/// Where it cannot be kept.
pub(crate) async fn have(client: &Client, config: &Config) -> Result<(), String> {
    let mut pause = AGAIN.0;
    while let Err(reason) = identity(config) {
        tracing::info!(reason, "asking for a certificate");
        match obtain(client, config).await {
            Ok(()) => match identity(config) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::error!("the certificate that was given is of no use: {error}")
                }
            },
            Err(Failure::Disk(error)) => return Err(error),
            Err(Failure::Request(error)) => tracing::warn!("no certificate yet: {error}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
    Ok(())
}

/// Renews it for as long as the node runs.
pub(crate) async fn renew(client: Client, config: Config, tell: mpsc::Sender<Input>) {
    let draw = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    let mut pause = AGAIN.0;
    loop {
        if let Ok(identity) = identity(&config)
            && let Some(left) = until_renewal(&identity, draw, UnixTime::now())
        {
            sleep(left.min(NAP)).await;
            continue;
        }
        match obtain(&client, &config).await {
            Ok(()) => {
                pause = AGAIN.0;
                let files = [files::NODE_CHAIN, files::NODE_KEY];
                let files = files.map(|name| config.node.identity.join(name)).into();
                // The receiver is gone only when the process ends.
                drop(tell.send(Input::Files(files)).await);
            }
            Err(Failure::Disk(error) | Failure::Request(error)) => {
                tracing::warn!("the certificate is not renewed yet: {error}");
                sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// How long until half of its life is over, give or take a tenth (`draw` is 0 to 1), so that nodes which
/// started together do not ask together; none where that is past.
fn until_renewal(identity: &Identity, draw: f64, now: UnixTime) -> Option<Duration> {
    let (from, to) = (identity.not_before().as_secs(), identity.not_after().as_secs());
    let life = Duration::from_secs(to.saturating_sub(from));
    let at = Duration::from_secs(from) + life.mul_f64(0.45 + 0.1 * draw);
    at.checked_sub(Duration::from_secs(now.as_secs())).filter(|left| !left.is_zero())
}

/// The one on disk, where it can be used.
fn identity(config: &Config) -> Result<Identity, String> {
    let (folder, domain) = (&config.node.identity, &config.trust_domain);
    let loaded = files::load_node(folder, domain, &Default::default(), UnixTime::now());
    let (identity, _) = loaded.map_err(|e| e.to_string())?;
    credentials::belongs(config, &identity)?;
    Ok(identity)
}

/// Why there is no new certificate.
enum Failure {
    /// Nobody gave one.
    Request(String),
    /// It could not be kept.
    Disk(String),
}

async fn obtain(client: &Client, config: &Config) -> Result<(), Failure> {
    let issued = request(client, &config.trust_domain, &config.node.name)
        .await
        .map_err(|e| Failure::Request(e.to_string()))?;
    let write = |name, bytes: &[u8]| {
        let file = config.node.identity.join(name);
        files::write_key(&file, bytes, Existing::Replace).map_err(|e| Failure::Disk(e.to_string()))
    };
    write(files::NODE_KEY, issued.key.as_bytes())?;
    write(files::NODE_CHAIN, &issued.chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Ca, now};

    #[test]
    fn a_certificate_is_renewed_around_half_of_its_life() {
        let folder = tempfile::tempdir().unwrap();
        Ca::of("edge").issue("e1", folder.path());
        let domain = "edge.example".parse().unwrap();
        let (identity, _) =
            files::load_node(folder.path(), &domain, &Default::default(), now()).unwrap();
        let (from, to) = (identity.not_before().as_secs(), identity.not_after().as_secs());
        let at = |share: f64, draw: f64| {
            let passed = Duration::from_secs(to - from).mul_f64(share);
            let then = UnixTime::since_unix_epoch(Duration::from_secs(from) + passed);
            until_renewal(&identity, draw, then).is_none()
        };
        assert!(!at(0.0, 0.0) && !at(0.44, 0.0), "too early");
        assert!(at(0.46, 0.0) && !at(0.46, 1.0), "not all at once");
        assert!(at(0.56, 1.0) && at(2.0, 0.5));
    }
}
