//! Two nodes of Adit, of two clusters, with the defaults that ship: every limit, every window, the log.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Subject, SubjectKind};
use crate::process::{ChildProcess, run};
use crate::test_bed::{TestBed, free_port};

pub(super) fn start(kind: SubjectKind, place: &TestBed, program: &Path) -> Result<Subject> {
    let folder = tempfile::Builder::new().disable_cleanup(true).tempdir_in(place.root.path())?;
    let root = folder.path();
    for (cluster, node) in [("edge", "e1"), ("bank", "b1")] {
        let path = |name: &str| root.join(name).to_string_lossy().into_owned();
        let (ca, out) = (path(&format!("{cluster}-ca")), path(node));
        let bundle = path(&format!("{cluster}.pem"));
        let domain = format!("{cluster}.test");
        run(program, &["pki", "init", "--trust-domain", &domain, "--dir", &ca])?;
        run(program, &["pki", "issue", "--ca", &ca, "--node", node, "--out", &out])?;
        run(program, &["pki", "bundle", "--ca", &ca, "--out", &bundle])?;
    }
    let near = format!("{}:{}", place.near.ip, free_port()?);
    let far = format!("{}:{}", place.far.ip, free_port()?);
    let (rpc, bulk, server) = (place.front()?, place.front()?, place.server);
    let edge = format!(
        r#"cluster: edge
trustDomain: edge.test
node: {{name: e1, listen: "{near}", identity: e1}}
links: [{{cluster: bank, trustDomain: bank.test, trustBundle: bank.pem, addresses: ["{far}"]}}]
imports:
  - {{service: bench/rpc, from: bank, ports: [{{name: tcp, port: 1, listen: "{rpc}"}}]}}
  - {{service: bench/bulk, from: bank, ports: [{{name: tcp, port: 1, listen: "{bulk}"}}]}}
workloads: [{{address: 127.0.0.1, namespace: bench, serviceAccount: load}}]
"#
    );
    let bank = format!(
        r#"cluster: bank
trustDomain: bank.test
node: {{name: b1, listen: "{far}", identity: b1}}
links: [{{cluster: edge, trustDomain: edge.test, trustBundle: edge.pem, addresses: ["{near}"]}}]
exports:
  - service: bench/rpc
    ports: [{{name: tcp, port: 1, backends: ["{server}"]}}]
    allow: [{{cluster: edge, namespace: bench, serviceAccount: load}}]
  - service: bench/bulk
    class: bulk
    ports: [{{name: tcp, port: 1, backends: ["{server}"]}}]
    allow: [{{cluster: edge, namespace: bench, serviceAccount: load}}]
"#
    );
    let daemon = |net, node: &str, text: String| -> Result<ChildProcess> {
        let file = root.join(format!("{node}.yaml"));
        let mut text = text + &format!("admin: {{socket: {node}.sock}}\n");
        if kind == SubjectKind::AditJumbo {
            text += "limits: {mtu: {initial: 6500, max: 6500}}\n";
        }
        fs::write(&file, text)?;
        let args = ["node", "--config", &file.to_string_lossy()];
        ChildProcess::start(net, &file.with_extension("log"), program, &args)
    };
    let daemons = vec![daemon(place.far.net(), "b1", bank)?, daemon(place.near.net(), "e1", edge)?];
    Ok(Subject { kind, rpc, bulk, daemons })
}
