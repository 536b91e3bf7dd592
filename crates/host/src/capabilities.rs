//! Capabilities that the binary's file brings along.
//!
//! A process without root gets `CAP_NET_ADMIN` from the image only as *permitted* (`cap_net_admin=p` on
//! the file), and takes it into use itself. Were it *effective* on the file (`ep`), the kernel would refuse
//! to start the binary at all in containers that may not have it, such as the controller's.

use std::io;

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

/// Takes all into use that this thread is permitted. Threads that it starts later inherit that, so call it
/// before there are any.
///
/// # Errors
/// If the system forbids even what is permitted.
pub fn raise() -> io::Result<()> {
    let sets = capabilities(None)?;
    if sets.effective.contains(sets.permitted) {
        return Ok(());
    }
    Ok(set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CapabilitySet;

    #[test]
    fn what_is_permitted_becomes_effective() {
        // On a thread of its own: capabilities are a thread's.
        std::thread::spawn(|| {
            let sets = capabilities(None).unwrap();
            let idle = CapabilitySets { effective: CapabilitySet::empty(), ..sets };
            set_capabilities(None, idle).unwrap();
            raise().unwrap();
            assert_eq!(capabilities(None).unwrap().effective, sets.permitted);
        })
        .join()
        .unwrap();
    }
}
