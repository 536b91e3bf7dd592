//! Writes a plan: object by object, in the order of the kinds, on the server's side and under a field manager of our own.

use super::error::InstallError;
use super::plan::{
    InstallPlan, ManifestChange, PlannedManifest, apply_object, describe_change, field_conflicts,
    refusal,
};
use crate::operator::context::Context;

/// Most attempts to write an object while its status, or somebody, changes it in between.
const MAX_ATTEMPTS: u32 = 10;

/// Applies all objects of a plan. Those that are there as they should be are applied, too: the server writes nothing
/// then but who holds their fields.
///
/// # Errors
/// [`InstallError::HalfDone`] if an object could not be written after others were.
pub async fn apply(context: &Context, plan: &InstallPlan) -> Result<(), InstallError> {
    for (done, planned) in plan.objects.iter().enumerate() {
        let written = apply_one(context, planned).await;
        written.map_err(|error| match done {
            0 => error,
            done => InstallError::HalfDone { done, all: plan.objects.len(), error: error.into() },
        })?;
    }
    Ok(())
}

/// Applies one object, unless it would now change otherwise than was planned.
async fn apply_one(context: &Context, planned: &PlannedManifest) -> Result<(), InstallError> {
    let PlannedManifest { object, change, version, force, .. } = planned;
    let force = *force;
    let mut version = version.clone();
    for _ in 0..MAX_ATTEMPTS {
        let Err(error) = apply_object(context, object, version.as_deref(), force, false).await
        else {
            return Ok(());
        };
        if let Some(fields) = field_conflicts(object, &error) {
            return Err(InstallError::FieldConflict { context: context.name.clone(), fields });
        }
        if !matches!(&error, kube::Error::Api(status) if status.code == 409) {
            return Err(refusal(context, object)(error).into());
        }
        // A status was written, or somebody changed the object: is the change still the one that was planned?
        let found = object.kind.api(context).get_opt(&object.name).await;
        let found = found.map_err(refusal(context, object))?;
        version = found.as_ref().and_then(|found| found.metadata.resource_version.clone());
        let Some(found) = found else { continue };
        let after = apply_object(context, object, None, force, true).await;
        let after = after.map_err(refusal(context, object))?;
        if describe_change(&found, &after) != *change && *change != ManifestChange::Create {
            break;
        }
    }
    Err(InstallError::Contended { context: context.name.clone(), object: object.shown() })
}
