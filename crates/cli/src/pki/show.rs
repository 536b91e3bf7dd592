//! `adit pki show`: the contents of a file of certificates, and its problems.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_core::spiffe::Role;
use adit_pki::inspect::{CertInfo, inspect};
use adit_pki::time::{in_words, rfc3339};
use adit_pki::{UnixTime, files};
use anyhow::Context;
use serde_json::json;

use crate::output::print;

/// Show what is in a certificate or trust bundle
///
/// Reads PEM or DER certificates and SPIFFE bundles in JSON; refuses files with a private key in them. Marks
/// with !! what Adit would refuse (expired, no SPIFFE ID, an authority where a leaf belongs…) and with ! what
/// deserves a look (little time left, names that nobody looks at…).
///
/// Exit status: 0 all usable now, 1 the file cannot be read, 2 something in it is expired or unusable; so
/// `adit pki show node.pem` in a timer is a check.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to look at
    file: PathBuf,
    /// Write JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = UnixTime::now();
    let bytes = files::read(&args.file)?;
    let all = inspect(&bytes, now).with_context(|| args.file.display().to_string())?;
    print(&if args.json { as_json(&all) } else { as_text(&all, now)? })?;
    let unusable = all.iter().any(CertInfo::is_unusable);
    Ok(if unusable { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Describes the holder.
fn holder(info: &CertInfo) -> String {
    let Some(id) = &info.id else {
        let what = if info.authority { "authority" } else { "certificate" };
        return format!("{what} without a SPIFFE ID");
    };
    let domain = id.trust_domain();
    match id.role() {
        _ if info.authority && id.path().is_empty() => format!("authority of {domain}"),
        Ok(Role::Node(name)) => format!("node {name} of {domain}"),
        Ok(Role::Controller) => format!("controller of {domain}"),
        Ok(Role::Workload(w)) => {
            format!("workload {}/{} of {domain}", w.namespace, w.service_account)
        }
        Err(_) => format!("identity of {domain}"),
    }
}

fn as_text(all: &[CertInfo], now: UnixTime) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for (i, info) in all.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        let left = info.not_after.as_secs().saturating_sub(now.as_secs());
        let validity = format!("{} to {}", rfc3339(info.not_before), rfc3339(info.not_after));
        let validity = match left {
            0 => validity,
            left => format!("{validity} ({} left)", in_words(Duration::from_secs(left))),
        };
        let usages = info.usages.join(", ");
        let names = info.names.join(", ");
        let rows = [
            ("names", names.as_str()),
            ("valid", &validity),
            ("key", &info.key),
            ("usages", &usages),
            ("subject", &info.subject),
            ("issuer", &info.issuer),
            ("serial", &info.serial),
            ("key hash", &info.key_sha256),
            ("sha-256", &info.fingerprint),
        ];
        writeln!(text, "{}. {}", i + 1, holder(info))?;
        for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(text, "   {name:<8} {value}")?;
        }
        for finding in &info.findings {
            let mark = if finding.is_unusable() { "!!" } else { "!" };
            writeln!(text, "   {mark:<2} {finding}")?;
        }
    }
    Ok(text)
}

fn as_json(all: &[CertInfo]) -> String {
    let all: Vec<_> = all
        .iter()
        .map(|info| {
            let findings: Vec<_> = info
                .findings
                .iter()
                .map(|f| json!({ "unusable": f.is_unusable(), "text": f.to_string() }))
                .collect();
            json!({
                "holder": holder(info),
                "spiffeId": info.id.as_ref().map(ToString::to_string),
                "authority": info.authority,
                "names": info.names,
                "notBefore": rfc3339(info.not_before),
                "notAfter": rfc3339(info.not_after),
                "key": info.key,
                "usages": info.usages,
                "subject": info.subject,
                "issuer": info.issuer,
                "serial": info.serial,
                "keySha256": info.key_sha256,
                "sha256": info.fingerprint,
                "usable": !info.is_unusable(),
                "findings": findings,
            })
        })
        .collect();
    format!("{:#}\n", json!(all))
}
