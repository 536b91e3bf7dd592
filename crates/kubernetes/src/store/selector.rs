//! The selection of objects that a store holds, made by the server.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Most bytes of names in a selector: the length of a request's line is limited.
const MAX_SELECTOR_BYTES: usize = 40_000;

/// Selects objects of a kind; all of them by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// A label selector, as `kubectl -l` takes it.
    pub labels: Option<String>,
    /// A field selector, as `kubectl --field-selector` takes it.
    pub fields: Option<String>,
    /// True if nothing is selected: the server is not asked.
    pub selects_nothing: bool,
    /// For EndpointSlices: the names of the Services that they belong to.
    pub services: Arc<BTreeSet<String>>,
}

impl Selector {
    /// Selects by labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    /// Selects by fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    /// Selects the object of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::fields(format!("metadata.name={name}"))
    }

    /// Returns whether it is the same request to the server.
    pub(super) fn is_same_request(&self, other: &Self) -> bool {
        (&self.labels, &self.fields, self.selects_nothing)
            == (&other.labels, &other.fields, other.selects_nothing)
    }

    /// Selects the EndpointSlices of Services with these names, in any namespace. Selects all
    /// slices if the names are too many for a request.
    #[must_use]
    pub fn slices_of_services<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let services = Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
        let selector = Self { services, ..Self::default() };
        if names.is_empty() {
            return Self { selects_nothing: true, ..selector };
        }
        let names: Vec<&str> = names.into_iter().collect();
        // A comma takes three bytes in a request.
        let labels = if names.iter().map(|n| n.len() + 3).sum::<usize>() > MAX_SELECTOR_BYTES {
            crate::api::SLICE_SERVICE.to_owned()
        } else {
            format!("{} in ({})", crate::api::SLICE_SERVICE, names.join(","))
        };
        Self { labels: Some(labels), ..selector }
    }
}
