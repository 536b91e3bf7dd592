//! The processes in pods as their commands see them: with a node on loopback, spoken to wrongly, or without an answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::{ClusterLink, render};
use adit_core::invitation::{
    InvitationTerms, InviterCommand, InviterEvent, JoinerCommand, JoinerEvent,
};
use adit_pki::{
    BundleFingerprint, ClusterAuthority, Current, Identity, InvitationSecret, InvitationToken,
    KeyKind, PeerVerifier, Trust, UnixTime,
};
use adit_transport::{Endpoints, NodeSecret, OsUdpNetwork, Tls, Tuning, Worker};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{LineError, inviter, joiner};
use crate::admin::client::AdminAddress;
use crate::admin::serve::{self, AdminListener};

fn line(of: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(of).unwrap();
    line.push(b'\n');
    line
}

fn said<T: DeserializeOwned>(output: &[u8]) -> Vec<T> {
    output
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

fn nowhere() -> AdminAddress {
    AdminAddress::parse("/nowhere/admin.sock")
}

#[tokio::test]
async fn what_is_no_command_is_not_repeated() {
    let secret = "adit1-SECRET";
    for input in [format!("{secret}\n"), format!("{{\"dial\": \"{secret}\"}}\n"), String::new()] {
        let mut output = Vec::new();
        let error =
            joiner::run(std::io::Cursor::new(input.clone()), &mut output).await.unwrap_err();
        assert!(matches!(error, LineError::NotUnderstood) && output.is_empty());
        assert!(!error.to_string().contains("SECRET"), "{error}");
        let input = std::io::Cursor::new(input);
        let error = inviter::run(&nowhere(), input, &mut output).await.unwrap_err();
        assert!(matches!(error, LineError::NotUnderstood), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_told_without_it() {
    let mut output = Vec::new();
    let dial = JoinerCommand::Dial { token: "adit1-SECRET".to_owned() };
    joiner::run(&line(&dial)[..], &mut output).await.unwrap();
    let said = said::<JoinerEvent>(&output);
    let [JoinerEvent::Failed { sentence, is_unknown: false }] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(sentence.contains("damaged") && !sentence.contains("SECRET"), "{sentence}");
}

#[tokio::test]
async fn a_node_that_does_not_answer_takes_no_invitation() {
    let terms = InvitationTerms { key: "00".repeat(32), until: 1, document: String::new() };
    let (input, mut output) = (line(&InviterCommand::Offer(terms)), Vec::new());
    inviter::run(&nowhere(), std::io::Cursor::new(input), &mut output).await.unwrap();
    let said = said::<InviterEvent>(&output);
    let [InviterEvent::Failed(why)] = &said[..] else { panic!("{said:?}") };
    assert!(why.contains("/nowhere/admin.sock"), "{why}");
}

const DAY: Duration = Duration::from_secs(86400);

fn now() -> UnixTime {
    UnixTime::now()
}

/// A node of cluster bank on loopback, with its admin server.
struct BankNode {
    document: String,
    fingerprint: BundleFingerprint,
    endpoints: Endpoints,
    admin: AdminAddress,
    _tasks: JoinSet<()>,
}

async fn bank() -> BankNode {
    let made =
        ClusterAuthority::create("bank.adit".parse().unwrap(), KeyKind::P256, 90 * DAY, now());
    let authority = made.unwrap();
    let bundle = authority.bundle().unwrap();
    let issued = authority.issue(&"b1".parse().unwrap(), KeyKind::P256, DAY, now()).unwrap();
    let (chain, key) = (issued.certificate.to_pem(), issued.key_pem());
    let identity =
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), &bundle, &BTreeSet::new(), now());
    let identity = Arc::new(Current::new(identity.unwrap()));
    let verifier = Arc::new(PeerVerifier::new(Trust::default()));
    let tls = Tls::new(&identity, &verifier, &adit_pki::tls::system_clock()).unwrap();
    let (listen, workers) = (["127.0.0.1:0".parse().unwrap()], vec![Worker::current()]);
    let secret = NodeSecret::from_bytes([7; 32]);
    let net = Arc::new(OsUdpNetwork);
    let endpoints =
        Endpoints::bind(net, workers, &listen, &secret, tls, Tuning::default()).unwrap();
    let link = ClusterLink {
        cluster: "bank".parse().unwrap(),
        trust_domain: "bank.adit".parse().unwrap(),
        trust_bundle: bundle.to_pem(),
        addresses: Vec::new(),
        import: Vec::new(),
        create_services: false,
        also_allow: Vec::new(),
    };
    let mut tasks = JoinSet::new();
    let accepting = endpoints.clone();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Some(incoming) = accepting.accept(0).await {
            served.spawn(async move {
                if incoming.is_invitee() {
                    drop(incoming.serve_invitee().await);
                } else {
                    drop(incoming.accept().await);
                }
            });
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = AdminAddress::Tcp(listener.local_addr().unwrap());
    let router = crate::admin::invitation::router(&endpoints);
    tasks.spawn(serve::run(AdminListener::Tcp(listener), router, CancellationToken::new()));
    let (document, fingerprint) = (render::link(&link), BundleFingerprint::of(&bundle));
    BankNode { document, fingerprint, endpoints, admin, _tasks: tasks }
}

/// A process in a pod, from its command's side.
struct PodProcess {
    input: WriteHalf<DuplexStream>,
    output: BufReader<ReadHalf<DuplexStream>>,
}

impl PodProcess {
    fn inviter(admin: AdminAddress) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (read, write) = tokio::io::split(theirs);
        Handle::current()
            .spawn(async move { inviter::run(&admin, BufReader::new(read), write).await });
        Self::new(ours)
    }

    fn joiner() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (read, write) = tokio::io::split(theirs);
        Handle::current().spawn(async move { joiner::run(BufReader::new(read), write).await });
        Self::new(ours)
    }

    /// A joining side that was let in and has asked.
    async fn asking(dial: &JoinerCommand, document: &str, bank: &BankNode) -> Self {
        let mut joining = Self::joiner();
        joining.say(dial).await;
        let JoinerEvent::Offer { document: offered, .. } = joining.hear().await else {
            panic!("no offer")
        };
        assert_eq!(offered, bank.document);
        joining.say(&JoinerCommand::Ask { document: document.to_owned() }).await;
        joining
    }

    fn new(ours: DuplexStream) -> Self {
        let (read, input) = tokio::io::split(ours);
        Self { input, output: BufReader::new(read) }
    }

    async fn say(&mut self, of: &impl Serialize) {
        self.input.write_all(&line(of)).await.unwrap();
    }

    async fn hear<T: DeserializeOwned>(&mut self) -> T {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

#[tokio::test]
async fn a_token_links_once_by_the_nodes_between_two_commands() {
    let bank = bank().await;
    let secret = InvitationSecret::generate().unwrap();
    let key = secret.key().unwrap().to_string();
    let until = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 60));
    let token = InvitationToken {
        secret,
        fingerprint: bank.fingerprint,
        until,
        cluster: "bank".parse().unwrap(),
        trust_domain: "bank.adit".parse().unwrap(),
        addresses: bank.endpoints.addresses().to_vec(),
    };
    let token = token.to_text().to_string();
    let dial = JoinerCommand::Dial { token };
    let tried = async |expected: &str| {
        let mut joining = PodProcess::joiner();
        joining.say(&dial).await;
        let JoinerEvent::Failed { sentence, is_unknown: false } = joining.hear().await else {
            panic!("it was let in")
        };
        assert!(sentence.contains(expected), "{sentence}");
    };
    tried("has no invitation open").await;

    let mut inviting = PodProcess::inviter(bank.admin.clone());
    let terms = InvitationTerms { key, until: until.as_secs(), document: bank.document.clone() };
    inviting.say(&InviterCommand::Offer(terms.clone())).await;
    assert_eq!(inviting.hear::<InviterEvent>().await, InviterEvent::Offered);
    // Somebody asks, and gives up before he was answered.
    let hasty = PodProcess::asking(&dial, "hasty", &bank).await;
    let InviterEvent::Application(first) = inviting.hear().await else { panic!("nobody") };
    assert_eq!((first.number, first.document.as_str()), (1, "hasty"));
    tried("being decided about").await;
    drop(hasty);
    assert_eq!(inviting.hear::<InviterEvent>().await, InviterEvent::Gone);

    let mut joining = PodProcess::asking(&dial, "edge's", &bank).await;
    let InviterEvent::Application(second) = inviting.hear().await else { panic!("nobody") };
    assert_eq!((second.number, second.document.as_str()), (2, "edge's"));
    inviting.say(&InviterCommand::Answer { number: 2, refusal: None }).await;
    assert_eq!(joining.hear::<JoinerEvent>().await, JoinerEvent::Accepted);
    let answered = InviterEvent::Answered { number: 2, is_delivered: true };
    assert_eq!(inviting.hear::<InviterEvent>().await, answered);
    inviting.say(&InviterCommand::End { is_used: true }).await;
    // It has ended when its process has.
    let mut rest = String::new();
    inviting.output.read_line(&mut rest).await.unwrap();
    assert_eq!(rest, "");
    tried("was used already").await;
    let mut again = PodProcess::inviter(bank.admin.clone());
    again.say(&InviterCommand::Offer(terms)).await;
    let InviterEvent::Failed(why) = again.hear().await else { panic!("offered again") };
    assert_eq!(why, "the invitation was used already");
}

#[tokio::test]
async fn the_end_of_the_command_withdraws_its_invitation() {
    let bank = bank().await;
    let secret = InvitationSecret::generate().unwrap();
    let until = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 60));
    let key = secret.key().unwrap();
    let terms =
        InvitationTerms { key: key.to_string(), until: until.as_secs(), document: String::new() };
    let mut inviting = PodProcess::inviter(bank.admin.clone());
    inviting.say(&InviterCommand::Offer(terms)).await;
    assert_eq!(inviting.hear::<InviterEvent>().await, InviterEvent::Offered);
    drop(inviting);
    let book = bank.endpoints.invitations();
    let within = Duration::from_secs(5);
    let ended = loop {
        // Any number but that of the present applicant ends the wait.
        if let Err(ended) = book.next_applicant(&key, 0, within).await {
            break ended;
        }
    };
    assert_eq!(
        ended.to_string(),
        "the invitation was withdrawn: the command that made it has ended"
    );
}
