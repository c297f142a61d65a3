//! One logical read of many names, in as few calls as possible.
//!
//! One unknown name fails a whole call, so names that are likely to be absent are asked apart, a failed batch is
//! split, and when that would cost more calls than reading everything, everything is read.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::api::Api;
use super::kind::Kind;
use crate::cloud::{CallError, Rejection};

/// Answers by name; `Ok(None)` is proof of absence.
pub(super) type Seen<K> = HashMap<<K as Kind>::Name, Result<Option<<K as Kind>::Item>, CallError>>;

/// When the calls of one logical read were sent. What an answer tells was true at that moment or later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) first: Instant,
    pub(super) last: Instant,
}

/// Items that cost about as much to read as one more call.
const ITEMS_PER_CALL: usize = 1000;

pub(super) struct Reader {
    /// Size of the account as last seen; assumed to be small until it is known.
    total: AtomicUsize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            total: AtomicUsize::new(ITEMS_PER_CALL),
        }
    }
}

impl Reader {
    /// Reads `likely` in batches and `doubtful` (expected to be absent) apart from them.
    pub(super) async fn read<K: Kind>(
        &self,
        api: &Api,
        likely: Vec<K::Name>,
        doubtful: Vec<K::Name>,
    ) -> (Seen<K>, Option<Sent>) {
        let cap = api.config.names_per_read;
        let mut seen = Seen::<K>::with_capacity(likely.len() + doubtful.len());
        let expected = likely.len().div_ceil(cap) + doubtful.len();
        let mut work: Vec<Vec<K::Name>> = likely.chunks(cap).map(<[_]>::to_vec).collect();
        work.extend(doubtful.into_iter().map(|name| vec![name]));
        let mut sent = None;
        if expected > 1 && expected > self.cost_of_all() {
            let all = work.concat();
            self.read_all::<K>(api, all, &mut seen, &mut sent).await;
            return (seen, sent);
        }
        let mut failures = 0;
        while let Some(names) = work.pop() {
            let error = match api
                .read(K::ACTION, || {
                    note(&mut sent);
                    K::describe(&*api.cloud, &names)
                })
                .await
            {
                Ok(items) => {
                    fill::<K>(names, items, &mut seen);
                    continue;
                }
                Err(error) => error,
            };
            let kind = error.rejection();
            let about_a_name = kind == Some(K::ABSENT) || kind == Some(Rejection::Client);
            if names.len() == 1 && kind == Some(K::ABSENT) {
                seen.extend(names.into_iter().map(|name| (name, Ok(None))));
            } else if names.len() == 1 || !about_a_name {
                seen.extend(names.into_iter().map(|name| (name, Err(error.clone()))));
            } else {
                failures += 1;
                if failures > self.cost_of_all() {
                    work.push(names);
                    let all = work.concat();
                    self.read_all::<K>(api, all, &mut seen, &mut sent).await;
                    return (seen, sent);
                }
                work.extend(split::<K>(names, &error));
            }
        }
        (seen, sent)
    }

    fn cost_of_all(&self) -> usize {
        1 + self.total.load(Ordering::Relaxed) / ITEMS_PER_CALL
    }

    /// Remembers how many there are.
    pub(super) fn total(&self, items: usize) {
        self.total.store(items, Ordering::Relaxed);
    }

    async fn read_all<K: Kind>(
        &self,
        api: &Api,
        names: Vec<K::Name>,
        seen: &mut Seen<K>,
        sent: &mut Option<Sent>,
    ) {
        let call = || {
            note(sent);
            K::describe(&*api.cloud, &[])
        };
        match api.read(K::ACTION, call).await {
            Ok(items) => {
                self.total(items.len());
                fill::<K>(names, items, seen);
            }
            Err(error) => seen.extend(names.into_iter().map(|name| (name, Err(error.clone())))),
        }
    }
}

fn note(sent: &mut Option<Sent>) {
    let now = Instant::now();
    let first = sent.map_or(now, |sent| sent.first);
    *sent = Some(Sent { first, last: now });
}

fn fill<K: Kind>(names: Vec<K::Name>, items: Vec<K::Item>, seen: &mut Seen<K>) {
    let wanted: HashSet<&K::Name> = names.iter().collect();
    for item in items {
        if wanted.contains(K::name(&item)) {
            seen.insert(K::name(&item).clone(), Ok(Some(item)));
        }
    }
    for name in names {
        seen.entry(name).or_insert(Ok(None));
    }
}

/// Takes out the one name that the refusal quotes, else halves. The quoted name is asked again alone: a message is
/// a hint, not a proof.
fn split<K: Kind>(mut names: Vec<K::Name>, error: &CallError) -> [Vec<K::Name>; 2] {
    if let CallError::Rejected { message, .. } = error {
        let words: HashSet<&str> = message
            .split(|c: char| !(c.is_alphanumeric() || "-._".contains(c)))
            .map(|word| word.trim_end_matches('.'))
            .collect();
        let quoted = |name: &K::Name| words.contains(name.to_string().as_str());
        let hits: Vec<usize> = (0..names.len()).filter(|i| quoted(&names[*i])).collect();
        if let [only] = hits[..] {
            let bad = names.swap_remove(only);
            return [vec![bad], names];
        }
    }
    let half = names.split_off(names.len() / 2);
    [names, half]
}
