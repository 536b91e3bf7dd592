//! The sockets of one listening address: inherited, bound, and spread over the workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use adit_host::udp;
use quinn::{AsyncUdpSocket, ServerConfig};
use tokio_util::task::TaskTracker;

use super::{EndpointsInner, Worker};
use crate::network::{ListeningSocket, SocketOptions};
use crate::socket::{WorkerSocket, WorkerSocketContext};

/// Takes the sockets that were inherited for this address; a port that the system may choose is any that it
/// chose before.
pub(super) fn take_inherited(
    inherited: &mut Vec<(SocketAddr, Vec<OwnedFd>)>,
    address: SocketAddr,
) -> Vec<OwnedFd> {
    let exact = inherited.iter().position(|(at, _)| *at == address);
    let chosen = |(at, _): &(SocketAddr, _)| address.port() == 0 && at.ip() == address.ip();
    let found = exact.or_else(|| inherited.iter().position(chosen));
    found.map(|at| inherited.remove(at).1).unwrap_or_default()
}

/// The sockets of one address while they are made: for each worker those that it reads.
#[derive(Default)]
struct AddressSockets {
    of_workers: Vec<Vec<Arc<dyn AsyncUdpSocket>>>,
    descriptors: Vec<OwnedFd>,
}

impl EndpointsInner {
    /// Listens at one address on every worker, with the sockets that were inherited for it and as many more
    /// as there are workers without one.
    pub(super) fn listen(
        &mut self,
        address: SocketAddr,
        inherited: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let (mut sockets, bound) = self.adopt(inherited)?;
        let mut bound = bound.unwrap_or(address);
        let missing = self.workers.len().saturating_sub(sockets.of_workers.len());
        let share_port = self.workers.len() > 1;
        let options = SocketOptions { share_port, ..self.socket_options() };
        if missing == self.workers.len() {
            self.check_address_is_free(address, &options)?;
        } else if missing > 0 {
            // One that was its process's only socket at this port did not let others have it.
            sockets.descriptors.iter().try_for_each(udp::share)?;
        }
        for worker in self.workers.iter().skip(self.workers.len() - missing) {
            let _context = worker.handle().enter();
            let ListeningSocket { socket, inode, receive_buffer, descriptor } =
                self.net.listen(bound, &options)?;
            bound = socket.local_addr()?;
            sockets.of_workers.push(vec![socket]);
            sockets.descriptors.extend(descriptor);
            self.inodes.extend(inode);
            if let Some(granted) = receive_buffer.filter(|_| worker.index() == 0) {
                warn_of_small_buffer(address, options.receive_buffer, granted);
            }
        }
        for (worker, worker_socket) in
            self.workers.iter().zip(self.join_workers(sockets.of_workers, bound))
        {
            let server = Some(ServerConfig::clone(&self.server_configs.interactive));
            let endpoint = self.endpoint(worker, &worker_socket, server)?;
            self.servers[worker.index()].push(endpoint);
            self.worker_sockets.push(worker_socket);
        }
        self.addresses.push(bound);
        self.sockets.push((bound, sockets.descriptors));
        Ok(())
    }

    /// Reads inherited sockets for older processes only.
    pub(super) fn read_for_predecessors(&mut self, inherited: Vec<OwnedFd>) -> io::Result<()> {
        let (sockets, Some(bound)) = self.adopt(inherited)? else { return Ok(()) };
        for (worker, worker_socket) in
            self.workers.iter().zip(self.join_workers(sockets.of_workers, bound))
        {
            let endpoint = self.endpoint(worker, &worker_socket, None)?;
            self.retired.push(endpoint);
            self.worker_sockets.push(worker_socket);
        }
        self.sockets.push((bound, sockets.descriptors));
        Ok(())
    }

    /// Binds the address alone, for a moment. If several sockets share a port, another process could share
    /// it, too, by mistake.
    fn check_address_is_free(
        &self,
        address: SocketAddr,
        options: &SocketOptions,
    ) -> io::Result<()> {
        if options.share_port && address.port() != 0 {
            let _context = self.workers[0].handle().enter();
            drop(self.net.listen(address, &SocketOptions { share_port: false, ..*options })?);
        }
        Ok(())
    }

    /// Takes over sockets of one address, each by one worker in turn; every one is read, since the system
    /// goes on delivering to all of them.
    fn adopt(
        &mut self,
        inherited: Vec<OwnedFd>,
    ) -> io::Result<(AddressSockets, Option<SocketAddr>)> {
        let mut sockets = AddressSockets::default();
        let mut bound = None;
        for (worker, descriptor) in self.workers.iter().cycle().zip(inherited) {
            let _context = worker.handle().enter();
            let ListeningSocket { socket, inode, descriptor, .. } = self.net.adopt(descriptor)?;
            bound = Some(socket.local_addr()?);
            if let Some(own) = sockets.of_workers.get_mut(worker.index()) {
                own.push(socket);
            } else {
                sockets.of_workers.push(vec![socket]);
            }
            sockets.descriptors.extend(descriptor);
            self.inodes.extend(inode);
        }
        Ok((sockets, bound))
    }

    fn join_workers(
        &self,
        sockets: Vec<Vec<Arc<dyn AsyncUdpSocket>>>,
        listening: SocketAddr,
    ) -> Vec<Arc<WorkerSocket>> {
        let context = WorkerSocketContext {
            generation: self.tuning.generation,
            key: self.keys.cid.clone(),
            forward_counters: Arc::clone(&self.forward_counters),
            predecessors: Arc::clone(&self.predecessors),
            reading_paused: Arc::clone(&self.reading_paused),
        };
        WorkerSocket::join(sockets, listening, &context)
    }

    fn endpoint(
        &self,
        worker: &Worker,
        worker_socket: &Arc<WorkerSocket>,
        server: Option<ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        let _context = worker.handle().enter();
        quinn::Endpoint::new_with_abstract_socket(
            self.endpoint_config(worker),
            server,
            Arc::clone(worker_socket) as _,
            worker.runtime(&TaskTracker::new()),
        )
    }
}

fn warn_of_small_buffer(address: SocketAddr, wanted: usize, granted: usize) {
    if granted < wanted {
        tracing::warn!(
            %address,
            wanted,
            granted,
            "the UDP receive buffer is smaller than wanted, so bursts will be lost: raise \
             net.core.rmem_max, or grant CAP_NET_ADMIN"
        );
    }
}
