//! The admin endpoint: state, latency, rate limit, faults, VMs, devices, as JSON.

mod body;
mod devices;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use serde::Deserialize;
use serde_json::json;

use body::{Given, refused};

use super::Control;
use super::config::{Latency, RateLimit, Switches, is_vm_name};
use super::faults::Rule;
use super::state::{DiskRecord, Refusal};

/// The routes.
pub(super) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/", get(help))
        .route(
            "/state",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.state())),
        )
        .route(
            "/history",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.history())).delete(clear_history),
        )
        .route(
            "/calls",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.calls())),
        )
        .route(
            "/latency",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.latency())).put(set_latency),
        )
        .route(
            "/rate-limit",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.rate_limit())).put(set_rate_limit),
        )
        .route(
            "/switches",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.switches())).put(set_switches),
        )
        .route(
            "/faults",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.faults()))
                .post(add_fault)
                .delete(clear_faults),
        )
        .route("/faults/seed", put(seed_faults))
        .route("/faults/{id}", delete(remove_fault))
        .route(
            "/held",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.held())),
        )
        .route("/held/{id}/{decision}", post(decide))
        .route("/vms/{name}/{verb}", post(change_vm))
        .route("/disks", post(put_disk))
        .merge(devices::routes())
        .with_state(control)
}

async fn help() -> &'static str {
    "GET    /state /history /calls /held /faults /latency /rate-limit /switches\n\
     PUT    /latency      \"fast\", \"realistic\" or {create,attach,detach,extend,delete,modify,describe,reply: ms}\n\
     PUT    /rate-limit   {per_second,burst} or null\n\
     PUT    /switches     {error_status,auth_status,clock_skew_seconds,clock_ahead_seconds,timestamp_required,\n\
     \x20                    processing_while_busy,agreement_required,unknown_fails_batch,own_code_attached_elsewhere,\n\
     \x20                    short_sizes,disks_die_with_vm,throttle: error|too_many_requests|gateway}; left out = default\n\
     POST   /faults       {action?,mutating?,disk?,vm?,skip?,count?,probability?,effect}\n\
     \x20                    effect: throttle, refuse {code}, status {status,code?}, internal_error_before|after,\n\
     \x20                    gateway_before|after {status}, drop_before|after, delay {ms}, hold_before|after, stuck {ms}\n\
     DELETE /faults, /faults/ID\n\
     PUT    /faults/seed  a number: the same draws again\n\
     POST   /held/ID/release, /held/ID/drop\n\
     POST   /vms/NAME/start, stop, delete, rename {to}, add {zone}, replug (backend qmp: after it was powered on anew)\n\
     POST   /disks        a disk as /state shows it; {name,zone} or {name,attachment:{vm}} is enough\n\
     DELETE /history      and the counts of /calls\n\
     \n\
     Devices of disks (backend qmp; the API's answers stay as if all were well; NAME may be * for every other disk):\n\
     GET    /disks/NAME/device\n\
     PUT    /disks/NAME/device  {absent?,late_ms?,silent?,read_only?,no_identity?,io_errors?} from its next plugging on,\n\
     \x20                    io_errors also at once: any of \"all\", \"first\", \"middle\", \"last\" (64 KiB each),\n\
     \x20                    {first,count} (sectors)\n\
     DELETE /disks/NAME/device\n\
     POST   /disks/NAME/device/pull     {silent?}       out of the VM, while the API says attached\n\
     POST   /disks/NAME/device/put      {silent?}       back into its place\n\
     POST   /disks/NAME/device/swap     {with,silent?}  each into the other's place\n\
     POST   /disks/NAME/device/replace  {with,silent?}  that one's device into this one's place\n\
     \x20                    silent: the guest gets no message, and shows what it knew before\n"
}

fn outcome(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => {
            let body = json!({ "code": refusal.code, "message": refusal.message });
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
    }
}

fn found(found: bool) -> StatusCode {
    if found {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

async fn set_latency(
    Shared(control): Shared<Arc<Control>>,
    Given(latency): Given<Latency>,
) -> StatusCode {
    control.set_latency(latency);
    StatusCode::NO_CONTENT
}

async fn set_rate_limit(
    Shared(control): Shared<Arc<Control>>,
    Given(limit): Given<Option<RateLimit>>,
) -> Response {
    if let Some(Err(error)) = limit.map(|limit| limit.check()) {
        return refused(&error);
    }
    control.set_rate_limit(limit);
    StatusCode::NO_CONTENT.into_response()
}

async fn set_switches(
    Shared(control): Shared<Arc<Control>>,
    Given(switches): Given<Switches>,
) -> Response {
    if let Err(error) = switches.check() {
        return refused(&error);
    }
    control.set_switches(switches);
    StatusCode::NO_CONTENT.into_response()
}

async fn add_fault(Shared(control): Shared<Arc<Control>>, Given(rule): Given<Rule>) -> Response {
    if let Err(error) = rule.check() {
        return refused(&error);
    }
    Json(json!({ "id": control.add_fault(rule) })).into_response()
}

async fn seed_faults(Shared(control): Shared<Arc<Control>>, Given(seed): Given<u64>) -> StatusCode {
    control.seed_faults(seed);
    StatusCode::NO_CONTENT
}

async fn clear_history(Shared(control): Shared<Arc<Control>>) -> StatusCode {
    control.clear_history();
    StatusCode::NO_CONTENT
}

async fn clear_faults(Shared(control): Shared<Arc<Control>>) -> StatusCode {
    control.clear_faults();
    StatusCode::NO_CONTENT
}

async fn remove_fault(Shared(control): Shared<Arc<Control>>, Path(id): Path<u64>) -> StatusCode {
    found(control.remove_fault(id))
}

async fn decide(
    Shared(control): Shared<Arc<Control>>,
    Path((id, decision)): Path<(u64, String)>,
) -> StatusCode {
    match decision.as_str() {
        "release" => found(control.release(id)),
        "drop" => found(control.drop_held(id)),
        _ => StatusCode::BAD_REQUEST,
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VmBody {
    #[serde(default)]
    to: String,
    #[serde(default)]
    zone: String,
}

async fn change_vm(
    Shared(control): Shared<Arc<Control>>,
    Path((name, verb)): Path<(String, String)>,
    Given(body): Given<Option<VmBody>>,
) -> Response {
    if verb == "replug" {
        return match control.replug(&name).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        };
    }
    outcome(match (verb.as_str(), body) {
        ("start", _) => control.set_vm_state(&name, "running"),
        ("stop", _) => control.set_vm_state(&name, "stopped"),
        ("delete", _) => control.delete_vm(&name),
        ("rename", Some(body)) if is_vm_name(&body.to) => control.rename_vm(&name, &body.to),
        ("add", Some(body)) if !body.zone.is_empty() => control.try_add_vm(&name, &body.zone),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    })
}

async fn put_disk(
    Shared(control): Shared<Arc<Control>>,
    Given(disk): Given<DiskRecord>,
) -> Response {
    outcome(control.put_disk(disk))
}
