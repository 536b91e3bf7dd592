//! A node's life against a data plane that only notes what it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use adit_core::snapshot::Snapshot;
use adit_pki::PeerVerifier;
use adit_runtime::Mutex;
use tokio::sync::oneshot;

use super::super::credentials::Credentials;
use super::super::process_state::{MutableState, StaticState};
use super::*;
use crate::metrics::gauges::ProcessTotals;
use crate::readiness::Readiness;
use crate::status::build::Traffic;
use crate::status::{ConfigurationStatus, Link, PeerNode, StatusDocument};
use crate::testing::{TestCa, now};

/// This many streams never end, not even when they are reset.
const STUCK: u64 = 100;

/// Notes what it is asked; has as many streams open as a test says.
#[derive(Clone)]
struct FakeDataPlane {
    open: Arc<watch::Sender<u64>>,
    asked: Arc<Mutex<Vec<String>>>,
    not_listening_at: Arc<Mutex<BTreeMap<SocketAddr, String>>>,
}

impl FakeDataPlane {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().push(what.into());
    }
}

impl DataPlane for FakeDataPlane {
    type StatusSource = Self;

    fn status_source(&self) -> Self {
        self.clone()
    }

    fn recheck(&self, verifier: Option<&PeerVerifier>) {
        if verifier.is_some() {
            self.note("recheck");
        }
    }

    async fn drain(&self, within: Duration) -> u64 {
        self.note("go away");
        let mut open = self.open.subscribe();
        if timeout(within, open.wait_for(|n| *n == 0)).await.is_ok() {
            return 0;
        }
        let reset = *self.open.borrow();
        self.note("reset");
        if reset >= STUCK {
            std::future::pending().await
        }
        reset
    }
}

impl StatusSource for FakeDataPlane {
    fn links(&self) -> (Vec<Link>, Vec<PeerNode>) {
        Default::default()
    }

    fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        traffic.streams.open = *self.open.borrow();
        traffic
    }

    fn totals(&self) -> ProcessTotals {
        ProcessTotals::default()
    }

    fn not_listening(&self) -> BTreeMap<SocketAddr, String> {
        self.not_listening_at.lock().clone()
    }
}

/// A node that runs, and the ends to talk to it.
struct SupervisorScene {
    folder: tempfile::TempDir,
    fake: FakeDataPlane,
    known: Arc<ProcessState<FakeDataPlane>>,
    snapshot: watch::Receiver<SnapshotBuilder>,
    changes: mpsc::Sender<ConfigUpdate>,
    commands: mpsc::Sender<AdminCommand>,
    signals: mpsc::Sender<SignalAction>,
    succeed: mpsc::Sender<Successor>,
    handover: HandoverState,
}

const A: &str = "127.0.0.1:15080";
const B: &str = "127.0.0.1:15081";

fn text(imports: &[&str], more: &str) -> String {
    let import = |(n, a): (usize, &&str)| {
        format!(
            "  - {{service: agents/a{n}, from: bank, ports: [{{name: http, port: 80, listen: \"{a}\"}}]}}\n"
        )
    };
    let imports: String = imports.iter().enumerate().map(import).collect();
    format!(
        "cluster: edge\ntrustDomain: edge.example\nnode: {{name: e1, listen: \"127.0.0.1:7843\", identity: id}}\n\
         links:\n  - {{cluster: bank, trustDomain: bank.example, trustBundle: bank.pem}}\nimports:\n{imports}{more}"
    )
}

fn state(
    config: &Arc<Config>,
    configuration: ConfigurationStatus,
    snapshot: Arc<Snapshot>,
    status_source: FakeDataPlane,
) -> ProcessState<FakeDataPlane> {
    ProcessState {
        statics: StaticState::new("00".into(), Instant::now(), vec![]),
        mutable: MutableState::new(Config::clone(config), configuration, None).into(),
        draining: AtomicBool::new(false),
        readiness: Readiness::default(),
        credentials: Arc::new(Credentials::load(config, now()).unwrap().0),
        snapshot: watch::channel(snapshot).1,
        status_source,
        log: None,
    }
}

impl SupervisorScene {
    /// Starts a node with these imports; its life is the future.
    fn start(imports: &[&str], more: &str) -> (Self, impl Future<Output = ProcessExit> + use<>) {
        Self::start_as(imports, more, false)
    }

    /// The same, where somebody starts a successor if `followed`.
    fn start_as(
        imports: &[&str],
        more: &str,
        followed: bool,
    ) -> (Self, impl Future<Output = ProcessExit> + use<>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.yaml");
        std::fs::write(&file, text(imports, more)).unwrap();
        TestCa::new("edge").issue("e1", &folder.path().join("id"));
        TestCa::new("bank").bundle(&folder.path().join("bank.pem"));
        let config = Arc::new(adit_config::load(&file).unwrap().0);
        let origin = ConfigSource::File(file);

        let fake = FakeDataPlane {
            open: Arc::default(),
            asked: Arc::default(),
            not_listening_at: Arc::default(),
        };
        let base = SnapshotBuilder::from_config(&config, &[]);
        let snapshot = Arc::new(base.snapshot(&Default::default(), &Default::default()));
        let (base, bases) = watch::channel(base);
        let known = Arc::new(state(&config, origin.describe(), snapshot, fake.clone()));
        let handover = HandoverState::default();
        let data = fake.clone();
        let supervisor = NodeSupervisor {
            config_source: origin,
            data_plane: data,
            state: known.clone(),
            base,
            handover: handover.clone(),
            expects_successor: followed,
        };
        let (signals, mut actions) = mpsc::channel(4);
        let (commands, commands_in) = mpsc::channel(4);
        let (changes, changes_in) = mpsc::channel(4);
        let next = async move || match actions.recv().await {
            Some(action) => action,
            None => std::future::pending().await,
        };
        let (succeed, successors) = mpsc::channel(1);
        let events = SupervisorEvents {
            signals: next,
            commands: commands_in,
            config_updates: changes_in,
            successors,
        };
        let scene = Self {
            folder,
            fake,
            known,
            snapshot: bases,
            changes,
            commands,
            signals,
            succeed,
            handover,
        };
        (scene, supervisor.run(events))
    }

    fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("edge.yaml"), text).unwrap();
    }

    /// Sends the change that the watching thread would report of this text.
    async fn change(&self, text: &str) {
        self.write(text);
        let origin = ConfigSource::File(self.folder.path().join("edge.yaml"));
        self.changes.send(ConfigUpdate::Config(origin.load())).await.unwrap();
        // Answered after it, since events are taken one by one.
        self.settled().await;
    }

    async fn settled(&self) {
        while self.changes.capacity() < self.changes.max_capacity() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }

    async fn reload(&self) -> ReloadReply {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(AdminCommand::Reload(answer)).await.unwrap();
        outcome.await.unwrap()
    }

    async fn end(&self) {
        self.signals.send(SignalAction::End(15)).await.unwrap();
    }

    fn status(&self) -> StatusDocument {
        self.known.status()
    }

    /// The addresses that would be listened on.
    fn imports(&self) -> Vec<String> {
        let now = self.snapshot.borrow().snapshot(&Default::default(), &Default::default());
        let mut all: Vec<_> = now.imports.addresses().map(|a| a.to_string()).collect();
        all.sort();
        all
    }

    fn asked(&self) -> Vec<String> {
        self.fake.asked.lock().clone()
    }
}

#[tokio::test]
async fn a_good_file_is_applied_and_touches_only_what_it_changes() {
    let (scene, life) = SupervisorScene::start(&[A], "");
    let script = async {
        let before = scene.status().node.configuration;
        scene.change(&text(&[A, B], "")).await;
        assert_eq!(scene.imports(), [A, B]);
        assert_ne!(scene.status().node.configuration.digest, before.digest);

        assert_eq!(
            scene.reload().await,
            ReloadReply::Applied { changes: vec![] },
            "nothing is new"
        );
        scene.write(&text(&[B], ""));
        assert_eq!(scene.reload().await, ReloadReply::Applied { changes: vec!["imports".into()] });
        assert_eq!(scene.imports(), [B]);
        scene.write(&text(&[B], "metrics: {listen: \"127.0.0.1:9902\"}\n"));
        assert_eq!(scene.reload().await, ReloadReply::Applied { changes: vec![] });
        assert_eq!(scene.status().node.configuration.needs_restart, ["metrics"]);
        scene.end().await;
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!(ended, ProcessExit::Drained { reset: 0 });
}

#[tokio::test]
async fn a_bad_file_is_told_and_the_last_good_one_stays() {
    let (scene, life) = SupervisorScene::start(&[A], "");
    let script = async {
        scene.change(&text(&[A], "linsk: []\n")).await;
        let error = scene.status().node.configuration.error.unwrap();
        assert!(error.contains("linsk"), "{error}");
        assert!(scene.status().problems.iter().any(|p| p.reason.code == "configuration-rejected"));
        assert!(!scene.snapshot.has_changed().unwrap());
        let ReloadReply::Rejected { error: again } = scene.reload().await else { panic!("taken") };
        assert_eq!(again, error);

        scene.change(&text(&[A], "")).await;
        assert_eq!(scene.status().node.configuration.error, None, "good again");
        assert!(!scene.snapshot.has_changed().unwrap(), "and nothing else happened");
        scene.end().await;
    };
    tokio::join!(life, script);
}

#[tokio::test]
async fn renewed_files_are_taken_without_a_reload() {
    let (scene, life) = SupervisorScene::start(&[], "");
    let script = async {
        let identity = scene.known.credentials.identity.get();
        TestCa::new("edge").issue("e1", &scene.folder.path().join("id"));
        scene
            .changes
            .send(ConfigUpdate::Files(vec![scene.folder.path().join("id/node.pem")]))
            .await
            .unwrap();
        scene.settled().await;
        assert_ne!(scene.known.credentials.identity.get().chain(), identity.chain());
        assert_eq!(scene.asked(), ["recheck"], "connections are held to what is believed now");
        std::fs::write(scene.folder.path().join("id/node.pem"), "").unwrap();
        assert!(matches!(scene.reload().await, ReloadReply::Rejected { .. }));
        assert!(scene.status().node.certificate.error.is_some());
        scene.end().await;
    };
    tokio::join!(life, script);
}

#[tokio::test]
async fn who_is_denied_is_refused_and_rechecked_when_the_file_says_so() {
    let (scene, life) = SupervisorScene::start(&[A], "");
    let script = async {
        let denied = "denied: {clusters: [{cluster: bank, reason: broken into}]}\n";
        scene.change(&text(&[A], denied)).await;
        assert_eq!(scene.asked(), ["recheck"]);
        let id = "spiffe://bank.example/adit/node/b1".parse().unwrap();
        let refuses = || scene.known.credentials.verifier.trust().denied.find(&id, []).is_some();
        assert!(refuses());
        let shown = scene.status().denied;
        assert_eq!((shown.len(), shown[0].entry.as_str()), (1, "denied.clusters: bank"));
        assert_eq!(shown[0].reason.as_deref(), Some("broken into"));
        // A file with a mistake takes nobody off the list.
        scene.change(&text(&[A], "denied: {clusters: [edge]}\n")).await;
        assert!(refuses() && scene.asked().len() == 1);
        scene.change(&text(&[A], "")).await;
        assert!(!refuses());
        scene.end().await;
    };
    tokio::join!(life, script);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_successor_serves_until_its_last_moment() {
    let (scene, life) = SupervisorScene::start(&[A], "limits: {leave: 20s}\n");
    scene.fake.open.send_replace(3);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.end().await;
        sleep(Duration::from_secs(18)).await;
        assert_eq!(scene.asked(), [""; 0], "it serves as before");
        assert_eq!(scene.status().node.waiting_for, ["draining"]);
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(scene.asked(), ["go away"]);
        // What still runs is still subject to what the operator says.
        scene.write(&text(&[], "limits: {leave: 20s}\n"));
        scene.signals.send(SignalAction::Reload).await.unwrap();
        assert_eq!(scene.reload().await, ReloadReply::Applied { changes: vec![] });
        let now = scene.snapshot.borrow().snapshot(&Default::default(), &Default::default());
        assert_eq!(now.imports.iter().count(), 0);
        scene.fake.open.send_replace(2);
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!(ended, ProcessExit::Drained { reset: 2 });
    assert_eq!(begun.elapsed().as_secs(), 20);
    assert_eq!(scene.asked(), ["go away", "reset"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_successor_ends_with_the_last_stream() {
    let (scene, life) = SupervisorScene::start(&[], "");
    scene.fake.open.send_replace(1);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.commands.send(AdminCommand::Drain).await.unwrap();
        sleep(Duration::from_secs(7)).await;
        scene.fake.open.send_replace(0);
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 0 }, 7));
    assert_eq!(scene.asked(), ["go away"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_successor_left_to_a_node_may_finish_for_an_hour() {
    let (scene, life) = SupervisorScene::start_as(&[A], "", true);
    scene.fake.open.send_replace(2);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.succeed.send(Successor { version: "2".into() }).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.asked(), ["go away"], "nothing new");
        assert!(scene.handover.taken_over.is_cancelled(), "the files are the successor's");
        sleep(Duration::from_secs(50)).await;
        // Kubernetes asks it to end once the successor is ready.
        scene.end().await;
        sleep(Duration::from_secs(3000)).await;
        assert_eq!(scene.asked(), ["go away"]);
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 2 }, 3600));
}

#[tokio::test(start_paused = true)]
async fn a_node_on_kubernetes_waits_for_its_successor_and_to_be_asked() {
    // Nothing is open, and yet somebody is about to come for its sockets.
    let (scene, life) = SupervisorScene::start_as(&[A], "", true);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.end().await;
        sleep(Duration::from_secs(9)).await;
        assert_eq!(scene.asked(), [""; 0]);
        scene.succeed.send(Successor { version: "2".into() }).await.unwrap();
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 0 }, 9));

    // One that ended before it was asked to would be started again.
    let (scene, life) = SupervisorScene::start_as(&[A], "", true);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.succeed.send(Successor { version: "2".into() }).await.unwrap();
        sleep(Duration::from_secs(40)).await;
        scene.end().await;
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 0 }, 40));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_successor_or_an_old_node_where_adit_is_removed() {
    let (scene, life) = SupervisorScene::start_as(&[A], "", true);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.end().await;
        sleep(Duration::from_secs(3)).await;
        scene.handover.removed.cancel();
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 0 }, 3));

    let (scene, life) = SupervisorScene::start_as(&[A], "", true);
    scene.fake.open.send_replace(1);
    let begun = tokio::time::Instant::now();
    let script = async {
        scene.succeed.send(Successor { version: "2".into() }).await.unwrap();
        sleep(Duration::from_secs(100)).await;
        scene.end().await;
        scene.handover.removed.cancel();
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!((ended, begun.elapsed().as_secs()), (ProcessExit::Drained { reset: 1 }, 130));
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once_and_streams_that_do_not_end_hold_nothing_up() {
    let (mut scene, life) = SupervisorScene::start(&[], "");
    scene.fake.open.send_replace(1);
    let script = async {
        scene.end().await;
        sleep(Duration::from_secs(1)).await;
        scene.signals.send(SignalAction::End(2)).await.unwrap();
    };
    let (ended, ()) = tokio::join!(life, script);
    assert_eq!(ended, ProcessExit::Immediate { signal: 2 });

    let begun = tokio::time::Instant::now();
    let life;
    (scene, life) = SupervisorScene::start(&[], "limits: {leave: 1s}\n");
    scene.fake.open.send_replace(STUCK);
    scene.end().await;
    assert_eq!(life.await, ProcessExit::Drained { reset: STUCK });
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_listen_is_not_ready_until_it_can() {
    let (scene, _life) = SupervisorScene::start(&[A], "");
    let left = || scene.known.readiness.pending();
    let script = async {
        sleep(Duration::from_secs(3)).await;
        assert!(left().is_empty());
        scene.fake.not_listening_at.lock().insert(A.parse().unwrap(), "taken".into());
        sleep(Duration::from_secs(3)).await;
        assert_eq!(left(), ["listeners"]);
        scene.fake.not_listening_at.lock().clear();
        sleep(Duration::from_secs(3)).await;
        assert!(left().is_empty());
    };
    tokio::select! {
        () = super::super::readiness_checks::watch(scene.known.clone()) => {}
        () = script => {}
    }
}
