//! What the operating system gives: sockets, buffers and descriptors.
