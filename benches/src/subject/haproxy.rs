//! Two haproxies, a thread each.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::{Subject, SubjectKind};
use crate::process::{ChildProcess, most_connections};
use crate::test_bed::{TestBed, free_port};

pub(super) fn start(kind: SubjectKind, place: &TestBed, program: &Path) -> Result<Subject> {
    let (front, middle) = (place.front()?, format!("{}:{}", place.far.ip, free_port()?));
    let name = if kind == SubjectKind::HaproxyMtls { "mtls" } else { "tcp" };
    let (mut listens, mut dials) = (String::new(), String::new());
    if kind == SubjectKind::HaproxyMtls {
        certificates(place)?;
        let tls = |side: &str| {
            let (pem, ca) = (place.file(&format!("{side}.pem")), place.file("ca.pem"));
            format!(" ssl crt {} ca-file {} verify required", pem.display(), ca.display())
        };
        (listens, dials) = (tls("far"), tls("near"));
    }
    let near = configuration(&format!("{front}"), &format!("{middle}{dials}"));
    let far = configuration(&format!("{middle}{listens}"), &format!("{}", place.server));
    let daemon = |net, end: &str, text: &str| -> Result<ChildProcess> {
        let file = place.file(&format!("haproxy-{name}-{end}.cfg"));
        fs::write(&file, text)?;
        ChildProcess::start(
            net,
            &file.with_extension("log"),
            program,
            &["-db", "-f", &file.to_string_lossy()],
        )
    };
    let daemons =
        vec![daemon(place.far.net(), "far", &far)?, daemon(place.near.net(), "near", &near)?];
    Ok(Subject { kind, rpc: front, bulk: front, daemons })
}

fn configuration(bind: &str, server: &str) -> String {
    let most = most_connections().min(20_000);
    format!(
        "global
    nbthread 1
    maxconn {most}
defaults
    mode tcp
    maxconn {most}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind {bind} backlog 4096
    server next {server}
"
    )
}

/// Makes a CA, and a certificate and key for either side.
fn certificates(place: &TestBed) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With the default, leaf and CA have one name, and OpenSSL takes the leaf for self-signed.
    ca.distinguished_name.push(DnType::CommonName, "bench CA");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    fs::write(place.file("ca.pem"), ca.pem())?;
    for side in ["near", "far"] {
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![format!("{side}.test")])?.signed_by(&key, &ca)?;
        let pem = [leaf.pem(), key.serialize_pem()].concat();
        fs::write(place.file(&format!("{side}.pem")), pem)?;
    }
    Ok(())
}
