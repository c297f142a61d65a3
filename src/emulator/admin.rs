//! The admin endpoint: state, latency, rate limit, faults, VMs, as JSON.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use serde::Deserialize;
use serde_json::json;

use super::Control;
use super::config::{Latency, RateLimit, Switches};
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
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.history())),
        )
        .route(
            "/calls",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.calls())),
        )
        .route("/latency", put(set_latency))
        .route("/rate-limit", put(set_rate_limit))
        .route("/switches", put(set_switches))
        .route("/faults", post(add_fault).delete(clear_faults))
        .route("/faults/{id}", delete(remove_fault))
        .route(
            "/held",
            get(async |Shared(c): Shared<Arc<Control>>| Json(c.held())),
        )
        .route("/held/{id}/{decision}", post(decide))
        .route("/vms/{name}/{verb}", post(change_vm))
        .route("/disks", post(put_disk))
        .with_state(control)
}

async fn help() -> &'static str {
    "GET /state /history /calls /held\n\
     PUT /latency {create,attach,detach,extend,delete,reply: ms}\n\
     PUT /rate-limit {per_second,burst} or null\n\
     PUT /switches {error_status,clock_skew_seconds,timestamp_required,processing_while_busy}\n\
     POST /faults {action?,mutating?,disk?,vm?,skip?,count?,probability?,effect}; DELETE /faults[/ID]\n\
     POST /held/ID/release|drop\n\
     POST /vms/NAME/start|stop|delete, /vms/NAME/rename {to}\n\
     POST /disks {a disk as /state shows it}\n"
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
    Json(latency): Json<Latency>,
) -> StatusCode {
    control.set_latency(latency);
    StatusCode::NO_CONTENT
}

async fn set_rate_limit(
    Shared(control): Shared<Arc<Control>>,
    Json(limit): Json<Option<RateLimit>>,
) -> StatusCode {
    control.set_rate_limit(limit);
    StatusCode::NO_CONTENT
}

async fn set_switches(
    Shared(control): Shared<Arc<Control>>,
    Json(switches): Json<Switches>,
) -> StatusCode {
    control.set_switches(switches);
    StatusCode::NO_CONTENT
}

async fn add_fault(
    Shared(control): Shared<Arc<Control>>,
    Json(rule): Json<Rule>,
) -> impl IntoResponse {
    Json(json!({ "id": control.add_fault(rule) }))
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
struct Rename {
    to: String,
}

async fn change_vm(
    Shared(control): Shared<Arc<Control>>,
    Path((name, verb)): Path<(String, String)>,
    body: Option<Json<Rename>>,
) -> Response {
    outcome(match (verb.as_str(), body) {
        ("start", _) => control.set_vm_state(&name, "running"),
        ("stop", _) => control.set_vm_state(&name, "stopped"),
        ("delete", _) => control.delete_vm(&name),
        ("rename", Some(Json(rename))) => control.rename_vm(&name, &rename.to),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    })
}

async fn put_disk(Shared(control): Shared<Arc<Control>>, Json(disk): Json<DiskRecord>) -> Response {
    outcome(control.put_disk(disk))
}
