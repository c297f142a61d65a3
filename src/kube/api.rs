//! The adapter: a few REST calls to the API server as the pod's service account.
//!
//! The token is read before every call, because the kubelet replaces it while the pod runs. The authority's file is read
//! once; it changes with the cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate, Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{Attachment, Cluster, ClusterNode, KubeError, PersistentVolume};
use crate::domain::DRIVER_NAME;

mod objects;

/// Where a pod finds its account (Kubernetes, "Accessing the Kubernetes API from a Pod").
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One call, from connecting to the last byte.
const CALL: Duration = Duration::from_secs(15);
/// Largest body: a page of 500 objects is far smaller.
const BODY_MAX: usize = 32 << 20;
/// Objects of a page.
const PAGE: &str = "500";
/// Words of the server that are repeated in an error.
const WORDS_MAX: usize = 300;

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Not a URL that a token may be sent to.
    #[error(
        "--kube-api is {value:?}: expected https://HOST[:PORT], or http://127.0.0.1:PORT (kubectl proxy)"
    )]
    Url {
        /// As it came.
        value: String,
    },
    /// The authority's certificate.
    #[error("cannot use the API server's certificate authority {path}: {reason}")]
    Authority {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The HTTP client.
    #[error("cannot make an HTTP client for the Kubernetes API: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
}

/// Where the API server is, and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    url: String,
    account: PathBuf,
}

impl Settings {
    /// The server named by `url`; else the pod's own, if this is a pod whose service account's token is mounted.
    #[must_use]
    pub fn find(
        url: Option<&str>,
        account: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let account = account.to_owned();
        if let Some(url) = url.filter(|url| !url.is_empty()) {
            let url = url.to_owned();
            return Some(Self { url, account });
        }
        let host = variable("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
        let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
        if !account.join("token").exists() {
            return None;
        }
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let url = format!("https://{host}:{port}");
        Some(Self { url, account })
    }
}

/// The API server.
pub struct Api {
    client: reqwest::Client,
    base: Url,
    token: PathBuf,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Api {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let wrong = || SettingsError::Url {
            value: settings.url.clone(),
        };
        let base = Url::parse(&settings.url).map_err(|_| wrong())?;
        let loopback = matches!(base.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        let authorities = match (base.scheme(), loopback) {
            ("http", true) => Vec::new(),
            ("https", _) => authorities(&settings.account.join("ca.crt"))?,
            _ => return Err(wrong()),
        };
        let client = reqwest::Client::builder()
            .user_agent(concat!(
                "nifcloud-additional-storage-csi/",
                env!("CARGO_PKG_VERSION")
            ))
            .timeout(CALL)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Asked seldom: nothing is gained by an open connection.
            .pool_max_idle_per_host(0)
            .tls_certs_only(authorities)
            .build()
            .map_err(|error| SettingsError::Client {
                reason: error.to_string(),
            })?;
        Ok(Self {
            client,
            base,
            token: settings.account.join("token"),
        })
    }

    /// Sends one request; the status and the body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        patch: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Vec<u8>), KubeError> {
        let request = format!("{method} {path}");
        let unreachable = |reason: String| KubeError::Unreachable {
            request: request.clone(),
            reason,
        };
        let url = self
            .base
            .join(path)
            .map_err(|e| unreachable(e.to_string()))?;
        let mut call = self
            .client
            .request(method, url)
            .header(ACCEPT, "application/json");
        // Through `kubectl proxy` there is no token.
        if let Ok(token) = tokio::fs::read_to_string(&self.token).await {
            call = call.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        if let Some(patch) = patch {
            call = call
                .header(CONTENT_TYPE, "application/json-patch+json")
                .body(patch);
        }
        let lost = |error: reqwest::Error| unreachable(chain(&error.without_url()));
        let mut answer = call.send().await.map_err(lost)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(unexpected(&request, "the answer is too large".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let words = || format!("{status}: {}", objects::words(&body, WORDS_MAX));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(KubeError::Forbidden {
                request: request.clone(),
                reason: words(),
            }),
            // A patch whose test does not hold is 422 to the API server.
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Err(KubeError::Conflict {
                request: request.clone(),
                reason: words(),
            }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(unreachable(words()))
            }
            _ if status.is_server_error() => Err(unreachable(words())),
            _ if status.is_success() || status == StatusCode::NOT_FOUND => Ok((status, body)),
            _ => Err(unexpected(&request, words())),
        }
    }

    /// An object; `None` when there is none.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, KubeError> {
        let (status, body) = self.send(Method::GET, path, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let read = serde_json::from_slice(&body);
        read.map(Some)
            .map_err(|error| unexpected(&format!("GET {path}"), error.to_string()))
    }

    /// All objects of a collection, page by page.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, KubeError> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit={PAGE}{next}");
            let list: objects::List<T> = self
                .get(&page)
                .await?
                .ok_or_else(|| unexpected(&format!("GET {page}"), "404 Not Found".to_owned()))?;
            items.extend(list.items);
            match list.metadata.next.filter(|token| !token.is_empty()) {
                None => return Ok(items),
                Some(token) => next = format!("&continue={}", escape(&token)),
            }
        }
    }
}

#[async_trait]
impl Cluster for Api {
    async fn node(&self, name: &str) -> Result<Option<ClusterNode>, KubeError> {
        let path = format!("/api/v1/nodes/{}", escape(name));
        Ok(self.get::<objects::Node>(&path).await?.map(Into::into))
    }

    async fn shows_driver(&self, node: &str) -> Result<bool, KubeError> {
        let path = format!("/apis/storage.k8s.io/v1/csinodes/{}", escape(node));
        let found: Option<objects::CsiNode> = self.get(&path).await?;
        Ok(found.is_some_and(|node| node.has(DRIVER_NAME)))
    }

    async fn remove_taint(&self, node: &ClusterNode, key: &str) -> Result<(), KubeError> {
        // From the end, so that a removal does not move the next one. Each index is tested: an edit that moved or
        // removed a taint since the Node was read makes the whole patch fail, and nobody's taint is lost.
        let places = node.taints.iter().enumerate().rev();
        let patch: Vec<_> = places
            .filter(|(_, taint)| *taint == key)
            .flat_map(|(at, _)| {
                [
                    serde_json::json!({"op": "test", "path": format!("/spec/taints/{at}/key"), "value": key}),
                    serde_json::json!({"op": "remove", "path": format!("/spec/taints/{at}")}),
                ]
            })
            .collect();
        if patch.is_empty() {
            return Ok(());
        }
        let path = format!("/api/v1/nodes/{}", escape(&node.name));
        let body = serde_json::Value::Array(patch).to_string().into_bytes();
        let (status, _) = self.send(Method::PATCH, &path, Some(body)).await?;
        match status {
            StatusCode::NOT_FOUND => Err(unexpected(&format!("PATCH {path}"), status.to_string())),
            _ => Ok(()),
        }
    }

    async fn attachments(&self) -> Result<Vec<Attachment>, KubeError> {
        let all =
            self.list::<objects::VolumeAttachment>("/apis/storage.k8s.io/v1/volumeattachments");
        let own = all
            .await?
            .into_iter()
            .filter(|one| one.spec.attacher == DRIVER_NAME);
        Ok(own.map(Into::into).collect())
    }

    async fn volumes(&self) -> Result<Vec<PersistentVolume>, KubeError> {
        let all = self
            .list::<objects::Volume>("/api/v1/persistentvolumes")
            .await?;
        Ok(all
            .into_iter()
            .filter_map(|one| one.of(DRIVER_NAME))
            .collect())
    }
}

fn unexpected(request: &str, reason: String) -> KubeError {
    KubeError::Unexpected {
        request: request.to_owned(),
        reason,
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let wrong = |reason: String| SettingsError::Authority {
        path: path.display().to_string(),
        reason,
    };
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let found = Certificate::from_pem_bundle(&text).map_err(|e| wrong(chain(&e)))?;
    if found.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
