//! Bodies of requests to the admin endpoint: JSON whatever the header calls it (`curl -d` calls it a form).

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

/// A value read from a request's body; an empty one is `null`.
#[derive(Debug)]
pub(super) struct Given<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(IntoResponse::into_response)?;
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| refused(&error))
    }
}

/// The answer to a body that cannot be used.
pub(super) fn refused(reason: &dyn std::fmt::Display) -> Response {
    let body = json!({ "message": reason.to_string() });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}
