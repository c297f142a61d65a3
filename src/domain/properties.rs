//! Promises of the pure parts, on inputs that nobody thought of.

use proptest::prelude::*;

use super::disk::Accounting;
use super::id::{DISK_NAME_MAX, DiskName, VmName};
use super::journal::{DESCRIPTION_MAX, Phase, describe, free, lend, lent_to, publish};
use super::params::{ClassParams, DiskType, TYPES, parse_mutable};
use super::size::{CapacityRange, DiskSize, GIB, MAX_GIB, STEP_GIB, SizeError};

const STEP: u64 = STEP_GIB as u64 * GIB;

/// CSI names: claims of Kubernetes, and anything from 1 to 128 characters.
fn names() -> impl Strategy<Value = String> {
    let claim = (any::<u128>(), "[a-z]{1,8}", any::<bool>()).prop_map(|(id, prefix, upper)| {
        let uuid = uuid(id);
        format!(
            "{prefix}-{}",
            if upper { uuid.to_uppercase() } else { uuid }
        )
    });
    prop_oneof![claim, "[A-Za-z0-9._-]{1,128}", "(?s).{1,128}"]
}

fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// The same text, each letter in either case.
fn any_case(text: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), text.len()).prop_map(move |upper| {
        let letters = text.chars().zip(upper);
        letters
            .map(|(c, upper)| {
                if upper {
                    c.to_ascii_uppercase()
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect()
    })
}

/// Bytes around every step up to beyond the largest disk, and anywhere.
fn bytes() -> impl Strategy<Value = i64> {
    let near = (0_u64..=90, -2_i64..=2)
        .prop_map(|(steps, off)| i64::try_from(steps * STEP).unwrap() + off);
    prop_oneof![4 => near, 1 => any::<i64>(), 1 => 0_i64..1 << 43]
}

proptest! {
    #[test]
    fn a_name_gives_one_disk_name_that_the_api_accepts(name in names(), other in names()) {
        let disk = DiskName::from_csi_name(&name);
        prop_assert_eq!(&disk, &DiskName::from_csi_name(&name));
        prop_assert_eq!(&disk, &DiskName::parse(disk.as_str()).unwrap());
        prop_assert_eq!(disk.as_str().len(), DISK_NAME_MAX);
        prop_assert_ne!(disk.fs_uuid(), DiskName::from_csi_name(&format!("{name}x")).fs_uuid());
        if name != other {
            prop_assert_ne!(disk, DiskName::from_csi_name(&other));
        }
    }

    #[test]
    fn a_claims_disk_is_named_by_its_uuid_whatever_the_prefix(id in any::<u128>(), prefix in "[a-z]{1,20}") {
        let disk = DiskName::from_csi_name(&format!("{prefix}-{}", uuid(id)));
        prop_assert_eq!(disk.as_str(), format!("{id:032x}"));
        let file_system = disk.fs_uuid();
        prop_assert_eq!(file_system.as_str(), uuid(id));
    }

    #[test]
    fn no_handle_or_node_id_makes_a_name_that_breaks_the_rules(text in "(?s).{0,140}") {
        if let Ok(disk) = DiskName::parse(&text) {
            prop_assert!(text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric()));
            prop_assert_eq!(disk.as_str(), text.as_str());
        }
        if let Ok(vm) = VmName::parse(&text) {
            prop_assert!(text.len() <= 63 && text.is_ascii() && !text.contains(char::is_whitespace));
            prop_assert_eq!(vm.as_str(), text.as_str());
        }
    }

    #[test]
    fn a_size_is_the_smallest_step_in_the_range_or_there_is_none(
        required in bytes(),
        limit in bytes(),
        row in 0..TYPES.len(),
    ) {
        let max = DiskType::parse(TYPES[row].class).unwrap().largest();
        let Ok(range) = CapacityRange::new(required, limit) else {
            prop_assert!(required < 0 || limit < 0 || (limit > 0 && required > limit));
            return Ok(());
        };
        let (required, limit) = (range.required(), range.limit().unwrap_or(u64::MAX));
        // By trying every step there is.
        let steps = (1..=max.gib() / STEP_GIB).map(|n| u64::from(n) * STEP);
        let right = steps.into_iter().find(|bytes| *bytes >= required);
        match range.smallest_disk(max) {
            Ok(size) => {
                prop_assert_eq!(Some(size.bytes()), right);
                prop_assert!(size.bytes() <= limit && size.fits(range));
            }
            Err(SizeError::TooLarge { .. }) => prop_assert_eq!(right, None),
            Err(SizeError::NoStep { .. }) => prop_assert!(right.is_some_and(|bytes| bytes > limit)),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_disk_of_any_size_fits_exactly_the_ranges_that_hold_it(
        gib in 1..=MAX_GIB,
        required in bytes(),
        limit in bytes(),
    ) {
        let size = DiskSize::from_gib(gib).unwrap();
        if let Ok(range) = CapacityRange::new(required, limit) {
            let above = range.limit().is_some_and(|limit| size.bytes() > limit);
            prop_assert_eq!(size.fits(range), size.bytes() >= range.required() && !above);
        }
        prop_assert_eq!(u64::try_from(size.csi_bytes()).unwrap(), size.bytes());
    }

    #[test]
    fn parameters_are_read_in_any_letter_case(
        keys in (any_case("type"), any_case("accountingType"), any_case("accountingType")),
        group in any_case("high-speed-flash-b"),
        billing in any_case("monthly"),
    ) {
        let pairs = [(keys.0.as_str(), group.as_str()), (keys.1.as_str(), billing.as_str())];
        let class = ClassParams::parse(pairs.into_iter()).unwrap();
        prop_assert_eq!(class.disk_type.codes, ["9"]);
        prop_assert_eq!(class.accounting, Accounting::Monthly);
        let mutable = [(keys.2.as_str(), billing.as_str())];
        prop_assert_eq!(parse_mutable(mutable.into_iter()), Ok(Some(Accounting::Monthly)));
        // A map may hold both spellings; which one is meant cannot be known.
        let twice = [(keys.1.as_str(), "hourly"), (keys.2.as_str(), "hourly")];
        prop_assert!(ClassParams::parse(twice.into_iter()).is_err());
        prop_assert!(parse_mutable(twice.into_iter()).is_err());
    }

    #[test]
    fn no_parameters_make_it_panic_and_messages_stay_bounded(
        pairs in prop::collection::vec(("(?s).{0,300}", "(?s).{0,300}"), 0..5),
    ) {
        let read = || pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let errors = [ClassParams::parse(read()).err(), parse_mutable(read()).err()];
        for error in errors.into_iter().flatten() {
            let text = error.to_string();
            prop_assert!(text.chars().count() < 4096);
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn the_journal_holds_every_name_in_every_phase(name in names(), vm in "[a-z0-9]{1,15}") {
        let vm = VmName::parse(&vm).unwrap();
        let born = describe(Phase::New, &name);
        let published = publish(&born).unwrap();
        let lent = lend(&published, &vm).unwrap();
        let back = publish(&lent).unwrap();
        let unlent = free(&lent).unwrap();
        for (text, phase) in [
            (&born, Phase::New),
            (&published, Phase::Published),
            (&lent, Phase::Growing),
            (&unlent, Phase::Free),
            (&back, Phase::Published),
        ] {
            prop_assert!(text.is_ascii() && text.len() <= DESCRIPTION_MAX, "{text}");
            prop_assert_eq!(Phase::of(text), phase);
            prop_assert_eq!(lent_to(text, &vm), phase == Phase::Growing);
        }
        prop_assert_eq!(&published, &describe(Phase::Published, &name));
        prop_assert!(published.starts_with(&back), "{published} {back}");
        prop_assert_eq!(lend(&back, &vm).unwrap(), lent);
    }

    #[test]
    fn a_claims_description_comes_back_whole_from_a_lending(id in any::<u128>(), vm in "[a-z0-9]{1,15}") {
        let vm = VmName::parse(&vm).unwrap();
        let before = describe(Phase::Published, &format!("pvc-{}", uuid(id)));
        let lent = lend(&before, &vm).unwrap();
        prop_assert_eq!(publish(&free(&lent).unwrap()), Some(before.clone()));
        prop_assert_eq!(publish(&lent), Some(before));
    }

    #[test]
    fn a_description_that_a_person_wrote_is_never_changed(text in "(?s).{0,60}") {
        let foreign = Phase::of(&text) == Phase::Foreign;
        let vm = VmName::parse("node1").unwrap();
        prop_assert_eq!(publish(&text).is_none(), foreign);
        prop_assert_eq!(lend(&text, &vm).is_none(), foreign);
        prop_assert!(!foreign || !lent_to(&text, &vm));
    }
}
