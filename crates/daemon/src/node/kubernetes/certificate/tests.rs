//! Renewal against a controller whose clock is its own, in virtual time.

use std::cell::RefCell;

use adit_core::spiffe::TrustDomain;
use tokio::time::{Instant, timeout};

use super::*;
use crate::testing::{HOUR_LIFETIME, TestCa, now};

const DAY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// `time` and so much.
fn after(time: UnixTime, seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        time.as_secs().checked_add_signed(seconds).unwrap(),
    ))
}

#[test]
fn a_certificate_is_renewed_around_half_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    TestCa::new("edge").issue("e1", folder.path());
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

/// A node whose certificate has to be renewed, and what comes of it within some time.
struct RenewalScene {
    folder: tempfile::TempDir,
    begun: UnixTime,
}

/// The result of the renewals.
struct RenewalOutcome {
    /// In which trust domain was asked.
    asked: Vec<TrustDomain>,
    /// The number of times that the supervisor was told of new files.
    told: usize,
    /// The chain that is on the disk.
    chain: Vec<u8>,
}

impl RenewalScene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap(), begun: now() };
        TestCa::new("edge").bundle(&scene.folder.path().join(files::BUNDLE));
        scene
    }

    fn config(&self, domain: &str) -> Config {
        let folder = self.folder.path().display();
        let text = format!(
            "cluster: edge\ntrustDomain: {domain}\nnode: {{name: e1, listen: \"127.0.0.1:7843\", identity: {folder}}}\n"
        );
        adit_config::parse(text.as_bytes(), "edge.yaml".as_ref()).unwrap().0
    }

    /// Renews for `long`; the node's clock is `ahead` of the controller's, who signs for `ca`.
    async fn renew(
        &self,
        ca: &TestCa,
        present: &str,
        ahead: i64,
        long: Duration,
    ) -> RenewalOutcome {
        let (tell, mut told) = mpsc::channel(1000);
        let asked = RefCell::new(Vec::new());
        let begun = Instant::now();
        let clock = || after(self.begun, i64::try_from(begun.elapsed().as_secs()).unwrap());
        let ask = async |config: Config| {
            sleep(Duration::from_millis(200)).await;
            asked.borrow_mut().push(config.trust_domain);
            assert!(asked.borrow().len() < 100, "hardly a pause between two requests");
            Ok(ca.certify("e1", DAY_LIFETIME, clock()))
        };
        let present = || Some(self.config(present));
        let config = self.config("edge.example");
        let renewing = renew_with(config, present, 0.5, || after(clock(), ahead), ask, tell);
        timeout(long, renewing).await.unwrap_err();
        let mut times = 0;
        while told.try_recv().is_ok() {
            times += 1;
        }
        let chain = std::fs::read(self.folder.path().join(files::NODE_CHAIN)).unwrap();
        RenewalOutcome { asked: asked.into_inner(), told: times, chain }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_controller_whose_clock_is_ahead_is_asked_ever_more_seldom() {
    let (scene, ca) = (RenewalScene::new(), TestCa::new("edge"));
    let behind = -3600;
    ca.bundle(&scene.folder.path().join(files::BUNDLE));
    let old = ca.certify("e1", DAY_LIFETIME, after(scene.begun, behind - 15 * 3600));
    let keep = |name, bytes: &[u8]| {
        files::write_key(&scene.folder.path().join(name), bytes, IfExists::Replace).unwrap();
    };
    keep(files::NODE_CHAIN, &old.chain);
    keep(files::NODE_KEY, old.key.as_bytes());
    assert!(usable_identity(&scene.config("edge.example"), after(scene.begun, behind)).is_ok());

    let outcome = scene.renew(&ca, "edge.example", behind, 2 * HOUR_LIFETIME).await;
    // 1 + 2 + ... + 512 s, and every ten minutes from then on.
    let asked = outcome.asked.len();
    assert!((18..=22).contains(&asked), "asked {asked} times");
    assert_eq!(outcome.told, 0);
    assert!(outcome.chain == old.chain, "the one that can be used was given up");

    let fresh = ca.certify("e1", DAY_LIFETIME, scene.begun);
    let text = unusable("so", &fresh, after(scene.begun, behind)).to_string();
    let (theirs, ours) = (rfc3339(scene.begun), rfc3339(after(scene.begun, behind)));
    assert!(text.contains(&theirs) && text.contains(&ours), "{text}");
}

#[tokio::test(start_paused = true)]
async fn of_a_controller_whose_clock_is_behind_is_asked_ever_more_seldom() {
    let (scene, ca) = (RenewalScene::new(), TestCa::new("edge"));
    ca.issue("e1", scene.folder.path());
    let outcome = scene.renew(&ca, "edge.example", 14 * 3600, 2 * HOUR_LIFETIME).await;
    let asked = outcome.asked.len();
    assert!((18..=22).contains(&asked), "asked {asked} times");
    assert_eq!(outcome.told, asked, "each lasts longer than the one before");
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_the_trust_domain_one_is_asked_for_there() {
    let (scene, ca) = (RenewalScene::new(), TestCa::new("other"));
    TestCa::new("edge").issue("e1", scene.folder.path());
    ca.bundle(&scene.folder.path().join(files::BUNDLE));
    let outcome = scene.renew(&ca, "other.example", 0, 2 * HOUR_LIFETIME).await;
    assert_eq!(outcome.asked, ["other.example".parse().unwrap()]);
    assert_eq!(outcome.told, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_its_first_takes_the_ca_that_replaces_another() {
    let (scene, next) = (RenewalScene::new(), TestCa::new("edge"));
    let attempts = RefCell::new(0);
    let present = async || {
        *attempts.borrow_mut() += 1;
        if *attempts.borrow() == 3 {
            next.bundle(&scene.folder.path().join(files::BUNDLE));
        }
        Ok(scene.config("edge.example"))
    };
    let ask = async |_: Config| Ok(next.certify("e1", DAY_LIFETIME, scene.begun));
    let had = ensure_with(present, || scene.begun, ask);
    timeout(HOUR_LIFETIME, had).await.expect("of use in the end").unwrap();
    assert_eq!(*attempts.borrow(), 3);
    assert!(usable_identity(&scene.config("edge.example"), scene.begun).is_ok());
}
