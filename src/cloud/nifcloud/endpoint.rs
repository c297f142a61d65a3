//! Where the API is: a region's own host, or an override.

use reqwest::Url;
use thiserror::Error;

/// A checked endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where requests go: `{scheme}://{host}/api/`.
    pub(crate) url: Url,
    /// The host as it is signed: with the port where it is not the scheme's own.
    pub(crate) host: String,
    /// Whether the host is this machine.
    pub(crate) loopback: bool,
}

/// An endpoint that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Neither a region nor an endpoint.
    #[error("no region: set NIFCLOUD_REGION, for example jp-east-1")]
    NoRegion,
    /// Not the id of a region.
    #[error(
        "region {region:?} is not the id of a region: expected one such as jp-east-1 or us-east-1 \
         (the API's own names such as east-1 are not ids)"
    )]
    Region {
        /// The region as it came.
        region: String,
    },
    /// Not a URL that can be called.
    #[error("endpoint {endpoint:?} is not usable: {why}; expected https://HOST[:PORT]")]
    Url {
        /// The endpoint as it came, without what may be a password.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// Requests would cross a network unencrypted.
    #[error(
        "endpoint {endpoint} is http and not on this machine: use https, or allow an insecure endpoint \
         explicitly (for an emulator in a cluster)"
    )]
    Insecure {
        /// The endpoint.
        endpoint: String,
    },
}

impl Endpoint {
    /// The endpoint of a region, or the override where there is one.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub(crate) fn resolve(
        region: &str,
        endpoint: Option<&str>,
        allow_insecure: bool,
    ) -> Result<Self, EndpointError> {
        match endpoint {
            Some(endpoint) => Self::parse(endpoint, allow_insecure),
            None if region.is_empty() => Err(EndpointError::NoRegion),
            None if !is_region_id(region) => Err(EndpointError::Region {
                region: region.chars().take(64).collect(),
            }),
            None => Self::parse(
                &format!("https://{region}.computing.api.nifcloud.com"),
                false,
            ),
        }
    }

    fn parse(text: &str, allow_insecure: bool) -> Result<Self, EndpointError> {
        let bad = |shown: &str, why: &str| EndpointError::Url {
            endpoint: shown.chars().take(128).collect(),
            why: why.to_owned(),
        };
        // What cannot be parsed is not echoed: it may hold a password.
        let mut url =
            Url::parse(text.trim()).map_err(|error| bad("(not shown)", &error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("(not shown)", "it carries a user or a password"));
        }
        let Some(bare) = url.host_str().map(str::to_owned) else {
            return Err(bad(text, "it has no host"));
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(text, "the scheme is neither https nor http"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad(text, "it has a query or a fragment"));
        }
        let loopback = is_loopback(&bare);
        if url.scheme() == "http" && !loopback && !allow_insecure {
            return Err(EndpointError::Insecure {
                endpoint: text.chars().take(128).collect(),
            });
        }
        // Some write the endpoint with the API's path, some without.
        let base = url.path().trim_end_matches('/');
        let base = base.strip_suffix("/api").unwrap_or(base);
        let path = format!("{base}/api/");
        url.set_path(&path);
        let host = match url.port() {
            Some(port) => format!("{bare}:{port}"),
            None => bare,
        };
        Ok(Self {
            url,
            host,
            loopback,
        })
    }
}

/// `^(us|jp)-\w+-\d+$`, the pattern of the official clients.
fn is_region_id(region: &str) -> bool {
    let mut parts = region.split('-');
    let (country, place, number) = (parts.next(), parts.next(), parts.next());
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    matches!(country, Some("us" | "jp"))
        && place.is_some_and(word)
        && number.is_some_and(digits)
        && parts.next().is_none()
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || ip
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_id_gives_the_regions_host() {
        for region in ["jp-east-1", "jp-west-2", "us-east-1"] {
            let endpoint = Endpoint::resolve(region, None, false).unwrap();
            assert_eq!(
                endpoint.url.as_str(),
                format!("https://{region}.computing.api.nifcloud.com/api/")
            );
            assert_eq!(
                endpoint.host,
                format!("{region}.computing.api.nifcloud.com")
            );
        }
    }

    #[test]
    fn what_is_not_a_region_id_is_refused_before_any_call() {
        for region in [
            "east-1",
            "jp-east",
            "jp-east-1-2",
            "jp--1",
            "de-east-1",
            "jp-east-x",
            "jp-east-1.evil.example/",
            "JP-EAST-1",
        ] {
            assert!(
                matches!(
                    Endpoint::resolve(region, None, true),
                    Err(EndpointError::Region { .. })
                ),
                "{region}"
            );
        }
        assert_eq!(
            Endpoint::resolve("", None, false),
            Err(EndpointError::NoRegion)
        );
    }

    #[test]
    fn an_override_is_signed_with_its_port_and_gets_the_path_of_the_api() {
        for (text, url, host) in [
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/api/",
                "127.0.0.1:8080",
            ),
            (
                "http://localhost:8080/api/",
                "http://localhost:8080/api/",
                "localhost:8080",
            ),
            (
                "https://Cloud.Example:443/api",
                "https://cloud.example/api/",
                "cloud.example",
            ),
            ("http://[::1]:9/", "http://[::1]:9/api/", "[::1]:9"),
            (
                "https://gate.example/nifcloud/",
                "https://gate.example/nifcloud/api/",
                "gate.example",
            ),
        ] {
            let endpoint = Endpoint::resolve("", Some(text), false).unwrap();
            assert_eq!(endpoint.url.as_str(), url);
            assert_eq!(endpoint.host, host);
        }
    }

    #[test]
    fn keys_never_cross_a_network_unencrypted_unless_allowed() {
        let far = "http://emulator.kube-system:8080";
        assert!(matches!(
            Endpoint::resolve("", Some(far), false),
            Err(EndpointError::Insecure { .. })
        ));
        assert!(Endpoint::resolve("", Some(far), true).is_ok());
    }

    #[test]
    fn a_bad_override_is_refused_and_a_password_in_it_is_not_shown() {
        for text in [
            "",
            "127.0.0.1:8080",
            "unix:///run/api.sock",
            "ftp://host/",
            "https://host/?x=1",
            "https://host/#x",
            "https://user:hunter2@host/",
            "https://user:hunter2@:99999/",
        ] {
            let error = Endpoint::resolve("jp-east-1", Some(text), true).unwrap_err();
            assert!(matches!(error, EndpointError::Url { .. }), "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
