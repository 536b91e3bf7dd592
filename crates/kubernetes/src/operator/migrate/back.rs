//! The steps from an import back to the hack. Export and import stay declared: connections that are open through them go on, and
//! whoever goes back says when they may end.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::time::{Instant, sleep};

use super::record::{self, SavedNodePorts};
use super::{Migration, MigrationError};
use crate::operator::context::post_parameters;
use crate::operator::link::POLL_INTERVAL;
use crate::service::is_our_slice;

impl Migration {
    pub(super) async fn open_port(&self) -> Result<String, MigrationError> {
        let Some(saved) = &self.record.node_ports else { return Ok("it had none".to_owned()) };
        self.change_service(|found| {
            if SavedNodePorts::of(found).as_ref() == Some(saved) {
                return false;
            }
            let spec = found.spec.get_or_insert_default();
            spec.type_ = Some("NodePort".to_owned());
            spec.external_traffic_policy.clone_from(&saved.external_traffic_policy);
            for port in spec.ports.iter_mut().flatten() {
                port.node_port = saved.ports.get(&port.port).copied();
            }
            true
        })
        .await?;
        // Every kube-proxy has the time that it needs before anybody is led there.
        sleep(self.request.settle).await;
        let ports: Vec<String> = saved.ports.values().map(ToString::to_string).collect();
        Ok(format!("node port {}", ports.join(", ")))
    }

    pub(super) async fn restore(&self) -> Result<String, MigrationError> {
        self.put_back().await?;
        Ok("in service".to_owned())
    }

    /// Puts the recorded slices back into service: those that are there as they were, the others anew.
    pub(super) async fn put_back(&self) -> Result<(), MigrationError> {
        let context = &self.sides.importing;
        let namespace = self.request.service.namespace.as_str();
        let slices = context.namespaced_api::<EndpointSlice>(namespace);
        let present = self.present_slices().await?;
        for recorded in &self.record.slices {
            let name = recorded.name_any();
            match present.iter().find(|slice| slice.name_any() == name) {
                Some(slice) if slice.endpoints.len() == recorded.endpoints.len() => {
                    let was = |index: usize| recorded.endpoints.get(index)?.conditions.clone();
                    self.write_conditions(slice, was).await?;
                }
                Some(slice) => {
                    let mut fresh = slice.clone();
                    fresh.endpoints.clone_from(&recorded.endpoints);
                    let done = slices.replace(&name, &post_parameters(), &fresh).await;
                    done.map_err(context.request_error(&format!("write EndpointSlice {name}")))?;
                }
                None => {
                    let done = slices.create(&post_parameters(), recorded).await;
                    done.map_err(context.request_error(&format!("create EndpointSlice {name}")))?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn hand_back(&self) -> Result<String, MigrationError> {
        let (context, service) = (&self.sides.importing, &self.request.service);
        let deadline = Instant::now() + self.request.timeout;
        loop {
            let all = context.slices_of(service).await?;
            if !all.iter().any(is_our_slice) {
                break;
            }
            if Instant::now() >= deadline {
                let what = format!("Adit's own EndpointSlice of {service} is still there");
                return Err(self.timed_out(context, what));
            }
            sleep(POLL_INTERVAL).await;
        }
        record::forget(context, service).await?;
        Ok("new connections go as before; those that are open through Adit go on".to_owned())
    }
}
