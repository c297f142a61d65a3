use tokio::time::{advance, pause};

use super::super::backend;
use super::super::config::{RateLimit, Switches};
use super::super::faults::Rule;
use super::*;

const KEY: (&str, &str) = ("EMULATORKEY", "emulator-secret");
/// Longer than any change of the fast profile.
const WHILE: Duration = Duration::from_secs(1);

struct Cloud(Arc<Core>);

impl Cloud {
    /// A running VM `a` and `b`, a stopped one `off`, all in one zone.
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let mut state = State::default();
        for (vm, is) in [("a", "running"), ("b", "running"), ("off", "stopped")] {
            state.insert_vm(vm, "east-11", is);
        }
        let backend = backend::open(&config).unwrap();
        Self(Arc::new(Core::new(config, state, backend, None)))
    }

    fn switched(change: impl FnOnce(&mut Switches)) -> Self {
        Self::new(|config| change(&mut config.switches))
    }

    async fn signed(&self, line: &str, timestamp: Option<&str>, key: (&str, &str)) -> Reply {
        let (action, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut params = Params::new();
        for pair in rest.split_whitespace() {
            let (name, value) = pair.split_once('=').unwrap();
            params.insert(name.to_owned(), value.to_owned());
        }
        for (name, value) in [
            ("Action", action),
            ("AccessKeyId", key.0),
            ("SignatureVersion", "2"),
            ("SignatureMethod", "HmacSHA256"),
        ] {
            params.insert(name.to_owned(), value.to_owned());
        }
        if let Some(time) = timestamp {
            params.insert("Timestamp".to_owned(), time.to_owned());
        }
        let signature = expected("POST", "cloud", "/api/", &params, key.1).unwrap();
        params.insert("Signature".to_owned(), signature);
        let request = Request {
            method: "POST".to_owned(),
            host: "cloud".to_owned(),
            path: "/api/".to_owned(),
            params,
        };
        self.0.handle(request).await
    }

    /// Status and body of a call, written as `Action Name=value ...`.
    async fn call(&self, line: &str) -> (u16, String) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let reply = self.signed(line, Some(&now.to_string()), KEY).await;
        reply.unwrap()
    }

    /// The code of a refusal.
    async fn code(&self, line: &str) -> String {
        let (status, body) = self.call(line).await;
        let code = body
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));
        let (code, _) = code.unwrap_or_else(|| panic!("{line}: {status} {body}"));
        code.to_owned()
    }

    async fn ok(&self, line: &str) -> String {
        let (status, body) = self.call(line).await;
        assert_eq!(status, 200, "{line}: {body}");
        body
    }

    /// A disk at rest on `vm`.
    async fn disk(&self, name: &str, vm: &str) {
        let line = format!("CreateVolume Size=100 VolumeId={name} InstanceId={vm}");
        self.ok(&line).await;
        settle().await;
    }
}

/// Lets what is in flight end.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    advance(WHILE).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_state_on_the_way_can_be_seen() {
    pause();
    let cloud = Cloud::new(|_| ());
    let shows = async |words: &[&str]| {
        let body = cloud.ok("DescribeVolumes VolumeId.1=d").await;
        for word in words {
            assert!(body.contains(word), "{word} in {body}");
        }
    };
    let attached = "<status>attached</status>";
    cloud
        .ok("CreateVolume Size=100 VolumeId=d InstanceId=a")
        .await;
    shows(&["<status>creating</status>", "<status>attaching</status>"]).await;
    settle().await;
    shows(&["<status>in-use</status>", attached, "<size>100</size>"]).await;
    cloud.ok("ExtendVolumeSize VolumeId=d").await;
    shows(&[
        "<status>in-use</status>",
        "<status>attaching</status>",
        "<size>100</size>",
    ])
    .await;
    settle().await;
    shows(&[attached, "<size>200</size>"]).await;
    cloud.ok("DetachVolume VolumeId=d Agreement=true").await;
    shows(&["<status>in-use</status>", "<status>detaching</status>"]).await;
    settle().await;
    shows(&["<status>available</status>"]).await;
    cloud.ok("AttachVolume VolumeId=d InstanceId=b").await;
    shows(&["<status>in-use</status>", "<status>attaching</status>"]).await;
    settle().await;
    shows(&[attached, "<instanceId>b</instanceId>"]).await;
    cloud.ok("DetachVolume VolumeId=d Agreement=true").await;
    settle().await;
    cloud.ok("DeleteVolume VolumeId=d").await;
    shows(&["<status>available</status>"]).await;
    settle().await;
    assert_eq!(
        cloud.code("DescribeVolumes VolumeId.1=d").await,
        Code::VolumeNotFound.as_str()
    );
}

#[tokio::test]
async fn sizes_are_hundreds_up_to_the_types_largest() {
    pause();
    let cloud = Cloud::new(|_| ());
    for size in ["0", "99", "150", "8100", "-100", "1e2", "41"] {
        let line = format!("CreateVolume Size={size} InstanceId=a");
        assert_eq!(
            cloud.code(&line).await,
            Code::InvalidSize.as_str(),
            "{size}"
        );
    }
    cloud
        .ok("CreateVolume Size=1000 DiskType=5 VolumeId=flash InstanceId=a")
        .await;
    settle().await;
    assert_eq!(
        cloud.code("ExtendVolumeSize VolumeId=flash").await,
        Code::InvalidSize.as_str()
    );
    cloud
        .ok("CreateVolume Size=7900 VolumeId=large InstanceId=a")
        .await;
    settle().await;
    cloud.ok("ExtendVolumeSize VolumeId=large").await;
    settle().await;
    assert_eq!(
        cloud.code("ExtendVolumeSize VolumeId=large").await,
        Code::InvalidSize.as_str()
    );
}

#[tokio::test]
async fn a_whole_list_comes_in_one_answer() {
    pause();
    let cloud = Cloud::new(|_| ());
    for vm in 0..20 {
        {
            let mut live = cloud.0.live();
            live.state
                .insert_vm(&format!("vm{vm}"), "east-11", "running");
        }
        for slot in 0..14 {
            let line = format!("CreateVolume Size=100 VolumeId=d{vm}x{slot} InstanceId=vm{vm}");
            cloud.ok(&line).await;
            settle().await;
        }
    }
    let all = cloud.ok("DescribeVolumes MaxResults=5").await;
    assert_eq!(all.matches("<volumeUniqueId>").count(), 2 * 20 * 14);
    assert!(!all.contains("nextToken"));
}

#[tokio::test]
async fn switches_for_answers_change_their_status_and_nothing_else() {
    pause();
    let cloud = Cloud::switched(|s| (s.error_status, s.auth_status) = (400, 403));
    let (status, body) = cloud.call("DeleteVolume VolumeId=none").await;
    assert_eq!(status, 400);
    assert!(body.contains(Code::VolumeNotFound.as_str()), "{body}");
    let now = jiff::Timestamp::now().to_string();
    let (status, body) = cloud
        .signed("DescribeRegions", Some(&now), (KEY.0, "wrong"))
        .await
        .unwrap();
    assert_eq!(status, 403);
    assert!(body.contains(Code::AuthFailure.as_str()), "{body}");
    for (throttle, status) in [
        (ThrottleAnswer::Error, 500),
        (ThrottleAnswer::TooManyRequests, 429),
        (ThrottleAnswer::Gateway, 503),
    ] {
        let cloud = Cloud::new(|config| {
            config.switches.throttle = throttle;
            config.rate_limit = Some(RateLimit {
                per_second: 1.0,
                burst: 2.0,
            });
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(cloud.call("DescribeRegions").await.0);
        }
        assert_eq!(seen, [200, 200, status]);
        advance(Duration::from_secs(1)).await;
        cloud.ok("DescribeRegions").await;
    }
}

#[tokio::test]
async fn the_timestamp_is_checked_as_far_as_the_switches_say() {
    let times = |seconds: i64| {
        let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let strict = Cloud::switched(|s| s.clock_skew_seconds = 900);
    let ahead = Cloud::switched(|s| (s.clock_skew_seconds, s.clock_ahead_seconds) = (900, 1800));
    let lenient = Cloud::switched(|s| s.timestamp_required = false);
    for (cloud, time, good) in [
        (&strict, Some(times(-890)), true),
        (&strict, Some(times(-920)), false),
        (&strict, Some(times(920)), false),
        (&strict, None, false),
        (&ahead, Some(times(1800)), true),
        (&ahead, Some(times(0)), false),
        (&lenient, Some(times(-1_000_000)), true),
        (&lenient, None, true),
        (&lenient, Some("yesterday".to_owned()), false),
    ] {
        let (status, body) = cloud
            .signed("DescribeRegions", time.as_deref(), KEY)
            .await
            .unwrap();
        assert_eq!(status == 200, good, "{time:?}: {status} {body}");
    }
}

#[tokio::test]
async fn what_is_busy_says_so_as_far_as_the_switches_say() {
    pause();
    let slow = "CreateVolume Size=100 VolumeId=slow InstanceId=a";
    let cloud = Cloud::new(|_| ());
    cloud.disk("d", "a").await;
    cloud.ok(slow).await;
    for line in [
        "CreateVolume Size=100 VolumeId=other InstanceId=a",
        "DetachVolume VolumeId=d Agreement=true",
        "ExtendVolumeSize VolumeId=d",
    ] {
        assert_eq!(
            cloud.code(line).await,
            Code::InstanceProcessing.as_str(),
            "{line}"
        );
    }
    for line in [
        "DetachVolume VolumeId=slow Agreement=true",
        "ExtendVolumeSize VolumeId=slow",
        "DeleteVolume VolumeId=slow",
        "AttachVolume VolumeId=slow InstanceId=b",
    ] {
        assert_eq!(
            cloud.code(line).await,
            Code::VolumeProcessing.as_str(),
            "{line}"
        );
    }
    settle().await;
    cloud.ok("ExtendVolumeSize VolumeId=d").await;

    let cloud = Cloud::switched(|s| s.processing_while_busy = false);
    cloud.ok(slow).await;
    cloud
        .ok("CreateVolume Size=100 VolumeId=other InstanceId=a")
        .await;
    settle().await;
    assert!(
        cloud
            .0
            .live()
            .state
            .disks
            .values()
            .all(|disk| disk.change.is_none())
    );
}

#[tokio::test]
async fn a_detach_needs_agreement_as_far_as_the_switches_say() {
    pause();
    let cloud = Cloud::new(|_| ());
    cloud.disk("d", "a").await;
    cloud.disk("cold", "off").await;
    assert_eq!(
        cloud.code("DetachVolume VolumeId=d").await,
        Code::InstanceRunning.as_str()
    );
    cloud.ok("DetachVolume VolumeId=cold").await;
    let cloud = Cloud::switched(|s| s.agreement_required = false);
    cloud.disk("d", "a").await;
    cloud.ok("DetachVolume VolumeId=d").await;
}

#[tokio::test]
async fn the_other_switches_have_two_positions() {
    pause();
    let cloud = Cloud::switched(|s| {
        s.unknown_fails_batch = false;
        s.own_code_attached_elsewhere = true;
        s.short_sizes = false;
        s.disks_die_with_vm = true;
    });
    cloud.disk("d", "a").await;
    let two = "DescribeVolumes VolumeId.1=none VolumeId.2=d";
    assert!(cloud.ok(two).await.contains("<volumeId>d</volumeId>"));
    let attach = |vm| format!("AttachVolume VolumeId=d InstanceId={vm}");
    assert_eq!(
        cloud.code(&attach("a")).await,
        Code::AlreadyAttached.as_str()
    );
    assert_eq!(cloud.code(&attach("b")).await, Code::InUse.as_str());
    assert_eq!(
        cloud.code("CreateVolume Size=2 InstanceId=b").await,
        Code::InvalidSize.as_str()
    );
    cloud.0.delete_vm("a").unwrap();
    assert_eq!(
        cloud.code("DeleteVolume VolumeId=d").await,
        Code::VolumeNotFound.as_str()
    );

    let cloud = Cloud::new(|_| ());
    cloud.disk("d", "a").await;
    assert_eq!(cloud.code(two).await, Code::VolumeNotFound.as_str());
    assert_eq!(
        cloud.code(&attach("b")).await,
        Code::AlreadyAttached.as_str()
    );
    let made = cloud.ok("CreateVolume Size=2 InstanceId=b").await;
    assert!(made.contains("<size>200</size>"), "{made}");
    cloud.0.delete_vm("a").unwrap();
    cloud.ok("AttachVolume VolumeId=d InstanceId=off").await;
}

#[tokio::test]
async fn faults_of_the_configuration_hold_from_the_first_call() {
    pause();
    let rule = |effect| Rule {
        action: Some("AttachVolume".to_owned()),
        mutating: false,
        disk: None,
        vm: None,
        skip: 0,
        count: Some(1),
        probability: 1.0,
        effect,
    };
    let cloud = Cloud::new(|config| {
        config.faults = vec![
            rule(Effect::GatewayBefore { status: 502 }),
            rule(Effect::Stuck { ms: 60_000 }),
        ];
    });
    cloud.disk("d", "a").await;
    cloud.ok("DetachVolume VolumeId=d Agreement=true").await;
    settle().await;
    let attach = "AttachVolume VolumeId=d InstanceId=b";
    let (status, body) = cloud.call(attach).await;
    assert!(
        status == 502 && body.starts_with("<html>"),
        "{status} {body}"
    );
    cloud.ok(attach).await;
    settle().await;
    assert_eq!(
        cloud.code("DeleteVolume VolumeId=d").await,
        Code::VolumeProcessing.as_str()
    );
    advance(Duration::from_secs(60)).await;
    settle().await;
    assert_eq!(
        cloud.code("DeleteVolume VolumeId=d").await,
        Code::InUse.as_str()
    );
}

#[tokio::test]
async fn disks_made_by_hand_are_disks_like_others() {
    pause();
    let cloud = Cloud::new(|_| ());
    let put = |text: &str| cloud.0.put_disk(serde_json::from_str(text).unwrap());
    put(r#"{"name": "free", "zone": "east-11"}"#).unwrap();
    put(r#"{"name": "used", "size": 300, "attachment": {"vm": "a"}}"#).unwrap();
    let used = cloud.ok("DescribeVolumes VolumeId.1=used").await;
    assert!(
        used.contains("<size>300</size>") && used.contains("<status>attached</status>"),
        "{used}"
    );
    cloud.ok("AttachVolume VolumeId=free InstanceId=a").await;
    let before = cloud.0.live().state.clone();
    for (text, code) in [
        (
            r#"{"name": "free", "zone": "east-11"}"#,
            Code::DuplicateVolume,
        ),
        (
            r#"{"name": "a-b", "zone": "east-11"}"#,
            Code::InvalidVolumeId,
        ),
        (r#"{"name": "x"}"#, Code::MissingParameter),
        (
            r#"{"name": "x", "attachment": {"vm": "ghost"}}"#,
            Code::InstanceNotFound,
        ),
    ] {
        assert_eq!(put(text).unwrap_err().code, code.as_str(), "{text}");
    }
    assert_eq!(cloud.0.live().state, before);
    for number in 0..12 {
        put(&format!(
            r#"{{"name": "f{number}", "attachment": {{"vm": "a"}}}}"#
        ))
        .unwrap();
    }
    let full = put(r#"{"name": "more", "attachment": {"vm": "a"}}"#).unwrap_err();
    assert_eq!(full.code, Code::NoSlot.as_str());
    assert!(!cloud.0.live().state.disks.contains_key("more"));
}
