//! The API's HTTP side. Connections are served by hyper itself, because a fault must be able to close one without an
//! answer.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::core::{Core, Request};
use super::sign::{Params, decode_form};

/// Largest request; a description of thousands of names fits.
const MAX_BODY: usize = 4 << 20;

/// The call is answered by closing its connection.
#[derive(Debug, thiserror::Error)]
#[error("dropped on purpose")]
struct Dropped;

/// Serves until `stop`.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let (core, stop) = (Arc::clone(&core), stop.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(Arc::clone(&core), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // An error here is a fault's dropped answer or a client that went away.
                _ = connection => {}
            }
        });
    }
}

async fn answer(
    core: Arc<Core>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Dropped> {
    let (parts, body) = request.into_parts();
    let host = parts
        .headers
        .get(http::header::HOST)
        .and_then(|value| value.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let path = parts.uri.path().to_owned();
    let mut params: Params = decode_form(parts.uri.query().unwrap_or_default());
    if parts.method == http::Method::POST {
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|_| Dropped)?
            .to_bytes();
        params = decode_form(&String::from_utf8_lossy(&body));
    }
    let clock = Arc::clone(&core);
    let respond = |status: u16, text: String| {
        let now = clock.live().switches.clock();
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        http::Response::builder()
            .status(status)
            .header(http::header::DATE, date)
            .header(http::header::CONTENT_TYPE, "text/xml;charset=UTF-8")
            .body(Full::new(Bytes::from(text)))
            .map_err(|_| Dropped)
    };
    if path != "/api/" {
        return respond(404, "<html><body>Not Found</body></html>".to_owned());
    }
    let request = Request {
        method: parts.method.to_string(),
        host,
        path,
        params,
    };
    // A task of its own: what was begun is finished even if the client goes away.
    let handled = tokio::spawn(async move { core.handle(request).await }).await;
    match handled {
        Ok(Some((status, text))) => respond(status, text),
        Ok(None) | Err(_) => Err(Dropped),
    }
}
