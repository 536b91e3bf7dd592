//! SPIFFE's JSON form of a trust bundle: a JWK set (SPIFFE Trust Domain and Bundle §4, RFC 7517).
//!
//! Only `use: x509-svid` keys are taken, each with exactly one certificate in `x5c`; keys of other uses
//! (`jwt-svid`) are skipped, as the standard asks. A member that only a private key has ends the
//! reading: such a file must not pass as harmless.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};

use super::{BundleError, TrustBundle};
use crate::fields::{CertFields, PublicKey};

/// The members that only private or symmetric keys have (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub(super) fn read(
    text: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, Option<u64>), BundleError> {
    let error = |why: &str| BundleError::Json(why.to_owned());
    let set: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| BundleError::Json(e.to_string()))?;
    let sequence = match set.get("spiffe_sequence") {
        None => None,
        Some(n) => Some(n.as_u64().ok_or_else(|| error("spiffe_sequence is no whole number"))?),
    };
    let keys = set
        .get("keys")
        .and_then(Value::as_array)
        .ok_or_else(|| error("there is no list \"keys\" in it"))?;
    let mut certificates = Vec::new();
    for key in keys {
        let key = key.as_object().ok_or_else(|| error("an entry of \"keys\" is no object"))?;
        if let Some(member) = PRIVATE.into_iter().find(|m| key.contains_key(*m)) {
            return Err(BundleError::PrivateKey(member));
        }
        if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
            continue;
        }
        let chain = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice);
        let Some([Value::String(certificate)]) = chain else {
            return Err(error("an x509-svid key must have exactly one certificate in \"x5c\""));
        };
        let der = STANDARD.decode(certificate).map_err(|_| error("an \"x5c\" is no base64"))?;
        certificates.push(der.into());
    }
    Ok((certificates, sequence))
}

pub(super) fn write(bundle: &TrustBundle) -> String {
    let keys: Vec<Value> = bundle.authorities.iter().map(|a| key(&a.certificate)).collect();
    let mut set = json!({ "keys": keys });
    if let Some(sequence) = bundle.sequence {
        set["spiffe_sequence"] = sequence.into();
    }
    format!("{set:#}\n")
}

fn key(certificate: &CertificateDer<'_>) -> Value {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let mut key = match CertFields::parse(certificate).map(|f| f.key) {
        // An uncompressed point is 0x04, x, y with both of one length (SEC 1 §2.3.3).
        Ok(key @ (PublicKey::P256([4, point @ ..]) | PublicKey::P384([4, point @ ..]))) => {
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": key.kind(), "x": text(x), "y": text(y) })
        }
        Ok(PublicKey::Ed25519(x)) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(x) }),
        Ok(PublicKey::Rsa { modulus, exponent }) => {
            json!({ "kty": "RSA", "n": text(modulus), "e": text(exponent) })
        }
        // Compressed points: the certificate has all that a reader of x5c needs.
        Ok(PublicKey::P256(_) | PublicKey::P384(_) | PublicKey::Other) | Err(_) => {
            json!({ "kty": "EC" })
        }
    };
    key["use"] = "x509-svid".into();
    key["x5c"] = json!([STANDARD.encode(certificate)]);
    key
}
