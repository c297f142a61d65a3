//! From an answer of the API to a meaning: error codes, and answers that are none.
//!
//! The status of the HTTP answer decides nothing by itself, because errors of every kind are known to come with
//! status 500. Whatever the status, the body is read first; an error root is an error also under status 200.
//!
//! ```text
//! body            status   outcome
//! Response/Errors any      Rejected, by Code
//! <Action>Respo.. 2xx      the decoded answer
//! <Action>Respo.. other    Unknown
//! anything else   any      Unknown; throttled when the status is 429 or 503
//! ```

use std::time::Duration;

use jiff::Timestamp;

use super::decode::Decode;
use super::transport::Reply;
use super::xml::{Node, Rows, read};
use crate::cloud::{CallError, Rejection};

/// Longest message that is passed on, in characters.
const MESSAGE_MAX: usize = 300;
/// Longest piece of an answer that is not the API's, in characters.
const SNIPPET_MAX: usize = 120;
/// A clock this far off is worth a word when the API refuses a signature.
const SKEW_WORTH_SAYING: i64 = 5 * 60;
/// The longest wait that a `Retry-After` may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What `Code` means. The form is `{Client|Server}.{Category}.{Resource}[.{Detail}]`.
///
/// Codes for throttling and for refused keys are not documented for the computing API: the names below are those
/// of its sister services and of the API family it follows.
pub(crate) fn rejection(code: &str) -> Rejection {
    match code {
        "Client.InvalidParameterNotFound.Volume" => Rejection::VolumeNotFound,
        "Client.InvalidParameterNotFound.Instance" => Rejection::InstanceNotFound,
        "Server.Inoperable.Volume.AlreadyAttached" => Rejection::AlreadyAttached,
        "Client.Inoperable.Volume.DetachedFromInstance" => Rejection::AlreadyDetached,
        _ if code.starts_with("Client.InvalidParameterDuplicate.") => Rejection::DuplicateName,
        _ if code.starts_with("Server.ResourceIncorrectState.")
            && code.ends_with(".Processing") =>
        {
            Rejection::Processing
        }
        _ if mentions(code, &THROTTLING) => Rejection::Throttled,
        _ if mentions(code, &AUTH) => Rejection::Auth,
        _ if code.starts_with("Client.") => Rejection::Client,
        _ => Rejection::Server,
    }
}

const THROTTLING: [&str; 5] = [
    "RequestLimitExceeded",
    "Throttl",
    "TooManyRequests",
    "SlowDown",
    "RateExceeded",
];

const AUTH: [&str; 9] = [
    "AuthFailure",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "RequestExpired",
    "UnauthorizedOperation",
    "AccessDenied",
];

fn mentions(code: &str, words: &[&str]) -> bool {
    code.split('.')
        .any(|part| words.iter().any(|word| part.starts_with(word)))
}

/// Reads the answer to `action`.
///
/// # Errors
/// [`CallError::Rejected`] for an error of the API, [`CallError::Unknown`] for everything that is not its answer.
pub(crate) fn interpret<D: Decode>(
    action: &'static str,
    reply: &Reply,
    now: Timestamp,
    mut decoder: D,
) -> Result<D::Answer, CallError> {
    let unknown = |why: &str| CallError::Unknown {
        action,
        reason: format!("HTTP status {}: {why}", reply.status),
        throttled: matches!(reply.status, 429 | 503),
    };
    let not_an_answer = |why: &str| {
        let seen = bounded(&String::from_utf8_lossy(cut(&reply.body)), SNIPPET_MAX);
        unknown(&format!(
            "not an answer of the computing API ({why}): {seen:?}"
        ))
    };
    let text = match std::str::from_utf8(&reply.body) {
        Ok(text) => text,
        Err(_) => return Err(not_an_answer("not UTF-8")),
    };
    let root = read(
        text,
        &mut Rows {
            path: D::ROWS,
            take: &mut |row| decoder.row(row),
        },
    )
    .map_err(|error| not_an_answer(&error.to_string()))?;
    if let Some((code, message)) = error_of(&root) {
        return Err(rejected(action, reply, now, code, &message));
    }
    let expected = format!("{action}Response");
    if !root.name().eq_ignore_ascii_case(&expected) {
        return Err(not_an_answer(&format!(
            "expected the element {expected}, found {}",
            bounded(root.name(), 40)
        )));
    }
    if !(200..300).contains(&reply.status) {
        return Err(unknown("the status contradicts an answer of success"));
    }
    decoder.finish(&root).map_err(|why| unknown(&why))
}

/// The head of a body that is shown, without decoding all of it.
fn cut(body: &[u8]) -> &[u8] {
    body.get(..SNIPPET_MAX * 4).unwrap_or(body)
}

/// `Response/Errors/Error/{Code,Message}`; the first error counts.
fn error_of(root: &Node) -> Option<(String, String)> {
    if !root.name().eq_ignore_ascii_case("Response") {
        return None;
    }
    let error = root.child("Errors")?.child("Error")?;
    let code = bounded(error.text("Code"), MESSAGE_MAX);
    (!code.is_empty()).then(|| (code, bounded(error.text("Message"), MESSAGE_MAX)))
}

fn rejected(
    action: &'static str,
    reply: &Reply,
    now: Timestamp,
    code: String,
    message: &str,
) -> CallError {
    let mut kind = rejection(&code);
    // A code without a known meaning under 429: this status has only one.
    if reply.status == 429 && matches!(kind, Rejection::Client | Rejection::Server) {
        kind = Rejection::Throttled;
    }
    let mut message = message.to_owned();
    if kind == Rejection::Auth
        && let Some(note) = skew(reply.date.as_deref(), now)
    {
        message.push_str(&note);
    }
    CallError::Rejected {
        action,
        kind,
        code,
        message,
        retry_after: retry_after(reply.retry_after.as_deref(), now),
    }
}

/// A word about this machine's clock, where the answer's `Date` shows that it is far off.
fn skew(date: Option<&str>, now: Timestamp) -> Option<String> {
    let theirs = http_date(date?)?;
    let ahead = now.as_second() - theirs.as_second();
    (ahead.abs() > SKEW_WORTH_SAYING).then(|| {
        let (minutes, way) = (ahead.abs() / 60, if ahead > 0 { "fast" } else { "slow" });
        format!(
            " (the clock of this machine is {minutes} minutes {way}; signatures carry the time: set the clock)"
        )
    })
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(text)
        .ok()
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn retry_after(value: Option<&str>, now: Timestamp) -> Option<Duration> {
    let value = value?.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => u64::try_from(http_date(value)?.as_second() - now.as_second()).ok()?,
    };
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// At most `max` characters, none of them a control character.
pub(crate) fn bounded(text: &str, max: usize) -> String {
    let mut out: String = text
        .chars()
        .take(max)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(max).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::decode::Done;
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status,
            date: None,
            retry_after: None,
            body: body.as_bytes().to_vec(),
        }
    }

    fn error_body(code: &str, message: &str) -> String {
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
             <RequestID>5c0b2d0e-0000-4000-8000-000000000000</RequestID></Response>"
        )
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn outcome(reply: &Reply) -> Result<(), CallError> {
        interpret("DeleteVolume", reply, now(), Done::of_disk(None))
    }

    #[test]
    fn every_known_code_has_its_meaning() {
        use Rejection as R;
        for (code, kind) in [
            ("Client.InvalidParameterNotFound.Volume", R::VolumeNotFound),
            (
                "Client.InvalidParameterNotFound.Instance",
                R::InstanceNotFound,
            ),
            (
                "Server.Inoperable.Volume.AlreadyAttached",
                R::AlreadyAttached,
            ),
            (
                "Client.Inoperable.Volume.DetachedFromInstance",
                R::AlreadyDetached,
            ),
            ("Client.InvalidParameterDuplicate.Volume", R::DuplicateName),
            (
                "Server.ResourceIncorrectState.Instance.Processing",
                R::Processing,
            ),
            (
                "Server.ResourceIncorrectState.Volume.Processing",
                R::Processing,
            ),
            ("Client.RequestLimitExceeded", R::Throttled),
            ("Client.RequestLimitExceeded.Account", R::Throttled),
            ("Throttling", R::Throttled),
            ("Server.TooManyRequests", R::Throttled),
            ("Client.AuthFailure", R::Auth),
            ("Client.AuthFailurePermission.AccessKey", R::Auth),
            ("SignatureDoesNotMatch", R::Auth),
            ("InvalidClientTokenId", R::Auth),
            ("Client.InvalidParameterNotFound.Snapshot", R::Client),
            ("Client.Inoperable.Volume.InUse", R::Client),
            ("Client.SomethingNew", R::Client),
            ("Server.InternalError", R::Server),
            ("Server.Maintenance", R::Server),
            ("Server.ResourceIncorrectState.Instance.Other", R::Server),
            ("NoKnownForm", R::Server),
            // Not proof of absence: only the exact code is.
            ("Client.InvalidParameterNotFound.VolumeX", R::Client),
            ("client.invalidparameternotfound.volume", R::Server),
        ] {
            assert_eq!(rejection(code), kind, "{code}");
        }
    }

    #[test]
    fn an_error_body_is_an_error_whatever_the_status() {
        for status in [200, 400, 401, 404, 429, 500, 503] {
            let body = error_body("Client.InvalidParameterNotFound.Volume", "gone");
            let error = outcome(&reply(status, &body)).unwrap_err();
            assert_eq!(
                error.rejection(),
                Some(Rejection::VolumeNotFound),
                "{status}"
            );
            assert!(!error.outcome_unknown());
        }
    }

    #[test]
    fn success_needs_both_the_element_and_the_status() {
        let good = "<DeleteVolumeResponse><return>true</return></DeleteVolumeResponse>";
        assert!(outcome(&reply(200, good)).is_ok());
        for (status, body) in [
            (500, good),
            (301, good),
            (
                200,
                "<CreateVolumeResponse><return>true</return></CreateVolumeResponse>",
            ),
            (
                200,
                "<DeleteVolumeResponse><return>false</return></DeleteVolumeResponse>",
            ),
            (200, "<DeleteVolumeResponse><return>true</return>"),
            (200, ""),
            (200, "<Response/>"),
            (
                200,
                "<Response><Errors><Error><Code/></Error></Errors></Response>",
            ),
            (502, "<html><body>Bad Gateway</body></html>"),
            (404, "not found"),
        ] {
            let error = outcome(&reply(status, body)).unwrap_err();
            assert!(error.outcome_unknown(), "{status} {body}");
            assert_eq!(error.rejection(), None, "{status} {body}");
        }
    }

    #[test]
    fn only_429_and_503_of_a_gateway_mean_slow_down() {
        for (status, expected) in [
            (429, true),
            (503, true),
            (500, false),
            (502, false),
            (504, false),
        ] {
            let Err(CallError::Unknown { throttled, .. }) = outcome(&reply(status, "busy")) else {
                panic!("{status} must be unknown");
            };
            assert_eq!(throttled, expected, "{status}");
        }
        let unknown_code = reply(429, &error_body("Client.NeverSeen", "slow"));
        assert_eq!(
            outcome(&unknown_code).unwrap_err().rejection(),
            Some(Rejection::Throttled)
        );
    }

    #[test]
    fn messages_are_bounded_and_carry_no_control_characters() {
        let body = error_body(
            "Server.X",
            &format!("a\u{7}\n&#27;[31m{}", "長".repeat(1000)),
        );
        let Err(CallError::Rejected { message, .. }) = outcome(&reply(500, &body)) else {
            panic!("must be rejected");
        };
        assert!(message.chars().count() <= MESSAGE_MAX + 3, "{message}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
        let Err(CallError::Unknown { reason, .. }) = outcome(&reply(502, &"é\n".repeat(9000)))
        else {
            panic!("must be unknown");
        };
        assert!(reason.chars().count() < 400, "{reason}");
    }

    #[test]
    fn a_clock_far_off_is_named_when_the_signature_is_refused() {
        let with_date = |date: &str, code: &str| {
            let mut reply = reply(401, &error_body(code, "refused."));
            reply.date = Some(date.to_owned());
            outcome(&reply).unwrap_err().to_string()
        };
        let auth = "Client.AuthFailure";
        assert!(
            with_date("Fri, 02 Jan 2026 02:54:05 GMT", auth).contains("10 minutes fast"),
            "{}",
            with_date("Fri, 02 Jan 2026 02:54:05 GMT", auth)
        );
        assert!(with_date("Fri, 02 Jan 2026 04:04:05 GMT", auth).contains("60 minutes slow"));
        for (date, code) in [
            ("Fri, 02 Jan 2026 03:02:05 GMT", auth),
            ("nonsense", auth),
            ("Fri, 02 Jan 2026 04:04:05 GMT", "Client.Other"),
        ] {
            assert!(!with_date(date, code).contains("clock"), "{date} {code}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_bounded() {
        let wait = |value| retry_after(Some(value), now());
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            wait("Fri, 02 Jan 2026 03:04:35 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait("Fri, 02 Jan 2026 03:00:00 GMT"), None);
        assert_eq!(wait("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("soon"), None);
    }
}
