//! Faults of devices: see [`DeviceFaults`] and [`Control`].

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::super::Control;
use super::super::backend::BackendError;
use super::super::devices::DeviceFaults;
use super::body::{Given, refused};

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/disks/{name}/device", get(show).put(set).delete(clear))
        .route("/disks/{name}/device/{verb}", post(change))
}

fn outcome(result: Result<(), BackendError>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let body = json!({ "message": error.to_string() });
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
    }
}

async fn show(
    Shared(control): Shared<Arc<Control>>,
    Path(name): Path<String>,
) -> Json<DeviceFaults> {
    Json(control.device_faults(&name))
}

async fn set(
    Shared(control): Shared<Arc<Control>>,
    Path(name): Path<String>,
    Given(faults): Given<DeviceFaults>,
) -> Response {
    if let Err(reason) = faults.check() {
        return refused(&reason);
    }
    outcome(control.set_device_faults(&name, Some(faults)).await)
}

async fn clear(Shared(control): Shared<Arc<Control>>, Path(name): Path<String>) -> Response {
    outcome(control.set_device_faults(&name, None).await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct How {
    silent: bool,
    with: String,
}

async fn change(
    Shared(control): Shared<Arc<Control>>,
    Path((name, verb)): Path<(String, String)>,
    Given(how): Given<Option<How>>,
) -> Response {
    let how = how.unwrap_or_default();
    outcome(match verb.as_str() {
        "pull" => control.pull_device(&name, how.silent).await,
        "put" => control.put_device(&name, how.silent).await,
        "swap" => control.swap_devices(&name, &how.with, how.silent).await,
        "replace" => control.replace_device(&name, &how.with, how.silent).await,
        _ => return StatusCode::NOT_FOUND.into_response(),
    })
}
