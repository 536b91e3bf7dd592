//! `adit migrate`: from a hand-written EndpointSlice that leads to another cluster's node ports (a lateral hack) to an import, and
//! back, without a lost request.
//!
//! [`Migration::prepare`] finds the hack and what would be done; each step is then performed by itself, and returns once its
//! effect was seen. The order is what keeps requests: the old endpoints go on serving (`ready: false, serving: true,
//! terminating: true`) until ours are ready, and the node port is the last to go. Each step does nothing where its effect is there
//! already, so a migration that was interrupted is run again.
//!
//! * [`hack`] recognises a hack from objects; [`record`] keeps what was there, for the way back.
//! * [`forward`] and [`back`] perform the steps.

mod back;
mod forward;
mod hack;
mod record;

use std::time::Duration;

use adit_core::name::{ClusterName, ServiceName};
use adit_core::policy::WorkloadPattern;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use self::record::MigrationRecord;
use super::context::{Context, ContextError, post_parameters};
use super::edit::EditError;
use super::link;

/// Most attempts to write an object while somebody else writes it.
const MAX_ATTEMPTS: u32 = 5;

/// The reason why a migration did not begin, or stopped at a step.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A ConfigMap could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Something is in the way; nothing was changed by this step.
    #[error("context {context}: {what}\n  hint: {hint}")]
    Refused {
        /// The context.
        context: String,
        /// The obstacle.
        what: String,
        /// The next thing to do.
        hint: String,
    },
    /// The effect of a step was not seen in time.
    #[error("context {context}: not within {} s: {what}{undone}", waited.as_secs())]
    TimedOut {
        /// The context.
        context: String,
        /// The missing effect.
        what: String,
        /// The time that was waited.
        waited: Duration,
        /// The part that was taken back, as a sentence; may be empty.
        undone: String,
    },
}

impl From<ContextError> for MigrationError {
    fn from(error: ContextError) -> Self {
        Self::Edit(error.into())
    }
}

/// A migration as it is asked for.
#[derive(Debug, Clone)]
pub struct MigrationRequest {
    /// The Service.
    pub service: ServiceName,
    /// Workloads of the importing cluster that may use it; empty if the export says so already.
    pub allow: Vec<WorkloadPattern>,
    /// True if the Service keeps its node port.
    pub keep_node_port: bool,
    /// Longest time for which a step waits for its effect.
    pub timeout: Duration,
    /// Time that every kube-proxy has for a change, after the API server has it.
    pub settle: Duration,
}

/// The two clusters.
#[derive(Debug, Clone)]
pub struct MigrationSides {
    /// The one whose pods answer.
    pub exporting: Context,
    /// The one whose pods call.
    pub importing: Context,
}

/// A step, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationStep {
    /// Keep what is there.
    Record,
    /// Export the Service.
    Export,
    /// Import it by name.
    Import,
    /// Say of the old endpoints that they are on their way out.
    Retire,
    /// Wait until ours serve.
    TakeOver,
    /// Remove the old slices.
    Remove,
    /// Take the node port away.
    ClosePort,
    /// The way back: give the Service its node port again.
    OpenPort,
    /// The way back: put the old slices back into service.
    Restore,
    /// The way back: wait until ours are gone, and forget what was kept.
    HandBack,
}

/// A migration that can be performed.
#[derive(Debug)]
pub struct Migration {
    sides: MigrationSides,
    request: MigrationRequest,
    record: MigrationRecord,
    exporter: ClusterName,
    importer: ClusterName,
    /// Sentences for whoever decides about it.
    pub notes: Vec<String>,
}

impl Migration {
    /// Finds the hack, or what is left of it where a migration has begun.
    ///
    /// # Errors
    /// If there is none, or something is in its way.
    pub async fn prepare(
        sides: MigrationSides,
        request: MigrationRequest,
    ) -> Result<Self, MigrationError> {
        let exporter = linked_name(&sides.exporting, &sides.importing).await?;
        let importer = linked_name(&sides.importing, &sides.exporting).await?;
        let (record, notes) = hack::find(&sides, &request).await?;
        Ok(Self { sides, request, record, exporter, importer, notes })
    }

    /// Finds what a migration has kept, to go back to it.
    ///
    /// # Errors
    /// If nothing was kept.
    pub async fn prepare_back(
        sides: MigrationSides,
        request: MigrationRequest,
    ) -> Result<Self, MigrationError> {
        let exporter = linked_name(&sides.exporting, &sides.importing).await?;
        let importer = linked_name(&sides.importing, &sides.exporting).await?;
        let service = &request.service;
        let Some(record) = record::read(&sides.importing, service).await? else {
            return Err(MigrationError::Refused {
                context: sides.importing.name.clone(),
                what: format!(
                    "no migration of {service} has kept anything here (ConfigMap {}/{})",
                    service.namespace,
                    record::name(service)
                ),
                hint: "--to-context is the cluster whose pods call the Service".to_owned(),
            });
        };
        Ok(Self { sides, request, record, exporter, importer, notes: Vec::new() })
    }

    /// Returns the steps, in their order.
    #[must_use]
    pub fn steps(&self) -> Vec<MigrationStep> {
        use MigrationStep as Step;
        let steps =
            [Step::Record, Step::Export, Step::Import, Step::Retire, Step::TakeOver, Step::Remove];
        let closes = self.record.node_ports.is_some() && !self.request.keep_node_port;
        steps.into_iter().chain(closes.then_some(Step::ClosePort)).collect()
    }

    /// Returns the steps of the way back, in their order.
    #[must_use]
    pub fn steps_back(&self) -> Vec<MigrationStep> {
        let opens = self.record.node_ports.is_some().then_some(MigrationStep::OpenPort);
        opens.into_iter().chain([MigrationStep::Restore, MigrationStep::HandBack]).collect()
    }

    /// Describes a step for people, with the context that it changes.
    #[must_use]
    pub fn describe(&self, step: MigrationStep) -> String {
        let Self { request, record, exporter, importer, .. } = self;
        let service = &request.service;
        let (from, to) = (&self.sides.exporting.name, &self.sides.importing.name);
        let slices = record.slice_names();
        match step {
            MigrationStep::Record => format!(
                "{to}: keep what is there in ConfigMap {}/{}",
                service.namespace,
                record::name(service)
            ),
            MigrationStep::Export => match self.allowed_text() {
                Some(allowed) => format!("{from}: export {service} to {importer}, for {allowed}"),
                None => format!("{from}: export {service} to {importer}, for whom it says already"),
            },
            MigrationStep::Import => format!("{to}: import {service} from {exporter} by name"),
            MigrationStep::Retire => format!(
                "{to}: say that {slices} is on its way out (ready: false, serving: true, terminating: true); it serves on"
            ),
            MigrationStep::TakeOver => {
                format!(
                    "{to}: wait until Adit's own endpoints of {service} are ready, which come first then"
                )
            }
            MigrationStep::Remove => format!("{to}: delete {slices}"),
            MigrationStep::ClosePort => {
                format!("{from}: Service {service} back from NodePort to ClusterIP")
            }
            MigrationStep::OpenPort => {
                format!("{from}: Service {service} to NodePort again, with its port of before")
            }
            MigrationStep::Restore => format!("{to}: {slices} as it was"),
            MigrationStep::HandBack => format!(
                "{to}: wait until Adit's own endpoints of {service} are gone, and forget what was kept"
            ),
        }
    }

    /// Performs a step and waits for its effect. Returns what was seen.
    ///
    /// # Errors
    /// If it cannot be performed, or its effect is not seen. If old endpoints were on their way out already, they are in service
    /// again then, unless the error says otherwise.
    pub async fn perform(&self, step: MigrationStep) -> Result<String, MigrationError> {
        match step {
            MigrationStep::Record => self.keep_record().await,
            MigrationStep::Export => self.export().await,
            MigrationStep::Import => self.import().await,
            MigrationStep::Retire => self.retire().await,
            MigrationStep::TakeOver => self.take_over().await,
            MigrationStep::Remove => self.remove().await,
            MigrationStep::ClosePort => self.close_port().await,
            MigrationStep::OpenPort => self.open_port().await,
            MigrationStep::Restore => self.restore().await,
            MigrationStep::HandBack => self.hand_back().await,
        }
    }

    /// Returns the names of both clusters: the exporting, then the importing one.
    #[must_use]
    pub fn clusters(&self) -> (&ClusterName, &ClusterName) {
        (&self.exporter, &self.importer)
    }

    fn allowed_text(&self) -> Option<String> {
        let allowed: Vec<String> = self.request.allow.iter().map(ToString::to_string).collect();
        (!allowed.is_empty()).then(|| allowed.join(", "))
    }

    fn timed_out(&self, context: &Context, what: String) -> MigrationError {
        MigrationError::TimedOut {
            context: context.name.clone(),
            what,
            waited: self.request.timeout,
            undone: String::new(),
        }
    }

    /// Changes the Service of the exporting side; `change` returns false if it is as it should be.
    async fn change_service(
        &self,
        change: impl Fn(&mut Service) -> bool,
    ) -> Result<(), MigrationError> {
        let (context, service) = (&self.sides.exporting, &self.request.service);
        let services = context.namespaced_api::<Service>(service.namespace.as_str());
        let mut attempt = 0;
        loop {
            let found = services.get(service.name()).await;
            let mut found =
                found.map_err(context.request_error(&format!("read Service {service}")))?;
            if !change(&mut found) {
                return Ok(());
            }
            attempt += 1;
            match services.replace(service.name(), &post_parameters(), &found).await {
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < MAX_ATTEMPTS => {}
                done => {
                    done.map_err(context.request_error(&format!("write Service {service}")))?;
                    return Ok(());
                }
            }
        }
    }
}

/// Returns the name of a cluster, once it is linked with the other side.
async fn linked_name(context: &Context, other: &Context) -> Result<ClusterName, MigrationError> {
    let unlinked = |what: String| MigrationError::Refused {
        context: context.name.clone(),
        what,
        hint: format!("`adit link {} {}` first", context.name, other.name),
    };
    let document = context.document().await?;
    let Ok((config, _)) = document.parse() else {
        return Err(unlinked("this cluster has no name yet, or its configuration is wrong".into()));
    };
    let Ok((other_config, _)) = other.document().await?.parse() else {
        return Err(unlinked(format!("the cluster of context {} has no name yet", other.name)));
    };
    if config.cluster == other_config.cluster {
        return Err(MigrationError::Refused {
            context: context.name.clone(),
            what: format!("both contexts lead to cluster {}", config.cluster),
            hint: "--from-context is the cluster whose pods answer, --to-context the one whose pods call".into(),
        });
    }
    if !link::is_linked(&document, &other_config.cluster) {
        return Err(unlinked(format!(
            "{} is not linked with {}",
            config.cluster, other_config.cluster
        )));
    }
    Ok(config.cluster)
}

/// Returns the name of whoever wrote an object last, if it says so.
fn last_writer(object: &impl ResourceExt) -> String {
    let managers = object.managed_fields().iter().filter(|entry| entry.subresource.is_none());
    let last = managers.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone()).unwrap_or_else(|| "somebody".to_owned())
}
