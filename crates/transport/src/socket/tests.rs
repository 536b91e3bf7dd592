//! Legs, inboxes and the thrifty socket over a socket that receives what a test says.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::inbox::CAPACITY;
use super::*;

/// A message as the system would deliver it: datagrams of one size, but for the last.
type Message = (Vec<u8>, usize);

#[derive(Debug, Default)]
struct Script(Mutex<VecDeque<Message>>);

impl Script {
    fn deliver(&self, datagrams: &[Vec<u8>]) {
        let stride = datagrams[0].len();
        self.0.lock().unwrap().push_back((datagrams.concat(), stride));
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
            let Some((bytes, stride)) = script.pop_front() else { break };
            bufs[n][..bytes.len()].copy_from_slice(&bytes);
            meta[n] = RecvMeta { len: bytes.len(), stride, addr: from(), ..RecvMeta::default() };
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

struct Legs {
    scripts: Vec<Arc<Script>>,
    legs: Vec<Arc<Leg>>,
    passed: Arc<Passed>,
}

fn legs(count: usize) -> Legs {
    let scripts: Vec<_> = (0..count).map(|_| Arc::new(Script::default())).collect();
    let passed = Arc::new(Passed::default());
    let sockets = scripts.iter().map(|s| Arc::clone(s) as _).collect();
    Legs { legs: Leg::join(sockets, 0, &key(), &passed), scripts, passed }
}

/// A datagram for a connection of `core`, told apart by `tag`.
fn datagram(core: u8, tag: u8, len: usize) -> Vec<u8> {
    let id = key().seal(Route { generation: 0, core }, [tag; 6]);
    let mut bytes = [&[0x40][..], &id].concat();
    bytes.resize(len, tag);
    bytes
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
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

fn receive(leg: &Arc<Leg>) -> Vec<Vec<u8>> {
    drain(&**leg, Waker::noop(), 64 * 1500)
}

#[test]
fn own_and_strangers_datagrams_stay() {
    let Legs { scripts, legs, passed } = legs(2);
    let mut forged = datagram(1, 9, 100);
    forged[3] ^= 1;
    let beyond = datagram(7, 1, 100);
    let initial = [&[0xc0, 0, 0, 0, 1, 20][..], &[5; 94]].concat();
    let sent = [datagram(0, 1, 100), forged, beyond, initial, vec![0; 100]];
    scripts[0].deliver(&sent);
    assert_eq!(receive(&legs[0]), sent);
    assert_eq!(receive(&legs[1]), Vec::<Vec<u8>>::new());
    assert_eq!(passed.handed.load(Ordering::Relaxed), 0);
}

#[test]
fn a_datagram_for_another_core_is_handed_on_and_wakes_it() {
    let Legs { scripts, legs, passed } = legs(2);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(drain(&*legs[1], &waker, 1500).is_empty());

    scripts[0].deliver(&[datagram(1, 4, 80)]);
    assert!(receive(&legs[0]).is_empty());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(drain(&*legs[1], &waker, 1500), [datagram(1, 4, 80)]);
    assert_eq!(passed.handed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_inbox_drops_and_counts() {
    let Legs { scripts, legs, passed } = legs(2);
    for _ in 0..CAPACITY + 5 {
        scripts[0].deliver(&[datagram(1, 4, 80)]);
    }
    assert!(receive(&legs[0]).is_empty());
    assert_eq!(passed.dropped.load(Ordering::Relaxed), 5);
    assert_eq!(receive(&legs[1]).len(), CAPACITY);
    scripts[0].deliver(&[datagram(1, 4, 80)]);
    assert!(receive(&legs[0]).is_empty());
    assert_eq!(receive(&legs[1]).len(), 1, "an emptied inbox takes datagrams again");
}

#[test]
fn a_thrifty_socket_asks_for_little_and_delivers_all() {
    let script = Arc::new(Script::default());
    let thrifty = Thrifty { socket: Arc::clone(&script) as _, scratch: Arc::default() };
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

proptest! {
    /// Whatever a batch mixes, every datagram arrives once, whole, in order and at its leg.
    #[test]
    fn mixed_batches_are_parted(
        cores in proptest::collection::vec(0u8..3, 1..64),
        len in 20usize..1500,
        last in 14usize..1500,
        received_by in 0usize..3,
    ) {
        let Legs { scripts, legs, passed } = legs(3);
        let end = cores.len() - 1;
        let sent: Vec<_> = cores.iter().enumerate().map(|(i, core)| {
            datagram(*core, i as u8, if i == end { last.min(len) } else { len })
        }).collect();
        scripts[received_by].deliver(&sent);
        let own = receive(&legs[received_by]);
        for core in 0..3u8 {
            let got =
                if usize::from(core) == received_by { own.clone() } else { receive(&legs[usize::from(core)]) };
            let expected: Vec<_> =
                sent.iter().zip(&cores).filter(|(_, c)| **c == core).map(|(d, _)| d.clone()).collect();
            prop_assert_eq!(got, expected);
        }
        let foreign = cores.iter().filter(|c| usize::from(**c) != received_by).count();
        prop_assert_eq!(passed.handed.load(Ordering::Relaxed), foreign as u64);
    }
}
