//! Legs, inboxes and the thrifty socket over a socket that receives what a test says.

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::task::{Wake, Waker};

use proptest::prelude::*;
use quinn::udp::EcnCodepoint;

use super::inbox::INBOX_CAPACITY;
use super::*;

/// A message as the system would deliver it: datagrams of one size, but for the last.
type TestDatagram = (Vec<u8>, usize, Option<EcnCodepoint>);

#[derive(Debug, Default)]
struct Script(Mutex<VecDeque<TestDatagram>>);

impl Script {
    fn deliver(&self, datagrams: &[Vec<u8>]) {
        self.deliver_marked(datagrams, None);
    }

    fn deliver_marked(&self, datagrams: &[Vec<u8>], ecn: Option<EcnCodepoint>) {
        let stride = datagrams[0].len();
        self.0.lock().unwrap().push_back((datagrams.concat(), stride, ecn));
    }
}

impl AsyncUdpSocket for Script {
    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.0.lock().unwrap();
        let mut n = 0;
        while n < bufs.len() {
            let Some((bytes, stride, ecn)) = script.pop_front() else { break };
            bufs[n][..bytes.len()].copy_from_slice(&bytes);
            let len = bytes.len();
            meta[n] = RecvMeta { len, stride, addr: from(), ecn, dst_ip: None };
            n += 1;
        }
        if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
    }

    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        unimplemented!("nothing is sent")
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(from())
    }

    fn max_receive_segments(&self) -> usize {
        64
    }
}

fn from() -> SocketAddr {
    "192.0.2.1:1".parse().unwrap()
}

fn key() -> CidKey {
    CidKey::new(&[1; 16], &[2; 16])
}

fn context(passed: &Arc<ForwardCounters>) -> WorkerSocketContext {
    WorkerSocketContext {
        generation: 0,
        key: key(),
        forward_counters: Arc::clone(passed),
        predecessors: Arc::default(),
        reading_paused: Arc::default(),
    }
}

struct Legs {
    scripts: Vec<Arc<Script>>,
    worker_sockets: Vec<Arc<WorkerSocket>>,
    passed: Arc<ForwardCounters>,
}

fn worker_sockets(count: usize) -> Legs {
    let scripts: Vec<_> = (0..count).map(|_| Arc::new(Script::default())).collect();
    let passed = Arc::new(ForwardCounters::default());
    let sockets = scripts.iter().map(|s| vec![Arc::clone(s) as _]).collect();
    Legs { worker_sockets: WorkerSocket::join(sockets, from(), &context(&passed)), scripts, passed }
}

/// A datagram for a connection of `core`, told apart by `tag`.
fn datagram(core: u8, tag: u8, len: usize) -> Vec<u8> {
    let id = key().seal_route(CidRoute { generation: 0, core }, [tag; 6]);
    let mut bytes = [&[0x40][..], &id].concat();
    bytes.resize(len, tag);
    bytes
}

#[derive(Default)]
struct WakeFlag(AtomicU64);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// All datagrams that a socket delivers until it has no more, cut as quinn cuts them.
fn drain(socket: &dyn AsyncUdpSocket, waker: &Waker, size: usize) -> Vec<Vec<u8>> {
    let mut memory = vec![vec![0; size]; 32];
    let mut all = Vec::new();
    loop {
        let mut bufs: Vec<_> = memory.iter_mut().map(|m| IoSliceMut::new(m)).collect();
        let mut metas = vec![RecvMeta::default(); bufs.len()];
        match socket.poll_recv(&mut Context::from_waker(waker), &mut bufs, &mut metas) {
            Poll::Ready(count) => {
                for (buf, meta) in bufs.iter().zip(&metas).take(count.unwrap()) {
                    assert_eq!(meta.addr, from());
                    all.extend(buf[..meta.len].chunks(meta.stride.max(1)).map(<[u8]>::to_vec));
                }
            }
            Poll::Pending => return all,
        }
    }
}

fn receive(worker_socket: &Arc<WorkerSocket>) -> Vec<Vec<u8>> {
    drain(&**worker_socket, Waker::noop(), 64 * 1500)
}

#[test]
fn own_and_strangers_datagrams_stay() {
    let Legs { scripts, worker_sockets, passed } = worker_sockets(2);
    let mut forged = datagram(1, 9, 100);
    forged[3] ^= 1;
    let beyond = datagram(7, 1, 100);
    let initial = [&[0xc0, 0, 0, 0, 1, 20][..], &[5; 94]].concat();
    let sent = [datagram(0, 1, 100), forged, beyond, initial, vec![0; 100]];
    scripts[0].deliver(&sent);
    assert_eq!(receive(&worker_sockets[0]), sent);
    assert_eq!(receive(&worker_sockets[1]), Vec::<Vec<u8>>::new());
    assert_eq!(passed.rerouted.load(Ordering::Relaxed), 0);
}

#[test]
fn a_datagram_for_another_core_is_handed_on_and_wakes_it() {
    let Legs { scripts, worker_sockets, passed } = worker_sockets(2);
    let woken = Arc::new(WakeFlag::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(drain(&*worker_sockets[1], &waker, 1500).is_empty());

    scripts[0].deliver(&[datagram(1, 4, 80)]);
    assert!(receive(&worker_sockets[0]).is_empty());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(drain(&*worker_sockets[1], &waker, 1500), [datagram(1, 4, 80)]);
    assert_eq!(passed.rerouted.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_inbox_drops_and_counts() {
    let Legs { scripts, worker_sockets, passed } = worker_sockets(2);
    for _ in 0..INBOX_CAPACITY + 5 {
        scripts[0].deliver(&[datagram(1, 4, 80)]);
    }
    assert!(receive(&worker_sockets[0]).is_empty());
    assert_eq!(passed.rerouted_dropped.load(Ordering::Relaxed), 5);
    assert_eq!(receive(&worker_sockets[1]).len(), INBOX_CAPACITY);
    scripts[0].deliver(&[datagram(1, 4, 80)]);
    assert!(receive(&worker_sockets[0]).is_empty());
    assert_eq!(receive(&worker_sockets[1]).len(), 1, "an emptied inbox takes datagrams again");
}

#[test]
fn a_thrifty_socket_asks_for_little_and_delivers_all() {
    let script = Arc::new(Script::default());
    let thrifty =
        SharedBufferSocket { socket: Arc::clone(&script) as _, recv_buffer: Arc::default() };
    let size = 1472 * thrifty.max_receive_segments();
    assert!(size * 32 <= 200_000, "{size}");
    let mut sent = Vec::new();
    for (count, len) in [(64, 1000), (1, 1472), (44, 1472), (64, 1024), (64, 30), (1, 20), (64, 33)]
    {
        let batch: Vec<_> = (0..count).map(|tag| datagram(0, tag, len)).collect();
        script.deliver(&batch);
        sent.extend(batch);
    }
    // The last of a message may be shorter; one longer than a buffer is nobody's.
    script.deliver(&[datagram(0, 1, 1400), datagram(0, 2, 1400), datagram(0, 3, 20)]);
    sent.extend([datagram(0, 1, 1400), datagram(0, 2, 1400), datagram(0, 3, 20)]);
    script.deliver(&[datagram(0, 1, size + 1)]);
    script.deliver(&[datagram(0, 5, 99)]);
    sent.push(datagram(0, 5, 99));
    assert_eq!(drain(&thrifty, Waker::noop(), size), sent);
}

/// The frames that wait at an older process's end: the datagrams of each, and what is said of them.
fn forwarded(predecessor: &UnixDatagram) -> Vec<(Vec<Vec<u8>>, RecvMeta)> {
    let mut frame = vec![0; LONGEST_FRAME];
    let next = || {
        // What asks whether it lives is no frame.
        let mut len = predecessor.recv(&mut frame).ok()?;
        while len == 1 {
            len = predecessor.recv(&mut frame).ok()?;
        }
        let (listening, datagrams, meta) = read_frame(&frame[..len]).unwrap();
        assert_eq!(listening, from());
        Some((datagrams.chunks(meta.stride).map(<[u8]>::to_vec).collect(), meta))
    };
    std::iter::from_fn(next).collect()
}

fn of_generation(generation: u8, tag: u8, len: usize) -> Vec<u8> {
    let mut bytes =
        [&[0x40][..], &key().seal_route(CidRoute { generation, core: 0 }, [tag; 6])].concat();
    bytes.resize(len, tag);
    bytes
}

/// A worker_socket of generation 2 whose predecessors are 0 and 1, and their ends.
fn with_predecessors() -> (Arc<Script>, Arc<WorkerSocket>, Arc<ForwardCounters>, [UnixDatagram; 2])
{
    let pairs = [(); 2].map(|()| adit_host::relay::pair(1 << 22).unwrap());
    let inherited =
        pairs.iter().zip(0..).map(|((sender, _), g)| (g, sender.try_clone().unwrap().into()));
    let predecessors = Predecessors::new(inherited.collect()).unwrap();
    let (script, passed) = (Arc::new(Script::default()), Arc::new(ForwardCounters::default()));
    let context = WorkerSocketContext {
        generation: 2,
        predecessors: Arc::new(predecessors),
        ..context(&passed)
    };
    let worker_sockets = WorkerSocket::join(vec![vec![Arc::clone(&script) as _]], from(), &context);
    (script, Arc::clone(&worker_sockets[0]), passed, pairs.map(|(_, receiver)| receiver))
}

#[test]
fn only_ids_with_a_mac_of_ours_reach_a_predecessor() {
    let (script, worker_socket, passed, predecessors) = with_predecessors();
    let mut forged = of_generation(0, 1, 100);
    forged[4] ^= 1;
    let stays = [forged, of_generation(2, 1, 100), of_generation(3, 1, 100)];
    script.deliver(&stays);
    assert_eq!(receive(&worker_socket), stays);
    assert!(predecessors.iter().all(|predecessor| forwarded(predecessor).is_empty()));
    assert_eq!(passed.forwarded.load(Ordering::Relaxed), 0);
}

#[test]
fn a_predecessor_that_reads_nothing_loses_its_own_datagrams_only() {
    let (script, worker_socket, passed, _elders) = with_predecessors();
    for _ in 0..20_000 {
        script.deliver(&[of_generation(0, 1, 1200), of_generation(2, 1, 1200)]);
    }
    assert_eq!(receive(&worker_socket).len(), 20_000);
    let sent = passed.forwarded.load(Ordering::Relaxed);
    assert!((50..19_000).contains(&sent), "{sent}");
    assert_eq!(passed.forward_dropped.load(Ordering::Relaxed), 20_000 - sent);
}

#[test]
fn datagrams_of_a_predecessor_that_has_ended_are_answered_here() {
    let (script, worker_socket, passed, predecessors) = with_predecessors();
    drop(predecessors);
    for _ in 0..3 {
        script.deliver(&[of_generation(1, 1, 100)]);
    }
    // The first shows that nobody is there, and is lost.
    assert_eq!(receive(&worker_socket), [of_generation(1, 1, 100), of_generation(1, 1, 100)]);
    assert_eq!(passed.forward_dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn a_process_that_has_handed_over_reads_its_inbox_only() {
    let Legs { scripts, worker_sockets, passed } = worker_sockets(2);
    let aside = Arc::clone(&worker_sockets[0].context.reading_paused);
    let woken = Arc::new(WakeFlag::default());
    let waker = Waker::from(Arc::clone(&woken));
    aside.store(true, Ordering::Release);
    scripts[0].deliver(&[datagram(0, 1, 50)]);
    assert!(drain(&*worker_sockets[0], &waker, 1500).is_empty());

    // It comes by any worker_socket of the address, and goes by its core; other generations' is not taken.
    let meta = RecvMeta { addr: from(), stride: 60, ..RecvMeta::default() };
    let run = [datagram(0, 2, 60), datagram(1, 3, 60), of_generation(1, 4, 60), datagram(0, 5, 30)];
    worker_sockets[1].accept_forwarded(&run.concat(), &meta);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(drain(&*worker_sockets[0], &waker, 1500), [datagram(0, 2, 60), datagram(0, 5, 30)]);
    assert_eq!(receive(&worker_sockets[1]), [datagram(1, 3, 60)]);
    assert_eq!(passed.received.load(Ordering::Relaxed), 3);
    assert_eq!(passed.rerouted_dropped.load(Ordering::Relaxed), 1);

    aside.store(false, Ordering::Release);
    worker_sockets[0].wake();
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert_eq!(drain(&*worker_sockets[0], &waker, 1500), [datagram(0, 1, 50)]);
}

proptest! {
    /// Datagrams of one client for several processes: each gets its own, whole and in order, in as few
    /// frames as the batch has runs.
    #[test]
    fn batches_of_several_generations_are_parted(
        generations in proptest::collection::vec(0u8..3, 1..45),
        len in 20usize..1400,
        last in 14usize..1400,
        ecn in 0u8..4,
    ) {
        let (script, worker_socket, passed, predecessors) = with_predecessors();
        let end = generations.len() - 1;
        let sent: Vec<_> = generations.iter().enumerate().map(|(i, generation)| {
            of_generation(*generation, i as u8, if i == end { last.min(len) } else { len })
        }).collect();
        let of = |wanted: u8| -> Vec<_> {
            let own = sent.iter().zip(&generations).filter(|(_, g)| **g == wanted);
            own.map(|(datagram, _)| datagram.clone()).collect()
        };
        script.deliver_marked(&sent, EcnCodepoint::from_bits(ecn));
        prop_assert_eq!(receive(&worker_socket), of(2));
        let runs = generations.chunk_by(|a, b| a == b).filter(|run| run[0] != 2).count();
        let mut frames = 0;
        for (predecessor, generation) in predecessors.iter().zip(0..) {
            let got = forwarded(predecessor);
            frames += got.len();
            for (_, meta) in &got {
                prop_assert_eq!((meta.addr, meta.ecn), (from(), EcnCodepoint::from_bits(ecn)));
            }
            let got: Vec<_> = got.into_iter().flat_map(|(datagrams, _)| datagrams).collect();
            prop_assert_eq!(got, of(generation));
        }
        prop_assert_eq!(frames, runs);
        let count = generations.iter().filter(|g| **g != 2).count() as u64;
        prop_assert_eq!(passed.forwarded.load(Ordering::Relaxed), count);
    }

    /// Whatever a batch mixes, every datagram arrives once, whole, in order and at its worker_socket.
    #[test]
    fn mixed_batches_are_parted(
        cores in proptest::collection::vec(0u8..3, 1..64),
        len in 20usize..1500,
        last in 14usize..1500,
        received_by in 0usize..3,
    ) {
        let Legs { scripts, worker_sockets, passed } = worker_sockets(3);
        let end = cores.len() - 1;
        let sent: Vec<_> = cores.iter().enumerate().map(|(i, core)| {
            datagram(*core, i as u8, if i == end { last.min(len) } else { len })
        }).collect();
        scripts[received_by].deliver(&sent);
        let own = receive(&worker_sockets[received_by]);
        for core in 0..3u8 {
            let got =
                if usize::from(core) == received_by { own.clone() } else { receive(&worker_sockets[usize::from(core)]) };
            let expected: Vec<_> =
                sent.iter().zip(&cores).filter(|(_, c)| **c == core).map(|(d, _)| d.clone()).collect();
            prop_assert_eq!(got, expected);
        }
        let foreign = cores.iter().filter(|c| usize::from(**c) != received_by).count();
        prop_assert_eq!(passed.rerouted.load(Ordering::Relaxed), foreign as u64);
    }
}
