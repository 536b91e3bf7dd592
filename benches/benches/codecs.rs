//! The cost of writing and reading each message of the wire: `cargo bench -p adit-benches`.

#![expect(clippy::unwrap_used, reason = "what is encoded here is well-formed")]

use std::sync::Arc;

use adit_core::policy::{Target, WorkloadPattern};
use adit_core::snapshot::{Class, Hop, PeerExport, PeerPort};
use adit_core::spiffe::Workload;
use adit_core::wire::control::{ControlMessage, Hello};
use adit_core::wire::header::{StreamAnswer, StreamHeader, TraceContext};
use adit_core::wire::state::StateMessage;
use bytes::BytesMut;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn header() -> StreamHeader {
    StreamHeader {
        target: Target {
            service: "trustusbank-bank-agents/fraud-bot".parse().unwrap(),
            port: "http".parse().unwrap(),
        },
        source: Workload {
            namespace: "trustusbank-bank-agents".parse().unwrap(),
            service_account: "support-bot".parse().unwrap(),
        },
        probe: None,
        flow: Some([7; 16]),
        trace: Some(TraceContext { trace: [1; 16], span: [2; 8], flags: 1 }),
    }
}

fn hello() -> ControlMessage {
    ControlMessage::Hello(Hello {
        versions: (1, 1),
        capabilities: 0,
        cluster: "edge".parse().unwrap(),
        node: "e1".parse().unwrap(),
        boot: [3; 16],
        class: Class::Interactive,
        clock_ms: 1_790_000_000_000,
        slot: 0,
        stream_window: 1 << 18,
    })
}

/// An export of three ports, with twenty grants and ten nodes.
fn export() -> StateMessage {
    let grant = |n: u32| WorkloadPattern {
        namespace: format!("team-{n}").parse().unwrap(),
        service_account: "*".parse().unwrap(),
    };
    let port = |n: u16| PeerPort {
        name: format!("port-{n}").parse().unwrap(),
        number: 8080 + n,
        app_protocol: None,
        ready: (0..10).map(|node| (format!("node-{node}").parse().unwrap(), 2)).collect(),
        fault: None,
    };
    let export = PeerExport {
        ports: (0..3).map(port).collect(),
        grants: (0..20).map(grant).collect(),
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    };
    StateMessage::Export("trustusbank-bank-agents/fraud-bot".parse().unwrap(), Arc::new(export))
}

/// Makes a module for a codec, all alike: encode into a buffer that is there, decode from one.
macro_rules! codec {
    ($name:ident, $kind:ty, $value:expr) => {
        mod $name {
            use super::*;

            #[divan::bench]
            fn encode(bencher: Bencher<'_, '_>) {
                let (value, mut out): ($kind, _) = ($value, BytesMut::with_capacity(4096));
                bencher.bench_local(|| {
                    out.clear();
                    black_box(&value).encode(black_box(&mut out));
                });
            }

            #[divan::bench]
            fn decode(bencher: Bencher<'_, '_>) {
                let (value, mut out): ($kind, _) = ($value, BytesMut::new());
                value.encode(&mut out);
                bencher.bench_local(|| <$kind>::decode(black_box(&out)).unwrap());
            }
        }
    };
}

codec!(header_of_a_stream, StreamHeader, header());
codec!(answer, StreamAnswer, StreamAnswer::accepted());
codec!(control_hello, ControlMessage, hello());
codec!(state_export, StateMessage, export());
