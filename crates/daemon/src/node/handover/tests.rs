//! Two processes of one node, of which one dies at each step.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;

use adit_host::ipc::IpcListener;
use tokio::sync::mpsc;

use super::holder::{self, HandoverSockets, Successor};
use super::requester::{HandoverInheritance, HandoverReply, Succession, request_handover};
use super::*;

/// A holder's sockets; counts how often it stepped aside, and back.
struct FakeHolder {
    listener: TcpListener,
    aside: AtomicU32,
    back: AtomicU32,
}

impl FakeHolder {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, aside: AtomicU32::new(0), back: AtomicU32::new(0) }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn steps(&self) -> (u32, u32) {
        (self.aside.load(Relaxed), self.back.load(Relaxed))
    }
}

impl HandoverSockets for std::sync::Arc<FakeHolder> {
    fn send_all(
        &self,
        give: &mut dyn FnMut(HandoverMessage, Vec<OwnedFd>) -> io::Result<()>,
    ) -> io::Result<()> {
        let address = self.address();
        give(HandoverMessage::Tcp { address }, vec![self.listener.try_clone()?.into()])
    }

    fn step_aside(&self) {
        self.aside.fetch_add(1, Relaxed);
    }

    fn resume(&self) {
        self.back.fetch_add(1, Relaxed);
    }

    fn release(&mut self) {}
}

/// A holder that runs on a thread.
struct HolderThread {
    fake: std::sync::Arc<FakeHolder>,
    successors: mpsc::Receiver<Successor>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl HolderThread {
    fn start(folder: &Path, turn: u64) -> Self {
        let fake = std::sync::Arc::new(FakeHolder::new());
        let listener = IpcListener::bind(&folder.join(SOCKET)).unwrap();
        let (tell, successors) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let (mut sockets, stopped) = (fake.clone(), stop.clone());
        let serve = move || holder::serve(listener, turn, &mut sockets, &tell, &stopped);
        Self { fake, successors, stop, thread: Some(std::thread::spawn(serve)) }
    }

    /// Waits until it has stepped aside and back so often.
    fn steps_to(&self, steps: (u32, u32)) {
        for _ in 0..1000 {
            if self.fake.steps() == steps {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} is not {steps:?}", self.fake.steps());
    }

    /// Ends it; who has taken over, if somebody has.
    fn end(mut self) -> Option<Successor> {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
        self.successors.try_recv().ok()
    }
}

fn given(folder: &Path, turn: u64) -> HandoverInheritance {
    match request_handover(folder, turn) {
        HandoverReply::Inherited(given) => *given,
        other @ (HandoverReply::NoPredecessor | HandoverReply::Refused(_)) => panic!("{other:?}"),
    }
}

#[test]
fn whoever_connects_and_says_nothing_keeps_no_successor_out() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    let connect = |_| IpcConnection::connect(&folder.path().join(SOCKET)).unwrap();
    let silent: Vec<IpcConnection> = (0..3).map(connect).collect();
    let HandoverInheritance { succession, .. } = given(folder.path(), 2);
    succession.announce_ready();
    assert_eq!(holder.fake.steps(), (1, 0));
    drop(silent);
    holder.stop.cancel();
}

#[test]
fn a_process_takes_over_with_what_waits_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    let address = holder.fake.address();
    let HandoverInheritance { sockets: mut given, succession } = given(folder.path(), 2);
    assert_eq!(holder.fake.steps(), (0, 0), "it serves until the other could");
    succession.announce_ready();
    assert_eq!(holder.fake.steps(), (1, 0));
    let waiting = TcpStream::connect(address).unwrap();
    let _door = IpcListener::bind(&folder.path().join(SOCKET)).unwrap();
    succession.confirm_taken();
    assert_eq!(holder.end(), Some(Successor { version: env!("CARGO_PKG_VERSION").into() }));
    let ours = TcpListener::from(given.tcp.remove(&address).unwrap().remove(0));
    assert_eq!(ours.accept().unwrap().1, waiting.local_addr().unwrap());
    assert!(folder.path().join(SOCKET).exists(), "the next one finds the new one");
}

#[test]
fn where_the_new_process_dies_the_old_one_goes_on_and_the_next_may_come() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    let listener = folder.path().join(SOCKET);
    // Before it asked, while it got the sockets, and before it was ready.
    drop(IpcConnection::connect(&listener).unwrap());
    let connection = IpcConnection::connect(&listener).unwrap();
    send_message(
        &connection,
        &HandoverMessage::Ask { protocol: 1, version: "1".into(), turn: 2 },
        &[],
    )
    .unwrap();
    assert!(matches!(receive_message(&connection).unwrap().0, HandoverMessage::Offer { .. }));
    drop(connection);
    drop(given(folder.path(), 2));
    // After the old one had stepped aside.
    let inheritance = given(folder.path(), 2);
    assert_eq!(holder.fake.steps(), (0, 0));
    inheritance.succession.announce_ready();
    drop(inheritance);
    // And then one that lives.
    let inheritance = given(folder.path(), 2);
    assert_eq!(holder.fake.steps(), (1, 1), "it reads again");
    inheritance.succession.announce_ready();
    inheritance.succession.confirm_taken();
    assert_eq!(holder.fake.steps(), (2, 1));
    assert!(holder.end().is_some());
}

#[test]
fn one_that_serves_has_taken_over_whatever_became_of_its_last_word() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    let inheritance = given(folder.path(), 2);
    inheritance.succession.announce_ready();
    let _door = IpcListener::bind(&folder.path().join(SOCKET)).unwrap();
    drop(inheritance);
    let fake = holder.fake.clone();
    assert!(holder.end().is_some());
    assert_eq!(fake.steps(), (1, 0));
}

#[test]
fn where_the_old_process_dies_or_gives_nothing_the_new_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        matches!(request_handover(folder.path(), 1), HandoverReply::NoPredecessor),
        "there is no listener"
    );
    let listener = IpcListener::bind(&folder.path().join(SOCKET)).unwrap();
    let dies = std::thread::spawn(move || {
        let connection = listener.accept().unwrap().unwrap();
        drop(receive_message(&connection).unwrap());
        send_message(&connection, &HandoverMessage::Offer { version: "1".into() }, &[]).unwrap();
    });
    assert!(
        matches!(request_handover(folder.path(), 2), HandoverReply::NoPredecessor),
        "it died half-way"
    );
    dies.join().unwrap();
    assert!(
        matches!(request_handover(folder.path(), 2), HandoverReply::NoPredecessor),
        "its listener is shut"
    );
}

#[test]
fn a_pod_takes_nothing_from_one_that_came_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let turns = ["a", "b", "a", "c", "b"].map(|pod| turn(folder.path(), pod).unwrap());
    assert_eq!(turns, [1, 2, 1, 3, 2]);
    let holder = HolderThread::start(folder.path(), 2);
    let HandoverReply::Refused(why) = request_handover(folder.path(), 1) else { panic!("given") };
    assert!(why.contains("number 1"), "{why}");
    drop(given(folder.path(), 3));
    assert_eq!(holder.end(), None);
    for n in 0..100 {
        assert_eq!(turn(folder.path(), &format!("pod-{n}")).unwrap(), 4 + n);
    }
    let file = folder.path().join(TURNS);
    let mut before = File::open(&file).unwrap();
    turn(folder.path(), "one more").unwrap();
    let text = io::read_to_string(&mut before).unwrap();
    assert_eq!(text.lines().count(), TURNS_KEPT, "who is killed while it writes leaves it whole");
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), TURNS_KEPT);
}

#[test]
fn another_version_is_told_what_this_one_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    let listener = folder.path().join(SOCKET);
    for asks in
        [&br#"{"say":"borrow","for":"a while"}"#[..], b"\x00\x01", br#"{"say":"ask","protocol":0}"#]
    {
        let connection = IpcConnection::connect(&listener).unwrap();
        connection.send(asks, &[]).unwrap();
        assert_eq!(
            receive_message(&connection).unwrap().0,
            HandoverMessage::NotKnown { protocol: PROTOCOL }
        );
    }
    // A later one that says more than we know is understood as far as we do.
    let connection = IpcConnection::connect(&listener).unwrap();
    let later = br#"{"say":"ask","protocol":7,"version":"9","turn":5,"wants":["memory"]}"#;
    connection.send(later, &[]).unwrap();
    assert!(matches!(receive_message(&connection).unwrap().0, HandoverMessage::Offer { .. }));
    drop(connection);
    assert_eq!(holder.end(), None);

    let listener = IpcListener::bind(&listener).unwrap();
    let later = std::thread::spawn(move || {
        let connection = listener.accept().unwrap().unwrap();
        drop(receive_message(&connection).unwrap());
        connection.send(br#"{"say":"notKnown","protocol":9,"and":"more"}"#, &[]).unwrap();
        let connection = listener.accept().unwrap().unwrap();
        drop(receive_message(&connection).unwrap());
        for word in
            [&br#"{"say":"offer","version":"9"}"#[..], br#"{"say":"tea"}"#, br#"{"say":"end"}"#]
        {
            connection.send(word, &[]).unwrap();
        }
    });
    let HandoverReply::Refused(why) = request_handover(folder.path(), 2) else { panic!("given") };
    assert!(why.contains("protocol 9"), "{why}");
    assert!(given(folder.path(), 2).sockets.tcp.is_empty());
    later.join().unwrap();
}

/// All that a process that has taken over keeps until its end.
struct Living(#[expect(dead_code, reason = "it is what ends with it")] (Succession, IpcListener));

fn take_over(folder: &Path, turn: u64) -> Living {
    let mut asked = (0..500).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        request_handover(folder, turn)
    });
    let Some(HandoverReply::Inherited(inheritance)) =
        asked.find(|asked| matches!(asked, HandoverReply::Inherited(_)))
    else {
        panic!("nobody gives")
    };
    let HandoverInheritance { sockets: _, succession } = *inheritance;
    assert!(succession.announce_ready());
    let listener = IpcListener::bind(&folder.join(SOCKET)).unwrap();
    succession.confirm_taken();
    Living((succession, listener))
}

#[test]
fn where_a_successor_ends_the_one_before_has_the_door_and_the_sockets_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = HolderThread::start(folder.path(), 1);
    for n in 1..=3 {
        let living = take_over(folder.path(), 2);
        assert!(holder.successors.blocking_recv().is_some());
        assert_eq!(holder.fake.steps(), (n, n - 1), "while it lives it has everything");
        drop(living);
        holder.steps_to((n, n));
    }
    // Of one that died before its last word, another listener in the place says nothing where nobody is behind it.
    let inheritance = given(folder.path(), 2);
    assert!(inheritance.succession.announce_ready());
    std::fs::remove_file(folder.path().join(SOCKET)).unwrap();
    drop(inheritance);
    holder.steps_to((4, 4));
    drop(take_over(folder.path(), 2));
    holder.steps_to((5, 5));
}

#[test]
fn the_end_of_the_last_of_three_generations_reaches_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = HolderThread::start(folder.path(), 1);
    let HandoverInheritance { sockets: _, succession } = given(folder.path(), 2);
    assert!(succession.announce_ready());
    let second = HolderThread::start(folder.path(), 2);
    succession.confirm_taken();
    let third = take_over(folder.path(), 3);
    drop(second.end());
    drop(succession);
    std::thread::sleep(2 * IpcListener::ACCEPT_TIMEOUT);
    assert_eq!(first.fake.steps(), (1, 0), "the third one lives");
    drop(third);
    first.steps_to((1, 1));
}

#[test]
fn one_that_could_not_wait_any_longer_has_taken_over_when_its_door_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let holder = HolderThread::start(folder.path(), 1);
    drop(given(folder.path(), 2));
    let other = HolderThread::start(folder.path(), 2);
    holder.steps_to((1, 0));
    assert!(holder.end().is_some());
    assert!(other.end().is_none());
    // A listener that was removed is there again.
    let holder = HolderThread::start(folder.path(), 2);
    std::fs::remove_file(folder.path().join(SOCKET)).unwrap();
    std::thread::sleep(3 * IpcListener::ACCEPT_TIMEOUT);
    drop(given(folder.path(), 3));
    assert_eq!(holder.end(), None);
}
