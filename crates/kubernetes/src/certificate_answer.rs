//! The answer to a CertificateSigningRequest, as the node that asked, the controller and `adit status` read it.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// State of a certificate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateAnswer<'a> {
    /// The request is not answered yet.
    Pending,
    /// The certificate chain, PEM.
    Issued(&'a [u8]),
    /// The request was denied, or has failed: the reason for people.
    Refused(&'a str),
}

impl<'a> CertificateAnswer<'a> {
    /// Reads the answer.
    pub(crate) fn of(request: &'a CertificateSigningRequest) -> Self {
        let Some(status) = &request.status else { return Self::Pending };
        let mut conditions = status.conditions.iter().flatten();
        // These conditions are there only if they are true.
        if let Some(no) = conditions.find(|c| matches!(&*c.type_, "Denied" | "Failed")) {
            let why = no.message.as_deref().or(no.reason.as_deref());
            return Self::Refused(why.unwrap_or("no reason was given"));
        }
        match &status.certificate {
            Some(chain) if !chain.0.is_empty() => Self::Issued(&chain.0),
            Some(_) | None => Self::Pending,
        }
    }
}
