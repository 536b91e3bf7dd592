//! Joining by invitation: who gets in, what he learns, and what he cannot do.

use std::net::SocketAddr;
use std::time::Duration;

use adit_core::wire::join::MAX_DOCUMENT_LEN;
use adit_pki::{BundleFingerprint, InvitationKey, InvitationSecret, TrustBundle, UnixTime};
use adit_tests::identity::{EPOCH, TestCluster};
use adit_tests::net::memory::MemoryNetwork;
use adit_tests::pair::{BANK, NodePair, PORT};
use adit_transport::join::{
    Applicant, BookError, InvitationEnd, InviterConnection, JoinError, join,
};
use adit_transport::{Endpoints, Tuning};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bank invites; somebody at 10.0.9.1 joins.
struct Invited {
    pair: NodePair,
    secret: InvitationSecret,
    key: InvitationKey,
    serving: JoinHandle<()>,
}

fn at(after: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(EPOCH) + after)
}

/// Accepts whoever comes, as links do.
async fn serve(bank: Endpoints) {
    while let Some(incoming) = bank.accept(0).await {
        Handle::current().spawn(async move {
            if incoming.is_invitee() {
                incoming.serve_invitee().await.ok();
            } else if let Ok(peer) = incoming.accept().await {
                peer.closed().await;
            }
        });
    }
}

fn bank() -> Invited {
    let pair = NodePair::new(Tuning::default(), 1);
    let secret = InvitationSecret::generate().unwrap();
    let key = secret.key().unwrap();
    let serving = Handle::current().spawn(serve(pair.bank.clone()));
    Invited { pair, secret, key, serving }
}

impl Invited {
    fn offer(&self) -> Result<(), BookError> {
        let document = self.pair.clusters.1.pem();
        self.pair.bank.invitations().offer(
            self.key,
            at(TOKEN_LIFETIME),
            at(Duration::ZERO),
            &document,
        )
    }

    async fn dial(&self, secret: &InvitationSecret) -> Result<InviterConnection, JoinError> {
        let net = self.pair.network.host("10.0.9.1".parse().unwrap());
        join(&net, SocketAddr::new(BANK, PORT), secret).await
    }

    /// Dials, and checks that it is bank.
    async fn dialled(&self) -> InviterConnection {
        let connection = self.dial(&self.secret).await.unwrap();
        check(&connection, &self.pair.clusters.1).unwrap();
        connection
    }

    async fn applicant(&self) -> Applicant {
        let book = self.pair.bank.invitations();
        book.next_applicant(&self.key, 0, POLL_TIMEOUT).await.unwrap().expect("nobody asked")
    }
}

/// Checks as the joining side does, with a token that `expected` made.
fn check(connection: &InviterConnection, expected: &TestCluster) -> Result<(), JoinError> {
    let parse =
        |pem: &str| TrustBundle::parse(expected.trust_domain().clone(), pem.as_bytes()).unwrap();
    let token = BundleFingerprint::of(&parse(&expected.pem()));
    connection.check(&parse(connection.document()), token, at(Duration::ZERO))
}

#[tokio::test(start_paused = true)]
async fn whoever_is_invited_asks_once_and_is_answered() {
    let bank = bank();
    bank.offer().unwrap();
    let connection = bank.dialled().await;
    let asking = Handle::current().spawn(connection.ask("my own document"));
    let applicant = bank.applicant().await;
    assert_eq!((applicant.number, &*applicant.document), (1, "my own document"));
    assert_eq!(applicant.remote.ip().to_string(), "10.0.9.1");
    let book = bank.pair.bank.invitations();
    // Its operator thinks for longer than a silent connection lives.
    for _ in 0..9 {
        let again = book.next_applicant(&bank.key, 1, POLL_TIMEOUT).await.unwrap();
        assert_eq!(again.as_ref(), Some(&applicant));
    }
    assert_eq!(book.answer(&bank.key, 1, Ok(())).await, Ok(true));
    asking.await.unwrap().unwrap();
    book.end(&bank.key, InvitationEnd::Used).unwrap();
    let error = bank.dial(&bank.secret).await.unwrap_err();
    assert_eq!(error.to_string(), "the invitation was used already");
    assert_eq!(bank.offer().unwrap_err().to_string(), "the invitation was used already");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reaches_whoever_asked_with_its_sentence() {
    let bank = bank();
    bank.offer().unwrap();
    let asking = Handle::current().spawn(bank.dialled().await.ask("document"));
    bank.applicant().await;
    let book = bank.pair.bank.invitations();
    let no = Err("its operator said \u{1b}no".to_owned());
    assert_eq!(book.answer(&bank.key, 1, no).await, Ok(true));
    assert_eq!(asking.await.unwrap().unwrap_err().to_string(), "its operator said ?no");
    assert_eq!(book.answer(&bank.key, 1, Ok(())).await, Ok(false), "it was answered before");
}

#[tokio::test(start_paused = true)]
async fn without_an_invitation_there_is_no_way_in() {
    let bank = bank();
    let before = bank.dial(&bank.secret).await.unwrap_err();
    assert!(matches!(before, JoinError::NoInvitation), "{before}");
    bank.offer().unwrap();
    let stranger = InvitationSecret::generate().unwrap();
    let other = bank.dial(&stranger).await.unwrap_err();
    assert!(matches!(other, JoinError::UnknownInvitation), "{other}");
    assert_eq!(bank.pair.bank.counters().certificate_refused, 1);
    // Another's key counts for nothing where peers are expected, and peers are as before.
    let dialled = bank.pair.edge.dial(0, bank.pair.dial()).await.unwrap();
    assert_eq!(dialled.peer_id().trust_domain().as_str(), "bank.example");
    bank.dialled().await;
}

#[tokio::test(start_paused = true)]
async fn an_invitation_ends_with_its_time_and_so_does_its_connection() {
    let bank = bank();
    bank.offer().unwrap();
    let book = bank.pair.bank.invitations();
    let renewing = async {
        let mut seen = 0;
        loop {
            match book.next_applicant(&bank.key, seen, POLL_TIMEOUT).await {
                Ok(applicant) => seen = applicant.map_or(0, |applicant| applicant.number),
                Err(over) => break over,
            }
        }
    };
    let begun = Instant::now();
    let asking = bank.dialled().await.ask("document");
    let (over, asked) = tokio::join!(renewing, asking);
    assert_eq!(over.to_string(), "the time of the invitation has passed");
    assert_eq!(asked.unwrap_err().to_string(), "the time of the invitation has passed");
    assert!(begun.elapsed() <= TOKEN_LIFETIME + POLL_TIMEOUT, "{:?}", begun.elapsed());
    let late = bank.dial(&bank.secret).await.unwrap_err();
    assert!(matches!(late, JoinError::NoInvitation), "{late}");
}

#[tokio::test(start_paused = true)]
async fn an_invitation_ends_when_its_command_does() {
    let bank = bank();
    bank.offer().unwrap();
    let asking = Handle::current().spawn(bank.dialled().await.ask("document"));
    bank.applicant().await;
    // Nobody renews it any more.
    let asked = timeout(Duration::from_secs(31), asking).await.unwrap().unwrap();
    assert!(asked.unwrap_err().to_string().contains("was withdrawn"));
    let error = bank.dial(&bank.secret).await.unwrap_err();
    assert!(error.to_string().contains("was withdrawn"), "{error}");

    let secret = InvitationSecret::generate().unwrap();
    let bank = Invited { key: secret.key().unwrap(), secret, ..bank };
    bank.offer().unwrap();
    let asking = Handle::current().spawn(bank.dialled().await.ask("document"));
    bank.applicant().await;
    let book = bank.pair.bank.invitations();
    book.end(&bank.key, InvitationEnd::Withdrawn).unwrap();
    assert!(asking.await.unwrap().unwrap_err().to_string().contains("was withdrawn"));
}

#[tokio::test(start_paused = true)]
async fn one_is_decided_about_at_a_time_and_few_may_try() {
    let bank = bank();
    bank.offer().unwrap();
    let book = bank.pair.bank.invitations();
    let first = bank.dialled().await;
    let second = bank.dial(&bank.secret).await.unwrap_err();
    assert!(second.to_string().contains("being decided about"), "{second}");
    let asking = Handle::current().spawn(first.ask("document"));
    bank.applicant().await;
    asking.abort();
    // Its command hears that it is gone, and the next one may come.
    assert_eq!(book.next_applicant(&bank.key, 1, POLL_TIMEOUT).await.unwrap(), None);
    assert_eq!(book.answer(&bank.key, 1, Ok(())).await, Ok(false));
    for _ in 1..16 {
        drop(bank.dialled().await);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(book.next_applicant(&bank.key, 0, Duration::ZERO).await.unwrap(), None);
    }
    let error = bank.dial(&bank.secret).await.unwrap_err();
    assert_eq!(error.to_string(), "the invitation was tried too often");
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_given_up() {
    let bank = bank();
    bank.offer().unwrap();
    let silent = bank.dialled().await;
    let book = bank.pair.bank.invitations();
    for _ in 0..3 {
        assert_eq!(book.next_applicant(&bank.key, 0, POLL_TIMEOUT).await.unwrap(), None);
    }
    bank.dialled().await;
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_too_long_is_no_application() {
    let bank = bank();
    bank.offer().unwrap();
    let too_long = "x".repeat(MAX_DOCUMENT_LEN + 1);
    let error = bank.dialled().await.ask(&too_long).await.unwrap_err();
    assert!(matches!(error, JoinError::Unknown(_)), "{error}");
    let book = bank.pair.bank.invitations();
    assert_eq!(book.next_applicant(&bank.key, 0, Duration::ZERO).await.unwrap(), None);
    let (connection, longest) = (bank.dialled().await, too_long[1..].to_owned());
    let asking = Handle::current().spawn(async move { connection.ask(&longest).await });
    let applicant = bank.applicant().await;
    assert_eq!(applicant.document.len(), MAX_DOCUMENT_LEN);
    drop(asking);
    let book = bank.pair.bank.invitations();
    let key = InvitationSecret::generate().unwrap().key().unwrap();
    let offer = |until, document: &str| book.offer(key, until, at(Duration::ZERO), document);
    assert_eq!(offer(at(TOKEN_LIFETIME), &too_long), Err(BookError::DocumentTooLong));
    assert_eq!(offer(at(Duration::ZERO), ""), Err(BookError::Lifetime));
    assert_eq!(offer(at(Duration::from_secs(90_000)), ""), Err(BookError::Lifetime));
}

#[tokio::test(start_paused = true)]
async fn somebody_in_between_is_sent_nothing() {
    // It has the token's secret, too, and yet no certificate of the cluster that made the token.
    let bank = bank();
    bank.offer().unwrap();
    let connection = bank.dial(&bank.secret).await.unwrap();
    let expected = TestCluster::new("bank.example");
    let error = check(&connection, &expected).unwrap_err();
    assert!(matches!(error, JoinError::Inviter(_)), "{error}");
    assert!(error.to_string().contains("Nothing was sent to it"), "{error}");
    drop(connection);
    let book = bank.pair.bank.invitations();
    assert_eq!(book.next_applicant(&bank.key, 0, POLL_TIMEOUT).await.unwrap(), None);

    // It hands over the right bundle, which is public.
    let secret = InvitationSecret::generate().unwrap();
    let key = secret.key().unwrap();
    book.offer(key, at(TOKEN_LIFETIME), at(Duration::ZERO), &expected.pem()).unwrap();
    let connection = bank.dial(&secret).await.unwrap();
    let error = check(&connection, &expected).unwrap_err();
    assert!(error.to_string().contains("no node of the cluster that made the token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_keeps_few_invitations_and_forgets_them() {
    let bank = bank();
    let book = bank.pair.bank.invitations();
    let offer = || {
        let key = InvitationSecret::generate().unwrap().key().unwrap();
        (key, book.offer(key, at(TOKEN_LIFETIME), at(Duration::ZERO), ""))
    };
    for _ in 0..16 {
        let (key, offered) = offer();
        offered.unwrap();
        book.end(&key, InvitationEnd::Withdrawn).unwrap();
    }
    assert_eq!(offer().1, Err(BookError::TooMany));
    sleep(TOKEN_LIFETIME).await;
    let (key, offered) = offer();
    offered.unwrap();
    assert_eq!(book.next_applicant(&key, 0, Duration::ZERO).await, Ok(None));
    let unknown = InvitationSecret::generate().unwrap().key().unwrap();
    assert_eq!(book.next_applicant(&unknown, 0, POLL_TIMEOUT).await, Err(BookError::Unknown));
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_in_time() {
    let bank = bank();
    let net = MemoryNetwork::new(Duration::from_millis(1)).host("10.0.9.1".parse().unwrap());
    let error = join(&net, SocketAddr::new(BANK, PORT), &bank.secret).await.unwrap_err();
    assert!(matches!(error, JoinError::Silent), "{error}");
    bank.serving.abort();
}
