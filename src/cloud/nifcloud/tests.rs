//! The client against a small HTTP server that answers as a test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::cloud::Rejection;

const ZONES: &str = "<DescribeAvailabilityZonesResponse><availabilityZoneInfo><item>\
    <zoneName>east-11</zoneName></item></availabilityZoneInfo></DescribeAvailabilityZonesResponse>";
const EXTENDED: &str = "<ExtendVolumeSizeResponse><return>true</return></ExtendVolumeSizeResponse>";
const BUSY: &str = "<Response><Errors><Error><Code>Server.ResourceIncorrectState.Instance.Processing</Code>\
    <Message>busy</Message></Error></Errors></Response>";

/// What the server does with a request after it has read all of it.
#[derive(Clone)]
enum Act {
    Answer(String),
    /// Resets or closes the connection.
    Drop,
    /// Never answers.
    Hang,
    /// Answers, then closes the connection without saying so.
    AnswerAndClose(String),
}

/// Speaks just enough HTTP/1.1; remembers the requests it read. Ends with the test.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn http(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Text\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

impl Server {
    async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, act.clone(), Arc::clone(&seen)));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    async fn answering(status: u16, headers: &str, body: &str) -> Self {
        Self::start(Act::Answer(http(status, headers, body))).await
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn client(&self) -> Client {
        client_of(self.address, Credentials::from_values("AKFAKE", "secret"))
    }
}

/// Reads requests and does with each as told.
async fn serve(mut stream: TcpStream, act: Act, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        match &act {
            Act::Answer(answer) => {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Act::AnswerAndClose(answer) => {
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            Act::Drop => return,
            Act::Hang => std::future::pending().await,
        }
    }
}

/// Head and body of one request; `None` when the connection ended first.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

fn config_of(address: SocketAddr, credentials: Credentials) -> ClientConfig {
    ClientConfig {
        endpoint: Some(format!("http://{address}")),
        ..ClientConfig::new("", credentials)
    }
}

fn client_of(address: SocketAddr, credentials: Credentials) -> Client {
    install_crypto_provider();
    Client::new(config_of(address, credentials)).unwrap()
}

fn disk() -> DiskName {
    DiskName::parse("pvc0001").unwrap()
}

#[tokio::test]
async fn a_call_is_one_signed_form_post() {
    let server = Server::answering(200, "", ZONES).await;
    assert_eq!(server.client().describe_zones().await.unwrap(), ["east-11"]);
    let requests = server.requests.lock().unwrap().clone();
    let [request] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /api/ http/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {}", server.address)),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/x-www-form-urlencoded"),
        "{head}"
    );
    assert!(
        head.contains("user-agent: nifcloud-additional-storage-csi/"),
        "{head}"
    );
    assert!(!request.contains("secret"), "the secret left the machine");
    let names: Vec<&str> = body
        .split('&')
        .map(|pair| pair.split_once('=').unwrap().0)
        .collect();
    assert_eq!(
        names,
        [
            "AccessKeyId",
            "Action",
            "SignatureMethod",
            "SignatureVersion",
            "Timestamp",
            "Version",
            "Signature"
        ]
    );
    assert_eq!(
        signature_of(body, &server.address.to_string(), "secret"),
        value_of(body, "Signature")
    );
    let timestamp = value_of(body, "Timestamp");
    let form: String = timestamp
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(form, "0000-00-00T00:00:00Z", "{timestamp}");
}

fn decoded(body: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    body.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn value_of(body: &str, name: &str) -> String {
    decoded(body)[name].clone()
}

/// The signature as a server computes it: from what arrived, by other code than the client's.
fn signature_of(body: &str, host: &str, secret: &str) -> String {
    use base64::Engine as _;
    use hmac::{KeyInit as _, Mac as _};
    let query = fuzzing::naive_query(&decoded(body));
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("POST\n{host}\n/api/\n{query}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

#[tokio::test]
async fn an_error_with_status_500_is_a_refusal_and_a_gateways_page_is_not() {
    let busy = Server::answering(500, "retry-after: 3\r\n", BUSY).await;
    match busy.client().extend_disk(&disk()).await {
        Err(CallError::Rejected {
            kind, retry_after, ..
        }) => {
            assert_eq!(kind, Rejection::Processing);
            assert_eq!(retry_after, Some(Duration::from_secs(3)));
        }
        other => panic!("{other:?}"),
    }
    let also_200 = Server::answering(200, "", BUSY).await;
    let error = also_200.client().extend_disk(&disk()).await.unwrap_err();
    assert_eq!(error.rejection(), Some(Rejection::Processing));
    for (status, slow_down) in [(502, false), (503, true), (429, true)] {
        let gateway = Server::answering(status, "", "<html>Bad Gateway</html>").await;
        match gateway.client().extend_disk(&disk()).await {
            Err(CallError::Unknown { throttled, .. }) => assert_eq!(throttled, slow_down),
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    // Bound but not listening: refused, and nobody else can get the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    let client = client_of(address, Credentials::from_values("a", "b"));
    let error = client.extend_disk(&disk()).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_connection_lost_after_the_request_is_unknown_and_not_repeated() {
    let server = Server::start(Act::Drop).await;
    let error = server.client().extend_disk(&disk()).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error:?}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_change_is_never_sent_twice_on_a_reused_connection() {
    // The first answer leaves a pooled connection; the server closes it at once or with the next request.
    let server = Server::start(Act::AnswerAndClose(http(200, "", EXTENDED))).await;
    let client = server.client();
    let mut sent = 0;
    for _ in 0..50 {
        sent += 1;
        match client.extend_disk(&disk()).await {
            Ok(()) | Err(CallError::Unknown { .. }) => {}
            Err(CallError::NotSent { .. }) => sent -= 1,
            Err(other) => panic!("{other:?}"),
        }
        assert!(server.count() <= sent, "{} of {sent}", server.count());
    }
}

#[tokio::test]
async fn no_answer_in_time_is_unknown() {
    let server = Server::start(Act::Hang).await;
    let client = server.client();
    let call = tokio::spawn(async move { client.extend_disk(&disk()).await });
    while server.count() == 0 {
        tokio::task::yield_now().await;
    }
    // The request has arrived; from here on time passes by itself.
    tokio::time::pause();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error:?}");
    assert!(error.to_string().contains("within 60s"), "{error}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_gets_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        received
    });
    install_crypto_provider();
    let mut config = config_of(address, Credentials::from_values("AKFAKE", "secret"));
    config.endpoint = Some(format!("https://{address}"));
    let error = Client::new(config)
        .unwrap()
        .extend_disk(&disk())
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    let received = server.await.unwrap();
    assert!(!received.windows(6).any(|bytes| bytes == b"AKFAKE"));
}

#[tokio::test]
async fn half_an_answer_is_unknown() {
    let half = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{EXTENDED}",
        EXTENDED.len() + 1
    );
    let server = Server::start(Act::AnswerAndClose(half)).await;
    let error = server.client().extend_disk(&disk()).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_unknown_and_not_kept() {
    let page = "x".repeat((1 << 20) + 1);
    let server = Server::answering(500, "", &page).await;
    let error = server.client().extend_disk(&disk()).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    assert!(matches!(error, CallError::Unknown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::answering(200, "", EXTENDED).await;
    let location = format!("location: http://{}/api/\r\n", target.address);
    let server = Server::answering(307, &location, "").await;
    let error = server.client().extend_disk(&disk()).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error:?}");
    assert_eq!((server.count(), target.count()), (1, 0));
}

#[tokio::test]
async fn a_list_too_long_for_the_reactor_is_decoded_all_the_same() {
    let rows = "<item><zoneName>east-11</zoneName></item>".repeat(10_000);
    let body = ZONES.replacen("<item>", &format!("{rows}<item>"), 1);
    assert!(body.len() > DECODE_INLINE_MAX);
    let server = Server::answering(200, "", &body).await;
    assert_eq!(
        server.client().describe_zones().await.unwrap().len(),
        10_001
    );
}

#[tokio::test]
async fn a_rotated_key_file_is_used_for_the_next_call() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("id");
    std::fs::write(&path, "AKOLD\n").unwrap();
    let server = Server::answering(200, "", ZONES).await;
    let source = KeySource::File(path.clone());
    let client = client_of(
        server.address,
        Credentials::new(source, KeySource::Value("s".into())),
    );
    client.describe_zones().await.unwrap();
    std::fs::write(dir.path().join("new"), "AKNEW\n").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    client.describe_zones().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = client.describe_zones().await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    let requests = server.requests.lock().unwrap().clone();
    let [old, new] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert!(old.contains("AccessKeyId=AKOLD&"), "{old}");
    assert!(new.contains("AccessKeyId=AKNEW&"), "{new}");
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<(&'static str, &'static str)>>);

impl CallObserver for Seen {
    fn on_call(&self, action: &'static str, outcome: CallOutcome, _elapsed: Duration) {
        self.0.lock().unwrap().push((action, outcome.label()));
    }
}

#[tokio::test]
async fn an_observer_is_told_of_every_call_once() {
    let server = Server::answering(500, "", BUSY).await;
    let seen = Arc::new(Seen::default());
    install_crypto_provider();
    let mut config = config_of(server.address, Credentials::from_values("a", "b"));
    config.observer = Some(Arc::clone(&seen) as Arc<dyn CallObserver>);
    let client = Client::new(config).unwrap();
    let _ = client.describe_zones().await;
    let _ = client.delete_disk(&disk()).await;
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            ("DescribeAvailabilityZones", "processing"),
            ("DeleteVolume", "processing")
        ]
    );
}

#[test]
fn a_bad_configuration_is_refused_before_any_call() {
    install_crypto_provider();
    let keys = || Credentials::from_values("a", "b");
    let refused = |config: ClientConfig| Client::new(config).unwrap_err().to_string();
    assert!(refused(ClientConfig::new("east-1", keys())).contains("jp-east-1"));
    assert!(refused(ClientConfig::new("", keys())).contains("NIFCLOUD_REGION"));
    let empty = ClientConfig::new("jp-east-1", Credentials::from_values("", "b"));
    assert!(refused(empty).contains("NIFCLOUD_ACCESS_KEY_ID is empty"));
}

#[test]
fn debug_shows_the_endpoint_and_no_key() {
    install_crypto_provider();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let config = config_of(address, Credentials::from_values("AKVISIBLE", "TOPSECRET"));
    let shown = format!(
        "{config:?} {:?}",
        Client::new(config_of(
            address,
            Credentials::from_values("AKVISIBLE", "TOPSECRET")
        ))
        .unwrap()
    );
    assert!(shown.contains("127.0.0.1:1"), "{shown}");
    assert!(
        !shown.contains("VISIBLE") && !shown.contains("TOPSECRET"),
        "{shown}"
    );
}
