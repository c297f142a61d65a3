use jiff::Timestamp;
use proptest::prelude::*;

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
fn a_list_longer_than_any_tree_may_be_is_read_row_by_row() {
    let rows: String = (0..10_000)
        .map(|i| row(&format!("d{i}"), "100", ""))
        .collect();
    let disks = answer("DescribeVolumes", &list(&rows), Disks::of(&[])).unwrap();
    assert_eq!(disks.len(), 10_000);
}

fn status_of(disk: &Disk) -> &str {
    match &disk.status {
        DiskStatus::Creating => "creating",
        DiskStatus::InUse => "in-use",
        DiskStatus::Available => "available",
        DiskStatus::Other(other) => other,
    }
}

fn attachment_status_of(attachment: &Attachment) -> &str {
    match &attachment.status {
        AttachmentStatus::Attaching => "attaching",
        AttachmentStatus::Attached => "attached",
        AttachmentStatus::Detaching => "detaching",
        AttachmentStatus::Other(other) => other,
    }
}

/// Writes a disk as the API might, `style` choosing between its ways of writing the same thing.
fn render(disk: &Disk, style: usize) -> String {
    let element = |name: &str, value: &str| {
        let name = if style & 1 == 0 {
            name.to_owned()
        } else {
            name.to_ascii_uppercase()
        };
        match (value.is_empty(), style & 2 == 0) {
            (true, true) => format!("<{name}/>"),
            _ if style & 4 == 0 => format!("<{name}>{}</{name}>", quick_xml::escape::escape(value)),
            _ => format!("<{name} xmlns=\"x\"><![CDATA[{value}]]></{name}>"),
        }
    };
    let code = |accounting: Option<Accounting>| accounting.map_or("", Accounting::code);
    let attachments = disk
        .attachment
        .as_ref()
        .map_or(String::new(), |attachment| {
            format!(
                "<item>{}{}{}</item>",
                element("instanceId", attachment.vm.as_str()),
                element("instanceUniqueId", &attachment.vm_unique_id),
                element("status", attachment_status_of(attachment)),
            )
        });
    let mut fields = vec![
        element("volumeId", disk.name.as_str()),
        element("volumeUniqueId", &disk.unique_id),
        element("size", &disk.size.gib().to_string()),
        element("diskType", &disk.disk_type),
        element("availabilityZone", disk.zone.as_str()),
        element("status", status_of(disk)),
        element("description", &disk.description),
        element("accountingType", code(disk.accounting)),
        element("nextMonthAccountingType", code(disk.next_accounting)),
        format!("<attachmentSet>{attachments}</attachmentSet>"),
        element("somethingNew", "1"),
    ];
    let turn = style % fields.len();
    fields.rotate_left(turn);
    format!("<item>{}</item>", fields.concat())
}

fn any_attachment() -> impl Strategy<Value = Option<Attachment>> {
    let status = prop_oneof![
        Just(AttachmentStatus::Attaching),
        Just(AttachmentStatus::Attached),
        Just(AttachmentStatus::Detaching),
        Just(AttachmentStatus::Other("ejecting".to_owned())),
    ];
    let attachment =
        ("[0-9A-Za-z]{1,15}", "(i-[0-9a-z]{8})?", status).prop_map(|(vm, vm_unique_id, status)| {
            Attachment {
                vm: VmName::parse(&vm).unwrap(),
                vm_unique_id,
                status,
            }
        });
    proptest::option::of(attachment)
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let accounting = || {
        prop_oneof![
            Just(None),
            Just(Some(Accounting::Monthly)),
            Just(Some(Accounting::Hourly))
        ]
    };
    let status = prop_oneof![
        Just(DiskStatus::Creating),
        Just(DiskStatus::InUse),
        Just(DiskStatus::Available),
        Just(DiskStatus::Other("configuring".to_owned())),
    ];
    (
        "[0-9A-Za-z]{1,32}",
        1..10_000_u32,
        status,
        any_attachment(),
        // Any text of 40 characters that does not begin or end with white space.
        "([^\\pC\\s]([^\\pC]{0,38}[^\\pC\\s])?)?",
        accounting(),
        accounting(),
    )
        .prop_filter("CDATA cannot hold its own end", |disk| {
            !disk.4.contains("]]>")
        })
        .prop_map(
            |(name, gib, status, attachment, description, accounting, next_accounting)| Disk {
                name: DiskName::parse(&name).unwrap(),
                unique_id: format!("vol-{gib}"),
                size: DiskSize::from_gib(gib).unwrap(),
                disk_type: "High-Speed Storage A".to_owned(),
                zone: Zone::parse("east-11").unwrap(),
                status,
                attachment,
                description,
                accounting,
                next_accounting,
            },
        )
}

proptest! {
    #[test]
    fn any_disk_is_read_back_however_the_api_writes_it(
        disks in proptest::collection::vec(any_disk(), 0..4),
        style in 0..88_usize,
    ) {
        let rows: String = disks.iter().map(|disk| render(disk, style)).collect();
        prop_assert_eq!(answer("DescribeVolumes", &list(&rows), Disks::of(&[])).unwrap(), disks);
    }

    #[test]
    fn any_mixture_of_markup_breaks_no_promise(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..40)
    ) {
        crate::cloud::nifcloud::fuzzing::decode(pieces.concat().as_bytes());
    }
}

const PIECES: [&str; 30] = [
    "<DescribeVolumesResponse>",
    "</DescribeVolumesResponse>",
    "<AttachVolumeResponse>",
    "</AttachVolumeResponse>",
    "<volumeSet>",
    "</volumeSet>",
    "<volumeSet/>",
    "<item>",
    "</item>",
    "<item/>",
    "<volumeId>pvc0001</volumeId>",
    "<size>100</size>",
    "<size>0</size>",
    "<availabilityZone>east-11</availabilityZone>",
    "<attachmentSet>",
    "</attachmentSet>",
    "<instanceId>node01</instanceId>",
    "<status>attached</status>",
    "<Response>",
    "</Response>",
    "<Errors>",
    "</Errors>",
    "<Error>",
    "</Error>",
    "<Code>Server.X</Code>",
    "&lt;",
    "&#0;",
    "<![CDATA[",
    "]]>",
    "\u{1b}\n",
];
