//! Disks in the VM's slots that are not this driver's, as far as the node can tell: it has no key to ask the cloud.
//!
//! A disk that has just come may be a volume on its way: attached, and not staged yet. The kubelet asks for the number of
//! volumes from time to time; counting such a disk would take its place away twice, and pods would wait for a place that
//! is free. So a disk counts once it has been there for a while. Those that were there when the plugin looked for the
//! first time count at once: where the kubelet does not ask again, that answer is the only one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::device::DevNo;

/// From the attachment of a volume to NodeStageVolume, at most, unless something is wrong.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// When each was seen first; `None`: there from the start.
type Since = HashMap<DevNo, Option<Instant>>;

/// The disks that are there; `None` before the first look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strangers(Arc<Mutex<Option<Since>>>);

impl Strangers {
    /// How many of those that are there at `now` are there to stay.
    pub(super) fn count(&self, there: &[DevNo], now: Instant) -> usize {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let came = table.as_ref().map(|_| now);
        let since = table.get_or_insert_default();
        since.retain(|disk, _| there.contains(disk));
        for disk in there {
            since.entry(*disk).or_insert(came);
        }
        let stays = |came: &Instant| now.saturating_duration_since(*came) >= ON_ITS_WAY;
        let counted = since.values();
        counted
            .filter(|came| came.as_ref().is_none_or(stays))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_on_its_way_to_be_staged_is_not_counted_and_one_that_stays_is() {
        let strangers = Strangers::default();
        let disk = |minor| DevNo { major: 8, minor };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            strangers.count(&[disk(1)], at(0)),
            1,
            "there from the start"
        );
        assert_eq!(strangers.count(&[disk(1), disk(2)], at(5)), 1);
        assert_eq!(strangers.count(&[disk(1), disk(2)], at(64)), 1);
        assert_eq!(strangers.count(&[disk(1), disk(2)], at(65)), 2);
        assert_eq!(strangers.count(&[disk(1)], at(70)), 1, "staged, or gone");
        assert_eq!(strangers.count(&[disk(1), disk(2)], at(80)), 1, "back");
        assert_eq!(strangers.count(&[disk(2)], at(140)), 1);
        assert_eq!(strangers.count(&[], at(150)), 0);
        assert_eq!(strangers.count(&[disk(1)], at(151)), 0);
    }
}
