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
    let Err(CallError::Unknown { reason, .. }) = outcome(&reply(502, &"é\n".repeat(9000))) else {
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
