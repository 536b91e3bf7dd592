//! PEM, strictly: what a file is allowed to hold is decided before anything in it is used.
//!
//! `rustls-pki-types` decodes; it skips sections that it does not know, so labels are looked at first.

use adit_core::text::printable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The reason for which a text is not the PEM that it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No section at all.
    #[error("there is no PEM section (-----BEGIN …-----) in it")]
    Empty,
    /// A private key where only certificates belong.
    #[error(
        "there is a private key in it, where only certificates belong; keys never leave the machine \
         they were made for: if anybody else has seen this one, replace it"
    )]
    PrivateKey,
    /// A section of another kind.
    #[error("there is a section {0:?} in it, where only {1} belong")]
    Label(String, &'static str),
    /// More private keys than one.
    #[error("there are {0} private keys in it, where one belongs")]
    SeveralKeys(usize),
    /// Damaged: a missing end, or no base64.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The certificates of a text that holds nothing else, in order; at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let labels = labels(text);
    if labels.iter().any(|l| l.contains("PRIVATE KEY")) {
        return Err(PemError::PrivateKey);
    }
    if let Some(label) = labels.iter().find(|l| *l != "CERTIFICATE") {
        return Err(PemError::Label(printable(label, 40), "certificates"));
    }
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(damaged)?;
    if certificates.is_empty() { Err(PemError::Empty) } else { Ok(certificates) }
}

/// The one private key of a text that holds nothing else but, perhaps, EC parameters.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let labels = labels(text);
    let is_key = |l: &String| l.ends_with("PRIVATE KEY");
    // `openssl ecparam -genkey` writes the curve in front of the key.
    if let Some(label) = labels.iter().find(|l| !is_key(l) && *l != "EC PARAMETERS") {
        return Err(PemError::Label(printable(label, 40), "private keys"));
    }
    match labels.iter().filter(|l| is_key(l)).count() {
        0 => Err(PemError::Empty),
        1 => PrivateKeyDer::from_pem_slice(text).map_err(damaged),
        several => Err(PemError::SeveralKeys(several)),
    }
}

/// Writes a section with `label`, in lines of 64 characters (RFC 7468).
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn labels(text: &[u8]) -> Vec<String> {
    text.split(|c| *c == b'\n' || *c == b'\r')
        .filter_map(|line| line.strip_prefix(b"-----BEGIN "))
        .map(|label| String::from_utf8_lossy(label).trim_end().trim_end_matches('-').to_owned())
        .collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the decoder's list of errors is open")]
fn damaged(error: rustls_pki_types::pem::Error) -> PemError {
    use rustls_pki_types::pem::Error as E;
    PemError::Damaged(match error {
        E::MissingSectionEnd { .. } => "a section does not end".to_owned(),
        E::IllegalSectionStart { .. } => "a section begins with a malformed line".to_owned(),
        E::Base64Decode(why) => format!("no base64: {why}"),
        E::NoItemsFound => "an encrypted or unknown kind of private key".to_owned(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_certificates() {
        let one = encode("CERTIFICATE", &[1, 2, 3]);
        assert_eq!(certificates(one.as_bytes()).unwrap(), [CertificateDer::from(vec![1, 2, 3])]);
        let two = format!("# a comment\n{one}\nand words\n{one}");
        assert_eq!(certificates(two.as_bytes()).unwrap().len(), 2);

        let errors = [
            (String::new(), PemError::Empty),
            ("hello".to_owned(), PemError::Empty),
            (one.clone() + &encode("PRIVATE KEY", &[0; 40]), PemError::PrivateKey),
            (one.clone() + &encode("ENCRYPTED PRIVATE KEY", &[0]), PemError::PrivateKey),
            (encode("PUBLIC KEY", &[1]), PemError::Label("PUBLIC KEY".into(), "certificates")),
        ];
        for (text, error) in errors {
            assert_eq!(certificates(text.as_bytes()), Err(error), "{text}");
        }
        let cut = &one[..one.len() - 10];
        assert!(matches!(certificates(cut.as_bytes()), Err(PemError::Damaged(_))), "{cut}");
        let noise = one.replace("AQID", "A*ID");
        assert!(matches!(certificates(noise.as_bytes()), Err(PemError::Damaged(_))), "{noise}");
    }

    #[test]
    fn a_key_file_holds_one_key() {
        let key = encode("PRIVATE KEY", &[7; 100]);
        assert_eq!(private_key(key.as_bytes()).unwrap().secret_der(), [7; 100]);
        assert!(private_key((encode("EC PARAMETERS", &[1]) + &key).as_bytes()).is_ok());
        let error = |text: &str| private_key(text.as_bytes()).unwrap_err();
        assert_eq!(error(""), PemError::Empty);
        assert_eq!(error(&(key.clone() + &key)), PemError::SeveralKeys(2));
        assert!(matches!(error(&encode("CERTIFICATE", &[1])), PemError::Label(..)));
        assert!(matches!(error(&encode("ENCRYPTED PRIVATE KEY", &[1])), PemError::Damaged(_)));
    }

    #[test]
    fn lines_are_as_long_as_others_write_them() {
        let text = encode("X", &[0xff; 100]);
        assert!(text.lines().all(|l| l.len() <= 64), "{text}");
        assert!(text.ends_with("-----END X-----\n"));
    }
}
