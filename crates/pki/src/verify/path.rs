//! Verifies the path from a leaf to an authority, and what SPIFFE asks of the leaf.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use adit_core::deny_list::DenyEntry;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::error::{CertUsage, VerifyError};
use crate::bundle::TrustBundle;
use crate::deny::DenyList;
use crate::fields::{CertFields, KeyProblem, KeyUsage as KeyUsageBits};

/// The bundle, deny list and algorithms that a path is verified against.
#[derive(Clone, Copy)]
pub(super) struct PathContext<'a> {
    pub(super) bundle: &'a TrustBundle,
    pub(super) denied: &'a DenyList,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Checks that there is a path from the leaf to an authority of the bundle that is not denied, all of it valid now.
pub(super) fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    context: PathContext<'_>,
    usage: CertUsage,
    now: UnixTime,
) -> Result<(), VerifyError> {
    // The leaf must have the extension, see `check_leaf`; intermediates may leave it out.
    let needed = match usage {
        CertUsage::ClientAuth => KeyUsage::client_auth(),
        CertUsage::ServerAuth => KeyUsage::server_auth(),
    };
    let anchors =
        AnchorCheck { context, now, not_current: Cell::new(None), denied: OnceCell::new() };
    let check: &dyn Fn(&webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> =
        &|path| anchors.check(path);
    let verified = EndEntityCert::try_from(leaf).and_then(|leaf| {
        let PathContext { bundle, algorithms, .. } = context;
        leaf.verify_for_usage(
            algorithms.all,
            &bundle.anchors,
            intermediates,
            now,
            needed,
            None,
            Some(check),
        )
        .map(drop)
    });
    verified.map_err(|error| anchors.explain(error, usage))
}

/// Checks authorities, which webpki takes as they are: validity, deny list and path length.
struct AnchorCheck<'a> {
    context: PathContext<'a>,
    now: UnixTime,
    /// The validity of an authority that signed the path and is not valid now.
    not_current: Cell<Option<(UnixTime, UnixTime)>>,
    /// The entry that denies an authority that signed the path.
    denied: OnceCell<Arc<DenyEntry>>,
}

impl AnchorCheck<'_> {
    /// Accepts the authority at the end of a path. To webpki an authority that is refused is an unknown one, since
    /// another may have signed the path too; why it was refused is kept for [`explain`](Self::explain).
    fn check(&self, path: &webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> {
        let PathContext { bundle, denied, .. } = self.context;
        let position = bundle.anchors.iter().position(|a| std::ptr::eq(a, path.anchor()));
        let authority = position
            .and_then(|i| bundle.authorities().get(i))
            .ok_or(webpki::Error::UnknownIssuer)?;
        if !authority.is_current(self.now) {
            self.not_current.set(Some((authority.not_before, authority.not_after)));
            return Err(webpki::Error::UnknownIssuer);
        }
        if let Some(entry) = denied.find_certificate(bundle.domain(), authority.certificate()) {
            self.denied.get_or_init(|| entry);
            return Err(webpki::Error::UnknownIssuer);
        }
        let length = path.intermediate_certificates().count();
        match authority.path_len {
            Some(most) if length > usize::from(most) => {
                Err(webpki::Error::PathLenConstraintViolated)
            }
            _ => Ok(()),
        }
    }

    /// The reason for which no path was found.
    fn explain(&self, error: webpki::Error, usage: CertUsage) -> VerifyError {
        let bundle = self.context.bundle;
        match (self.denied.get(), self.not_current.get(), error) {
            (Some(entry), _, webpki::Error::UnknownIssuer) => {
                VerifyError::Denied(Arc::clone(entry))
            }
            (None, Some((not_before, not_after)), webpki::Error::UnknownIssuer) => {
                let domain = bundle.domain().clone();
                VerifyError::AuthorityNotCurrent { domain, not_before, not_after }
            }
            (_, _, error) => VerifyError::from_webpki(error, usage, bundle.domain()),
        }
    }
}

/// Checks what SPIFFE asks of a leaf (X509-SVID §4.3, §5.2) and webpki does not. It runs on certificates that
/// an authority signed, and can only refuse.
pub(super) fn check_leaf(leaf: &CertificateDer<'_>, usage: CertUsage) -> Result<(), VerifyError> {
    let fields = CertFields::parse(leaf).map_err(|_| VerifyError::Malformed)?;
    if fields.ca {
        return Err(VerifyError::AuthorityAsLeaf);
    }
    if !fields.has_extended_usage {
        return Err(VerifyError::Usage(usage));
    }
    let signs_handshakes =
        |u: KeyUsageBits| u.digital_signature && !u.sign_certificates && !u.sign_crls;
    if !fields.usage.is_some_and(signs_handshakes) {
        return Err(VerifyError::KeyUsage);
    }
    fields.key.check().map_err(|bad| match bad {
        KeyProblem::Weak(bits) => VerifyError::WeakKey(bits),
        KeyProblem::Unsupported => VerifyError::Algorithm,
    })
}
