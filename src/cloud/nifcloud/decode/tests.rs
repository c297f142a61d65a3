use jiff::Timestamp;

use super::super::error::interpret;
use super::super::transport::Reply;
use super::*;
use crate::cloud::CallError;

const DECLARATION: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>"#;
const NAMESPACE: &str = r#"xmlns="https://computing.api.nifcloud.com/api/""#;
const REQUEST_ID: &str = "<requestId>f6dd8353-eb6b-4b4f-9c31-3b7b1d2f2f3a</requestId>";

fn answer<D: Decode>(
    action: &'static str,
    inner: &str,
    decoder: D,
) -> Result<D::Answer, CallError> {
    let body = format!(
        "{DECLARATION}<{action}Response {NAMESPACE}>{REQUEST_ID}{inner}</{action}Response>"
    );
    let reply = Reply {
        status: 200,
        date: None,
        retry_after: None,
        body: body.into_bytes(),
    };
    interpret(action, &reply, Timestamp::UNIX_EPOCH, decoder)
}

fn name(text: &str) -> DiskName {
    DiskName::parse(text).unwrap()
}

fn row(volume_id: &str, size: &str, attachments: &str) -> String {
    format!(
        "<item><volumeId>{volume_id}</volumeId><volumeUniqueId>vol-0a1b2c3d</volumeUniqueId>\
         <size>{size}</size><diskType>Standard Flash Storage A</diskType><snapshotId></snapshotId>\
         <availabilityZone>east-11</availabilityZone><AccountingType>2</AccountingType>\
         <nextMonthAccountingType>1</nextMonthAccountingType><status>in-use</status>\
         <createTime></createTime><attachmentSet>{attachments}</attachmentSet>\
         <futureElement><item/></futureElement><description>pvc-1 &amp; more</description></item>"
    )
}

const ATTACHED: &str = "<item><volumeId>d1</volumeId><instanceId>node01</instanceId>\
    <instanceUniqueId>i-06xhrmv7</instanceUniqueId><device/><status>attached</status>\
    <attachTime>2024-06-13T14:02:53.000+09:00</attachTime>\
    <deleteOnTermination>false</deleteOnTermination></item>";

fn list(rows: &str) -> String {
    format!("<volumeSet>{rows}</volumeSet>")
}

#[test]
fn a_disk_is_read_as_the_api_shows_it() {
    let disks = answer(
        "DescribeVolumes",
        &list(&row("d1", "300", ATTACHED)),
        Disks::of(&[name("d1")]),
    )
    .unwrap();
    let [disk] = disks.as_slice() else {
        panic!("{disks:?}");
    };
    assert_eq!(disk.name, name("d1"));
    assert_eq!(disk.unique_id, "vol-0a1b2c3d");
    assert_eq!(disk.size.gib(), 300);
    assert_eq!(disk.disk_type, "Standard Flash Storage A");
    assert_eq!(disk.zone.as_str(), "east-11");
    assert_eq!(disk.description, "pvc-1 & more");
    assert_eq!(disk.accounting, Some(Accounting::Hourly));
    assert_eq!(disk.next_accounting, Some(Accounting::Monthly));
    assert!(disk.is_attached_to(&VmName::parse("node01").unwrap()));
    assert_eq!(disk.attachment.as_ref().unwrap().vm_unique_id, "i-06xhrmv7");
}

#[test]
fn an_empty_and_a_missing_list_are_no_disks() {
    for inner in ["<volumeSet/>", "<volumeSet></volumeSet>", ""] {
        let disks = answer("DescribeVolumes", inner, Disks::of(&[])).unwrap();
        assert!(disks.is_empty(), "{inner}");
    }
}

#[test]
fn a_detached_disk_has_no_attachment_however_empty_is_written() {
    for attachments in [
        "",
        "<item/>",
        "<item><volumeId/><instanceId></instanceId></item>",
    ] {
        let disks = answer(
            "DescribeVolumes",
            &list(&row("d1", "100", attachments)),
            Disks::of(&[]),
        )
        .unwrap();
        assert_eq!(disks[0].attachment, None, "{attachments}");
    }
}

#[test]
fn a_row_that_makes_no_sense_is_left_out_of_a_full_list() {
    let rows = [
        row("bad-name", "100", ""),
        row("", "100", ""),
        row("zero", "0", ""),
        row("text", "big", ""),
        row("negative", "-100", ""),
        row("huge", "99999999999", ""),
        row("twice", "100", &ATTACHED.repeat(2)),
        row("nobody", "100", "<item><status>attached</status></item>"),
        row("good", "100", ""),
    ];
    let disks = answer("DescribeVolumes", &list(&rows.concat()), Disks::of(&[])).unwrap();
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn a_disk_asked_for_by_name_that_cannot_be_read_is_unknown_never_gone() {
    for rows in [row("d1", "0", ""), row("other", "100", ""), String::new()] {
        let error = answer("DescribeVolumes", &list(&rows), Disks::of(&[name("d1")])).unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert!(error.to_string().contains("d1"), "{error}");
    }
}

#[test]
fn unknown_states_are_kept_not_refused() {
    let rows = list(&row(
        "d1",
        "100",
        &ATTACHED.replace(">attached<", ">ejecting<"),
    ))
    .replace(">in-use<", ">configuring<");
    let disks = answer("DescribeVolumes", &rows, Disks::of(&[])).unwrap();
    assert_eq!(disks[0].status, DiskStatus::Other("configuring".to_owned()));
    assert_eq!(
        disks[0].attachment.as_ref().unwrap().status,
        AttachmentStatus::Other("ejecting".to_owned())
    );
    assert!(!disks[0].is_settled());
}

const VMS: &str = "<reservationSet>\
    <item><reservationId/><ownerId/><groupSet><item><groupId>g</groupId></item></groupSet>\
    <instancesSet><item><instanceId>node01</instanceId><instanceUniqueId>i-06xhrmv7</instanceUniqueId>\
    <instanceState><code>16</code><name>running</name></instanceState>\
    <productCodes><item><productCode></productCode></item></productCodes>\
    <placement><availabilityZone>east-11</availabilityZone></placement>\
    <blockDeviceMapping><item><deviceName>SCSI (0:0)</deviceName><ebs><volumeId/></ebs></item>\
    <item><deviceName/><ebs><volumeId>d1</volumeId><status>attached</status></ebs></item>\
    </blockDeviceMapping><AccountingType>2</AccountingType></item></instancesSet></item>\
    <item><instancesSet><item><instanceId>node02</instanceId>\
    <instanceState><code>80</code><name/></instanceState>\
    <placement><availabilityZone>east-12</availabilityZone></placement><blockDeviceMapping/>\
    </item></instancesSet></item>\
    <item><instancesSet><item><instanceId>node03</instanceId>\
    <instanceState><code>0</code><name>pending</name></instanceState>\
    <placement><availabilityZone>east-12</availabilityZone></placement></item></instancesSet></item>\
    </reservationSet>";

#[test]
fn vms_are_read_with_state_zone_and_additional_disks() {
    let vms = answer("DescribeInstances", VMS, Vms::of(&[])).unwrap();
    let shown: Vec<String> = vms
        .iter()
        .map(|vm| format!("{} {:?} {} {:?}", vm.name, vm.state, vm.zone, vm.disks))
        .collect();
    assert_eq!(
        shown,
        [
            "node01 Running east-11 [DiskName(\"d1\")]",
            "node02 Stopped east-12 []",
            "node03 Other(\"pending\") east-12 []",
        ]
    );
    let absent = VmName::parse("node04").unwrap();
    let error = answer("DescribeInstances", VMS, Vms::of(&[absent])).unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

#[test]
fn slots_are_read_in_both_spellings_and_strange_ones_left_out() {
    let inner = "<instanceId>node01</instanceId><blockDeviceMapping>\
        <item><deviceName>SCSI (0:0)</deviceName><ebs><volumeId></volumeId></ebs></item>\
        <item><deviceName>SCSI(0:1)</deviceName><ebs><volumeId>d1</volumeId>\
        <volumeUniqueId>vol-1</volumeUniqueId></ebs></item>\
        <item><deviceName>IDE (0:0)</deviceName><ebs><volumeId>cd</volumeId></ebs></item>\
        </blockDeviceMapping>";
    let vm = VmName::parse("node01").unwrap();
    let slots = answer("DescribeInstanceAttribute", inner, Slots::of(&vm)).unwrap();
    let expected = [
        Slot {
            address: ScsiAddress { bus: 0, target: 0 },
            disk: None,
            disk_unique_id: String::new(),
        },
        Slot {
            address: ScsiAddress { bus: 0, target: 1 },
            disk: Some(name("d1")),
            disk_unique_id: "vol-1".to_owned(),
        },
    ];
    assert_eq!(slots, expected);
    let other = VmName::parse("node02").unwrap();
    assert!(answer("DescribeInstanceAttribute", inner, Slots::of(&other)).is_err());
}

#[test]
fn zones_are_read_by_name() {
    let inner = "<availabilityZoneInfo><item><zoneName>east-11</zoneName><zoneState>available</zoneState>\
        <messageSet/></item><item><zoneName>east-12</zoneName></item><item/></availabilityZoneInfo>";
    assert_eq!(
        answer("DescribeAvailabilityZones", inner, Zones).unwrap(),
        ["east-11", "east-12"]
    );
}

#[test]
fn an_answer_about_another_disk_is_not_taken_for_ours() {
    let mine = name("d1");
    let done = || Done::of_disk(Some(&mine));
    for (inner, good) in [
        ("<volumeId>d1</volumeId><status>attaching</status>", true),
        ("<volumeId>D1</volumeId>", true),
        ("", true),
        ("<volumeId>d2</volumeId>", false),
    ] {
        let outcome = answer("AttachVolume", inner, done());
        assert_eq!(outcome.is_ok(), good, "{inner}");
    }
}

#[test]
fn fifty_thousand_disks_are_read() {
    let rows: String = (0..50_000)
        .map(|i| row(&format!("d{i}"), "100", ""))
        .collect();
    let disks = answer("DescribeVolumes", &list(&rows), Disks::of(&[])).unwrap();
    assert_eq!(disks.len(), 50_000);
}
