//! News of links, addresses, routes and rules.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use rtnetlink::MulticastGroup;

/// A change waits this long for the next: a pod that starts is a dozen of them.
const SETTLE_DELAY: Duration = Duration::from_millis(50);

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Tells that something has changed in the node's network, be it by us or by others.
///
/// The kernel does not tell of everything (routes that go with their interface, say), and drops what nobody
/// reads in time: call [`super::ensure`] every ten seconds as well.
pub struct NetworkWatch {
    /// The connection, which must be polled for news to come, and the news.
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    messages: BoxStream<'static, ()>,
}

impl std::fmt::Debug for NetworkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkWatch").finish_non_exhaustive()
    }
}

impl NetworkWatch {
    /// Watches from now on.
    ///
    /// # Errors
    /// If netlink sockets cannot be made.
    pub fn new() -> io::Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        Ok(Self { connection: Box::pin(connection), messages: messages.map(drop).boxed() })
    }

    /// Waits for the next change, and until it has settled a little. Cancel-safe but for what it had heard.
    ///
    /// # Errors
    /// If the kernel has ended the connection: make a new one.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.next().await?;
        tokio::time::sleep(SETTLE_DELAY).await;
        while let Some(more) = self.next().now_or_never() {
            more?;
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<()> {
        tokio::select! {
            Some(()) = self.messages.next() => Ok(()),
            () = &mut self.connection => {
                Err(io::Error::other("the kernel closed the netlink connection"))
            }
        }
    }
}
