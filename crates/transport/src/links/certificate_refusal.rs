//! The text of a refused certificate: its label, what is to be done, and the identity that it claims.

use adit_core::code::Code;
use adit_core::spiffe::SpiffeId;
use adit_pki::VerifyError;

/// In brackets, the remedy if `refuser` refused a certificate of `refused`, from the label with which the reason
/// begins.
pub(super) fn refusal_hint(why: &str, refuser: &str, refused: &str) -> String {
    match why.split(':').next().unwrap_or_default() {
        "unknown-trust-domain" => {
            format!(" ({refuser} has no trust bundle for {refused}: is it linked there?)")
        }
        "unknown-authority" | "wrong-signature" | "authority-not-current" => {
            format!(" (the trust bundle of {refused} that {refuser} has is not the one in force)")
        }
        "expired" => format!(" (renew it, or set the clock of {refuser})"),
        "not-yet-valid" => format!(" (compare the clocks of {refuser} and {refused})"),
        VerifyError::DENIED => format!(" (deny list of {refuser})"),
        _ => String::new(),
    }
}

/// The code of a refused certificate: `of` says which side refused, unless the deny list did.
pub(super) fn refusal_code(of: Code, why: &str) -> Code {
    let is_denied = why.split(':').next() == Some(VerifyError::DENIED);
    if is_denied { Code::DeniedIdentity } else { of }
}

/// The identity that a refused certificate claims, at the end of `why`.
pub(super) fn claimed_id(why: &str) -> Option<SpiffeId> {
    why.rsplit_once(VerifyError::CLAIMS)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claimed_identity_of_a_certificate_is_read_from_the_end_and_only_there() {
        let id = claimed_id(
            "wrong-signature: another key signed claimed by spiffe://bank.test/adit/node/b1",
        );
        assert_eq!(id.unwrap().trust_domain().as_str(), "bank.test");
        assert_eq!(claimed_id("wrong-signature: another key signed"), None);
        assert_eq!(claimed_id("x claimed by spiffe://bank.test/adit/node/b1, or so"), None);
    }
}
