//! A small API server: objects by path, lists in pages of three, JSON patches with their tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

pub(crate) const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
pub(crate) const VOLUMES: &str = "/api/v1/persistentvolumes";
const DRIVER: &str = "additional-storage.csi.nifcloud.com";
const PAGE: usize = 3;

#[derive(Default)]
struct World {
    objects: HashMap<String, Value>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<World>>;

/// The server; it ends with its runtime.
pub(crate) struct Server {
    pub url: String,
    world: Shared,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let world = Shared::default();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, world }
    }

    /// An object; one with a `code` is answered as an error.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.world
            .lock()
            .unwrap()
            .objects
            .insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.world.lock().unwrap().objects[path].clone()
    }

    /// What was asked: method, path, authorization.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.world.lock().unwrap().asked.clone()
    }
}

async fn answer(
    State(world): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let mut world = world.lock().unwrap();
    let token = headers
        .get("authorization")
        .map_or("-", |token| token.to_str().unwrap());
    world.asked.push(format!("{method} {} {token}", uri.path()));
    let status = |code: u16, message: &str| {
        let body = json!({"kind": "Status", "code": code, "message": message});
        (StatusCode::from_u16(code).unwrap(), body.to_string())
    };
    let Some(object) = world.objects.get_mut(uri.path()) else {
        return status(404, "not found");
    };
    if let Some(code) = object["code"].as_u64() {
        return status(
            u16::try_from(code).unwrap(),
            object["message"].as_str().unwrap(),
        );
    }
    if method == Method::PATCH {
        assert_eq!(headers["content-type"], "application/json-patch+json");
        match patched(object.clone(), &serde_json::from_slice(&body).unwrap()) {
            Some(changed) => *object = changed,
            None => {
                return status(
                    422,
                    "the server rejected our request due to an error in our request",
                );
            }
        }
    }
    match object["items"].as_array() {
        Some(items) => (StatusCode::OK, page(items, uri.query().unwrap_or_default())),
        None => (StatusCode::OK, object.to_string()),
    }
}

fn page(items: &[Value], query: &str) -> String {
    let from = query
        .split("continue=")
        .nth(1)
        .map_or(0, |token| token.parse().unwrap());
    let end = items.len().min(from + PAGE);
    let next = if end < items.len() {
        end.to_string()
    } else {
        String::new()
    };
    json!({"metadata": {"continue": next}, "items": items[from..end]}).to_string()
}

/// RFC 6902, `test` and `remove`: all or nothing.
fn patched(mut object: Value, patch: &Value) -> Option<Value> {
    for step in patch.as_array().unwrap() {
        let path = step["path"].as_str().unwrap();
        match step["op"].as_str().unwrap() {
            "test" if object.pointer(path) == Some(&step["value"]) => {}
            "remove" => {
                let (parent, index) = path.rsplit_once('/').unwrap();
                let list = object.pointer_mut(parent)?.as_array_mut()?;
                let index: usize = index.parse().unwrap();
                if index >= list.len() {
                    return None;
                }
                list.remove(index);
            }
            _ => return None,
        }
    }
    Some(object)
}

pub(crate) fn csi_node() -> Value {
    json!({"spec": {"drivers": [{"name": "other.example"}, {"name": DRIVER, "nodeID": "web01"}]}})
}

pub(crate) fn attachment(node: &str, volume: &str) -> Value {
    json!({"spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}},
           "status": {"attached": true}})
}

pub(crate) fn volume(name: &str, handle: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"csi": {"driver": DRIVER, "volumeHandle": handle}},
           "status": {"phase": "Bound"}})
}
