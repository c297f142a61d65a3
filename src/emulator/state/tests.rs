use super::*;

fn books(disks: &[&str]) -> State {
    let mut state = State::default();
    state.insert_vm("vm1", "z", "running");
    state.insert_vm("vm2", "z", "running");
    for name in disks {
        put(&mut state, name);
    }
    state
}

fn put(state: &mut State, name: &str) {
    let unique_id = state.unique_id("vol");
    state.insert_disk(DiskRecord {
        name: name.to_owned(),
        unique_id,
        size: 100,
        disk_type: "Standard Flash Storage A".to_owned(),
        zone: "z".to_owned(),
        accounting: "2".to_owned(),
        next_accounting: "2".to_owned(),
        description: String::new(),
        created: String::new(),
        attachment: None,
        change: None,
    });
}

fn plug(state: &mut State, disk: &str, vm: &str) -> Result<u8, Refusal> {
    state.begin_attach(disk, vm, "now", Change::Attach)?;
    state.finish(disk);
    Ok(state.disks[disk].attachment.as_ref().unwrap().target)
}

#[test]
fn the_lowest_free_slot_is_taken_seven_never_and_the_fifteenth_disk_is_refused() {
    let names: Vec<String> = (0..16).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut state = books(&names);
    let targets: Vec<u8> = names[..14]
        .iter()
        .map(|name| plug(&mut state, name, "vm1").unwrap())
        .collect();
    assert_eq!(targets, TARGETS);
    let full = plug(&mut state, "d14", "vm1").unwrap_err();
    assert!(
        full.code.starts_with("Client.ResourceLimitExceeded"),
        "{full:?}"
    );
    assert_eq!(state.disks["d14"].attachment, None);
    for gone in ["d8", "d2"] {
        state.begin(gone, Change::Detach);
        state.finish(gone);
    }
    assert_eq!(plug(&mut state, "d14", "vm1").unwrap(), 3);
    assert_eq!(plug(&mut state, "d15", "vm1").unwrap(), 10);
}

#[test]
fn a_vm_and_its_disk_are_busy_from_begin_to_finish() {
    let mut state = books(&["d", "e"]);
    state
        .begin_attach("d", "vm1", "now", Change::Attach)
        .unwrap();
    assert_eq!(state.disks["d"].status(), "in-use");
    assert_eq!(state.disks["d"].attachment_status(), "attaching");
    let busy = state.vm_ready("vm1", true).unwrap_err();
    assert_eq!(
        busy.code,
        "Server.ResourceIncorrectState.Instance.Processing"
    );
    assert!(state.vm_ready("vm1", false).is_ok());
    assert!(state.vm_ready("vm2", true).is_ok());
    assert!(state.disk_ready("d").is_err());
    state.finish("d");
    assert!(state.vm_ready("vm1", true).is_ok());
    state.begin("d", Change::Extend);
    assert_eq!(state.disks["d"].attachment_status(), "attaching");
    assert_eq!(state.disks["d"].size, 100);
    state.finish("d");
    assert_eq!(state.disks["d"].size, 200);
}

#[test]
fn a_change_that_failed_underneath_leaves_nothing_busy_or_plugged() {
    let mut state = books(&["d"]);
    state
        .begin_attach("d", "vm1", "now", Change::Create)
        .unwrap();
    state.abandon("d");
    assert_eq!(state.disks["d"].status(), "available");
    assert!(state.vms["vm1"].slots.is_empty() && state.vms["vm1"].busy.is_empty());
    plug(&mut state, "d", "vm1").unwrap();
    state.begin("d", Change::Extend);
    state.abandon("d");
    assert_eq!(state.disks["d"].size, 100);
    assert!(state.disks["d"].attachment.is_some() && state.vms["vm1"].busy.is_empty());
}

#[test]
fn names_move_with_their_disk_and_vm() {
    let mut state = books(&["d", "other"]);
    plug(&mut state, "d", "vm1").unwrap();
    assert!(state.rename_disk("d", "other").is_err());
    state.rename_disk("d", "d2").unwrap();
    assert_eq!(state.vms["vm1"].slots[&1], "d2");
    assert!(state.rename_vm("vm1", "vm2").is_err());
    state.rename_vm("vm1", "vm9").unwrap();
    assert_eq!(state.disks["d2"].attachment.as_ref().unwrap().vm, "vm9");
    assert!(state.retired.contains("vm1") && !state.vms.contains_key("vm1"));
    assert!(state.disk("d").is_err());
}

#[test]
fn what_changed_is_noted_once_and_nothing_else() {
    let mut state = books(&["d", "e"]);
    state.take_touched();
    plug(&mut state, "d", "vm1").unwrap();
    let touched = state.take_touched();
    assert!(touched.disks.iter().eq(["d"]) && touched.vms.iter().eq(["vm1"]));
    state.rename_disk("d", "f").unwrap();
    assert!(state.take_touched().disks.iter().eq(["d", "f"]));
    assert!(state.take_touched().disks.is_empty());
}

#[test]
fn unique_ids_do_not_repeat() {
    let mut state = State::default();
    let ids: BTreeSet<String> = (0..100_000).map(|_| state.unique_id("vol")).collect();
    assert_eq!(ids.len(), 100_000);
}
