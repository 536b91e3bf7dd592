//! The steps from a hack to an import.

use std::time::Duration;

use adit_core::policy::{Pattern, WorkloadPattern};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, sleep};

use super::record;
use super::{Migration, MigrationError, last_writer};
use crate::api::{Export, Import, ObjectStatus, ServiceRef};
use crate::operator::context::post_parameters;
use crate::operator::declare::{self, ExportRequest, ImportRequest};
use crate::operator::edit::{EditError, edit};
use crate::operator::link::POLL_INTERVAL;
use crate::service::{do_all_leave, is_endpoint_ready, is_our_slice};

/// From the removal of a thing until it is believed that nobody writes it back.
const WATCHED_DELAY: Duration = Duration::from_secs(3);

impl Migration {
    pub(super) async fn keep_record(&self) -> Result<String, MigrationError> {
        record::write(&self.sides.importing, &self.request.service, &self.record).await?;
        Ok(match &self.record.node_ports {
            Some(saved) => {
                let ports: Vec<String> = saved.ports.values().map(ToString::to_string).collect();
                format!("{}, node port {}", self.record.slice_names(), ports.join(", "))
            }
            None => self.record.slice_names(),
        })
    }

    pub(super) async fn export(&self) -> Result<String, MigrationError> {
        let (context, service) = (&self.sides.exporting, &self.request.service);
        let name = ServiceRef::from(service).object_name();
        let read = || async {
            let found = context.cluster_api::<Export>().get_opt(&name).await;
            found.map_err(context.request_error(&format!("read Export {name}")))
        };
        if !self.request.allow.is_empty() {
            let request = ExportRequest {
                service: service.clone(),
                alias: None,
                make_alias: false,
                to: vec![self.importer.clone()],
                allow: self.request.allow.clone(),
                app_protocol: None,
                class: None,
                remove: false,
            };
            let done = edit(context, false, |document| {
                declare::export_changes(&context.name, document, &request)
            })
            .await;
            let granted = |export: Export| {
                let to_them = |g: &&crate::api::Grant| g.cluster == self.importer.as_str();
                let granted = export.spec.allow.iter().filter(to_them);
                let granted: Vec<_> =
                    granted.filter_map(|g| WorkloadPattern::try_from(&g.workloads).ok()).collect();
                self.request.allow.iter().all(|wanted| granted.contains(wanted))
            };
            match done {
                // Whoever keeps it in a repository has granted it there.
                Err(EditError::DeclaredElsewhere { .. }) if read().await?.is_some_and(granted) => {}
                done => drop(done?),
            }
        }
        let deadline = Instant::now() + self.request.timeout;
        loop {
            let export = read().await?;
            let status = export.as_ref().and_then(|export| export.status.as_ref());
            let wrong = ["Valid", "Linked", "Ready"].into_iter().find_map(|kind| {
                match ObjectStatus::condition(status, kind) {
                    Some(one) if one.status == "True" => None,
                    Some(one) => Some(format!("{} ({})", one.message, one.reason)),
                    None => Some(format!(
                        "nothing is said yet of whether the export of {service} is {kind}"
                    )),
                }
            });
            match wrong {
                None => return Ok("its backends answer".to_owned()),
                Some(what) if Instant::now() >= deadline => {
                    return Err(self.timed_out(context, what));
                }
                Some(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    pub(super) async fn import(&self) -> Result<String, MigrationError> {
        let (context, service) = (&self.sides.importing, &self.request.service);
        let own = |pattern: &WorkloadPattern| matches!(&pattern.namespace, Pattern::Exact(namespace) if *namespace == service.namespace);
        // By itself an import is for its own namespace; callers from elsewhere are named.
        let all_own = self.request.allow.iter().all(own);
        let request = ImportRequest {
            service: service.clone(),
            from: Some(self.exporter.clone()),
            allow: if all_own { Vec::new() } else { self.request.allow.clone() },
            create_service: None,
            agent: None,
            remove: false,
        };
        let done = edit(context, false, |document| {
            declare::import_changes(&context.name, document, &request)
        })
        .await;
        match done {
            Err(EditError::DeclaredElsewhere { .. }) if self.read_import().await?.is_some() => {}
            done => drop(done?),
        }
        let deadline = Instant::now() + self.request.timeout;
        loop {
            let import = self.read_import().await?;
            let status = import.as_ref().and_then(|import| import.status.as_ref());
            let what = match ObjectStatus::condition(status, "Ready") {
                Some(ready)
                    if ready.status == "True" || ready.reason == "ServiceHasOwnEndpoints" =>
                {
                    return Ok("the controller has taken it up; nothing leads there yet".to_owned());
                }
                Some(ready) => format!("{} ({})", ready.message, ready.reason),
                None => format!("the controller says nothing of the import of {service}"),
            };
            if Instant::now() >= deadline {
                return Err(self.timed_out(context, what));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the import, if it is one from the exporting side that is wanted.
    async fn read_import(&self) -> Result<Option<Import>, MigrationError> {
        let context = &self.sides.importing;
        let name = ServiceRef::from(&self.request.service).object_name();
        let found = context.cluster_api::<Import>().get_opt(&name).await;
        let found = found.map_err(context.request_error(&format!("read Import {name}")))?;
        let from = self.exporter.as_str();
        Ok(found.filter(|import| import.spec.from == from && import.spec.released_at.is_none()))
    }

    pub(super) async fn retire(&self) -> Result<String, MigrationError> {
        let present = self.present_slices().await?;
        for slice in &present {
            self.write_conditions(slice, |_| {
                Some(EndpointConditions {
                    ready: Some(false),
                    serving: Some(true),
                    terminating: Some(true),
                })
            })
            .await?;
        }
        Ok(if present.is_empty() {
            "gone already".to_owned()
        } else {
            "kube-proxy leads there while no other endpoint is ready".to_owned()
        })
    }

    /// Returns those of the recorded slices that are there.
    pub(super) async fn present_slices(&self) -> Result<Vec<EndpointSlice>, MigrationError> {
        let all = self.sides.importing.slices_of(&self.request.service).await?;
        let is_recorded = |slice: &EndpointSlice| {
            self.record.slices.iter().any(|one| one.name_any() == slice.name_any())
        };
        Ok(all.into_iter().filter(is_recorded).collect())
    }

    /// Writes the conditions of all endpoints of a slice, if they are not as they should be.
    pub(super) async fn write_conditions(
        &self,
        slice: &EndpointSlice,
        conditions: impl Fn(usize) -> Option<EndpointConditions>,
    ) -> Result<(), MigrationError> {
        let (context, mut fresh) = (&self.sides.importing, slice.clone());
        for (index, endpoint) in fresh.endpoints.iter_mut().enumerate() {
            endpoint.conditions = conditions(index);
        }
        if fresh == *slice {
            return Ok(());
        }
        let namespace = self.request.service.namespace.as_str();
        let slices = context.namespaced_api::<EndpointSlice>(namespace);
        let name = slice.name_any();
        // With the version that was read: if somebody else writes it, this fails and is run again.
        let done = slices.replace(&name, &post_parameters(), &fresh).await;
        done.map_err(context.request_error(&format!("write EndpointSlice {namespace}/{name}")))?;
        Ok(())
    }

    pub(super) async fn take_over(&self) -> Result<String, MigrationError> {
        let began = Instant::now();
        let done = self.wait_for_ours(began).await;
        let Err(error) = done else {
            return Ok(format!("ready after {} s", began.elapsed().as_secs()));
        };
        let undone = match self.put_back().await {
            Ok(()) => "\n  the old endpoints are in service again, and nothing was lost by this"
                .to_owned(),
            Err(wrong) => format!(
                "\n  and the old endpoints could not be put back into service: {wrong}\n  hint: the same command with --back"
            ),
        };
        Err(match error {
            MigrationError::TimedOut { context, what, waited, .. } => {
                MigrationError::TimedOut { context, what, waited, undone }
            }
            MigrationError::Refused { context, what, hint } => {
                MigrationError::Refused { context, what: what + &undone, hint }
            }
            other @ MigrationError::Edit(_) => other,
        })
    }

    async fn wait_for_ours(&self, began: Instant) -> Result<(), MigrationError> {
        let context = &self.sides.importing;
        let mut ready_since = None;
        loop {
            let now = Instant::now();
            let what = match self.why_not_ours().await? {
                None if now - *ready_since.get_or_insert(now) >= self.request.settle => {
                    return Ok(());
                }
                // Every kube-proxy has the time that it needs, and callers that are refused are heard of.
                None => {
                    sleep(POLL_INTERVAL).await;
                    continue;
                }
                Some(what) => what,
            };
            ready_since = None;
            if now - began >= self.request.timeout {
                return Err(self.timed_out(context, what));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns what is missing until callers are served by Adit.
    async fn why_not_ours(&self) -> Result<Option<String>, MigrationError> {
        let (context, service) = (&self.sides.importing, &self.request.service);
        for slice in self.present_slices().await? {
            if !do_all_leave(&slice) {
                let (name, by) = (slice.name_any(), last_writer(&slice));
                return Err(MigrationError::Refused {
                    context: context.name.clone(),
                    what: format!("{by} has put EndpointSlice {name} back into service"),
                    hint: format!("whatever writes {name} has to stop first"),
                });
            }
        }
        let import = self.read_import().await?;
        let status = import.as_ref().and_then(|import| import.status.as_ref());
        if let Some(refusing) =
            ObjectStatus::condition(status, "Refusing").filter(|c| c.status == "True")
        {
            return Err(MigrationError::Refused {
                context: context.name.clone(),
                what: format!("callers are refused: {}", refusing.message),
                hint: format!("grant them ({}), and run this again", refusing.reason),
            });
        }
        match ObjectStatus::condition(status, "Ready") {
            Some(ready) if ready.status == "True" => {}
            Some(ready) => return Ok(Some(format!("{} ({})", ready.message, ready.reason))),
            None => return Ok(Some(format!("there is no import of {service} any more"))),
        }
        if let Some(broken) =
            ObjectStatus::condition(status, "NotServed").filter(|c| c.status == "True")
        {
            return Ok(Some(broken.message.clone()));
        }
        let slices = context.slices_of(service).await?;
        let own_slices = slices.iter().filter(|slice| is_our_slice(slice));
        let ready = own_slices.flat_map(|slice| &slice.endpoints).any(is_endpoint_ready);
        Ok((!ready).then(|| format!("Adit's EndpointSlice of {service} is not there yet")))
    }

    pub(super) async fn remove(&self) -> Result<String, MigrationError> {
        let (context, service) = (&self.sides.importing, &self.request.service);
        // Looked at again, since a person may have waited between the steps.
        if let Some(what) = self.why_not_ours().await? {
            return Err(MigrationError::Refused {
                context: context.name.clone(),
                what: format!("Adit does not serve {service} any more: {what}"),
                hint: "the old endpoints serve meanwhile; run this again once that is mended, or go --back".to_owned(),
            });
        }
        let slices = context.namespaced_api::<EndpointSlice>(service.namespace.as_str());
        for slice in self.present_slices().await? {
            let only =
                Preconditions { resource_version: slice.resource_version(), uid: slice.uid() };
            let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            let name = slice.name_any();
            let done = slices.delete(&name, &parameters).await;
            done.map_err(context.request_error(&format!("delete EndpointSlice {name}")))?;
        }
        sleep(WATCHED_DELAY.max(self.request.settle)).await;
        if let Some(back) = self.present_slices().await?.first() {
            let (name, by) = (back.name_any(), last_writer(back));
            return Err(MigrationError::Refused {
                context: context.name.clone(),
                what: format!("{by} has written EndpointSlice {name} again"),
                hint: format!("whatever writes {name} has to stop; then run this again"),
            });
        }
        match self.why_not_ours().await? {
            None => Ok(format!("{} serves {service} alone", self.exporter)),
            Some(what) => Err(self.timed_out(context, what)),
        }
    }

    pub(super) async fn close_port(&self) -> Result<String, MigrationError> {
        let (context, service) = (&self.sides.exporting, &self.request.service);
        self.change_service(|found| {
            let spec = found.spec.get_or_insert_default();
            if spec.type_.as_deref() != Some("NodePort") {
                return false;
            }
            spec.type_ = Some("ClusterIP".to_owned());
            spec.external_traffic_policy = None;
            spec.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
            true
        })
        .await?;
        sleep(WATCHED_DELAY).await;
        let services = context.namespaced_api::<Service>(service.namespace.as_str());
        let found = services.get(service.name()).await;
        let found = found.map_err(context.request_error(&format!("read Service {service}")))?;
        if found.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("NodePort")) {
            let by = last_writer(&found);
            return Err(MigrationError::Refused {
                context: context.name.clone(),
                what: format!("{by} has made Service {service} a NodePort again"),
                hint: "change it there; Adit does not need it any more".to_owned(),
            });
        }
        Ok("no node port leads to it any more".to_owned())
    }
}
