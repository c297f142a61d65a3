//! What every RPC gets: a span with a request id, its latency and code, and a wall against panics.
//!
//! A panic in a handler would reach the client as `Cancelled`, which Kubernetes' sidecars retry without end; here it
//! becomes `INTERNAL`. A call that its client gave up is reported as `CANCELLED`; its work, if it had begun,
//! goes on in its job.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

/// Told of every RPC; implemented by the telemetry.
pub trait RpcObserver: Send + Sync + fmt::Debug {
    /// A call has begun. `method` is `package.Service/Method`, or `unknown` for a path that is none of CSI's.
    fn started(&self, method: &str);
    /// It has ended.
    fn finished(&self, method: &str, code: Code, elapsed: Duration);
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl RpcObserver for Unobserved {
    fn started(&self, _method: &str) {}
    fn finished(&self, _method: &str, _code: Code, _elapsed: Duration) {}
}

/// Writes the volume into the span of the running RPC.
pub(crate) fn note_volume(id: &str) {
    let short: String = id.chars().take(64).collect();
    Span::current().record("volume_id", short);
}

/// The middleware.
#[derive(Debug, Clone)]
pub struct RpcLayer {
    observer: Arc<dyn RpcObserver>,
    next_id: Arc<AtomicU64>,
}

impl RpcLayer {
    /// Reports to `observer`.
    #[must_use]
    pub fn new(observer: Arc<dyn RpcObserver>) -> Self {
        Self {
            observer,
            next_id: Arc::new(AtomicU64::new(1)),
        }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RpcService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service under [`RpcLayer`].
#[derive(Debug, Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

type Answer = http::Response<Body>;

impl<S> Service<http::Request<Body>> for RpcService<S>
where
    S: Service<http::Request<Body>, Response = Answer, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = method_of(request.uri().path());
        let id = self.layer.next_id.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("rpc", id, method, volume_id = tracing::field::Empty,);
        let report = Report::start(Arc::clone(&self.layer.observer), method);
        let inner = {
            let _entered = span.enter();
            std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)))
        };
        let work = async move {
            let caught = match inner {
                Ok(future) => CatchUnwind(Box::pin(future)).await,
                Err(panic) => Err(panic),
            };
            let answer = match caught {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(panic) => {
                    tracing::error!(
                        panic = text_of(panic.as_ref()),
                        "an RPC handler panicked; this is a defect of the driver"
                    );
                    Status::internal("internal error; see the driver's log").into_http()
                }
            };
            report.end(code_of(&answer));
            Ok(answer)
        };
        Box::pin(work.instrument(span))
    }
}

/// `/csi.v1.Node/NodeStageVolume` -> `csi.v1.Node/NodeStageVolume`; bounded, because it becomes a metric's label.
fn method_of(path: &str) -> String {
    const SERVICES: [&str; 4] = [
        "csi.v1.Identity",
        "csi.v1.Controller",
        "csi.v1.Node",
        "pluginregistration.Registration",
    ];
    let known = path.strip_prefix('/').filter(|full| {
        full.split_once('/').is_some_and(|(service, method)| {
            SERVICES.contains(&service)
                && method.len() <= 64
                && method.bytes().all(|b| b.is_ascii_alphanumeric())
        })
    });
    known.unwrap_or("unknown").to_owned()
}

/// A failed unary call has its code in the headers; a good one has it in the trailers.
fn code_of(answer: &Answer) -> Code {
    answer
        .headers()
        .get("grpc-status")
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Tells the observer exactly once, also when the call is dropped.
struct Report {
    observer: Arc<dyn RpcObserver>,
    method: String,
    start: Instant,
    code: Code,
}

impl Report {
    fn start(observer: Arc<dyn RpcObserver>, method: String) -> Self {
        observer.started(&method);
        Self {
            observer,
            method,
            start: Instant::now(),
            code: Code::Cancelled,
        }
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let elapsed = self.start.elapsed();
        self.observer.finished(&self.method, self.code, elapsed);
        tracing::debug!(code = ?self.code, elapsed_us = elapsed.as_micros(), "rpc ended");
    }
}

struct CatchUnwind<F>(Pin<Box<F>>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.0.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tower::ServiceExt;

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<(String, Code)>>);

    impl RpcObserver for Seen {
        fn started(&self, _method: &str) {}
        fn finished(&self, method: &str, code: Code, _elapsed: Duration) {
            self.0.lock().unwrap().push((method.to_owned(), code));
        }
    }

    async fn call<F>(handler: fn() -> F, path: &str) -> (Answer, Vec<(String, Code)>)
    where
        F: Future<Output = Result<Answer, Infallible>> + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let observer: Arc<dyn RpcObserver> = Arc::<Seen>::clone(&seen);
        let service = RpcLayer::new(observer)
            .layer(tower::service_fn(move |_: http::Request<Body>| handler()));
        let request = http::Request::builder().uri(path).body(Body::empty());
        let answer = service.oneshot(request.unwrap()).await.unwrap();
        let seen = seen.0.lock().unwrap().clone();
        (answer, seen)
    }

    #[tokio::test]
    async fn a_panic_is_internal_for_the_client_and_for_the_observer() {
        async fn boom() -> Result<Answer, Infallible> {
            panic!("boom")
        }
        let (answer, seen) = call(boom, "/csi.v1.Node/NodeStageVolume").await;
        assert_eq!(code_of(&answer), Code::Internal);
        assert_eq!(
            seen,
            [("csi.v1.Node/NodeStageVolume".to_owned(), Code::Internal)]
        );
    }

    #[tokio::test]
    async fn a_path_that_is_not_of_csi_does_not_become_a_label() {
        async fn unimplemented() -> Result<Answer, Infallible> {
            Ok(Status::unimplemented("").into_http())
        }
        for path in ["/x.Y/Z", "/csi.v1.Node/a/b", "/"] {
            let (_, seen) = call(unimplemented, path).await;
            assert_eq!(
                seen,
                [("unknown".to_owned(), Code::Unimplemented)],
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn a_call_that_its_client_gave_up_is_reported_as_cancelled() {
        let seen = Arc::new(Seen::default());
        let observer: Arc<dyn RpcObserver> = Arc::<Seen>::clone(&seen);
        let service = RpcLayer::new(observer).layer(tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<Answer, Infallible>>()
        }));
        let request = http::Request::builder().uri("/csi.v1.Identity/Probe");
        let call = service.oneshot(request.body(Body::empty()).unwrap());
        assert!(
            tokio::time::timeout(Duration::from_millis(1), call)
                .await
                .is_err()
        );
        assert_eq!(seen.0.lock().unwrap()[0].1, Code::Cancelled);
    }
}
