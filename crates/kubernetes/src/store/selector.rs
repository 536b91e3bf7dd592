//! The selection of objects that a store holds, made by the server.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::{Resource, ResourceExt};

use crate::api::SLICE_SERVICE;

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
    /// For EndpointSlices: the Services that they belong to, `NAMESPACE/NAME`; all if there are none. The server can select by
    /// names alone, and anybody may make slices of that name in a namespace of his own: what belongs to no
    /// other Service than these is not kept.
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

    /// Returns whether what was kept for `held` holds all objects that this selects.
    pub(super) fn is_answered_by(&self, held: &Self) -> bool {
        let by_services = |one: &Self| !one.selects_nothing && !one.services.is_empty();
        (self.is_same_request(held) || (by_services(self) && by_services(held)))
            && self.services.is_subset(&held.services)
    }

    /// Returns whether an object that the server has sent is among those that are wanted.
    pub(super) fn admits<K: Resource>(&self, object: &K) -> bool {
        let service = || {
            let name = object.labels().get(SLICE_SERVICE)?;
            Some(format!("{}/{name}", object.namespace()?))
        };
        self.services.is_empty()
            || service().is_some_and(|service| self.services.contains(&service))
    }

    /// Selects the EndpointSlices of these Services, each given by namespace and name. The server is asked for all slices if the
    /// names are too many for a request.
    #[must_use]
    pub fn slices_of_services<'a>(services: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut names, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        for (namespace, name) in services {
            names.insert(name);
            wanted.insert(format!("{namespace}/{name}"));
        }
        let selector = Self { services: Arc::new(wanted), ..Self::default() };
        if names.is_empty() {
            return Self { selects_nothing: true, ..selector };
        }
        let names: Vec<&str> = names.into_iter().collect();
        // A comma takes three bytes in a request.
        let labels = if names.iter().map(|n| n.len() + 3).sum::<usize>() > MAX_SELECTOR_BYTES {
            SLICE_SERVICE.to_owned()
        } else {
            format!("{} in ({})", SLICE_SERVICE, names.join(","))
        };
        Self { labels: Some(labels), ..selector }
    }
}
