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
            "not an answer of the computing API ({why}): {seen:?}; check the endpoint, and that no proxy answers in its \
             place"
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
    let ahead = ahead(date, now)?;
    (ahead.abs() > SKEW_WORTH_SAYING).then(|| {
        let (minutes, way) = (ahead.abs() / 60, if ahead > 0 { "fast" } else { "slow" });
        format!(
            " (the clock of this machine is {minutes} minutes {way}; signatures carry the time: set the clock)"
        )
    })
}

/// Seconds by which this machine's clock is ahead of an answer's `Date`.
pub(crate) fn ahead(date: Option<&str>, now: Timestamp) -> Option<i64> {
    Some(now.as_second() - http_date(date?)?.as_second())
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
mod tests;
