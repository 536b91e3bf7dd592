//! QUIC between nodes: connections, lanes, links and the state they carry.
