//! A bounded log of what an operator should know.

use crate::kv::Kv;
use crate::table::{self, EVENT, KeyBuf, KeyReader, Row, RowError, system};
use serde::{Deserialize, Serialize};

/// Events kept; older ones go.
pub const EVENTS_MAX: u64 = 1024;
/// Longest text of an event, in bytes.
pub const EVENT_TEXT_MAX: usize = 1024;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number, from 1.
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// What happened.
    pub text: String,
}

#[derive(Serialize, Deserialize)]
struct EventRow {
    time: i64,
    text: String,
}
impl Row for EventRow {}

fn key(seq: u64) -> KeyBuf {
    KeyBuf::table(EVENT).u64(seq)
}

/// Appends an event, cutting its text at a character within [`EVENT_TEXT_MAX`], and forgets the oldest beyond
/// [`EVENTS_MAX`].
pub fn append<K: Kv>(kv: &mut K, time: i64, text: &str) {
    let seq = table::counter(kv, system::NEXT_EVENT, 1);
    let text = text[..text.floor_char_boundary(EVENT_TEXT_MAX)].to_owned();
    table::put(kv, &key(seq), &EventRow { time, text });
    table::set_counter(kv, system::NEXT_EVENT, seq.saturating_add(1));
    if let Some(old) = seq.checked_sub(EVENTS_MAX) {
        kv.delete(&key(old));
    }
}

/// The newest `count` events, oldest first.
pub fn newest<K: Kv>(kv: &K, count: usize) -> Vec<Event> {
    let mut list: Vec<Event> = table::scan::<EventRow, K>(kv, &[EVENT])
        .rev()
        .take(count)
        .map(|(k, row)| Event { seq: KeyReader::new(&k).u64().unwrap_or_default(), time: row.time, text: row.text })
        .collect();
    list.reverse();
    list
}

/// Reads every row of this module.
pub fn open<K: Kv>(kv: &K) -> Result<(), RowError> {
    table::read_all::<EventRow, K>(kv, EVENT, |mut k, _| {
        k.u64()?;
        k.end(())
    })
}

/// Are the newest events there, numbered without gaps?
pub fn check<K: Kv>(kv: &K) -> Result<(), String> {
    let next = table::counter(kv, system::NEXT_EVENT, 1);
    let want = next.saturating_sub(EVENTS_MAX).max(1)..next;
    let have = newest(kv, usize::MAX);
    if have.iter().map(|e| e.seq).ne(want.clone()) {
        return Err(format!("events {want:?} expected, {} stand in the table", have.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;

    #[test]
    fn the_log_is_bounded_and_numbers_go_on() {
        let mut kv = MemoryKv::default();
        for i in 0..EVENTS_MAX + 10 {
            append(&mut kv, i as i64, &format!("event {i}"));
            if i % 100 == 0 {
                check(&kv).unwrap();
            }
        }
        check(&kv).unwrap();
        let all = newest(&kv, usize::MAX);
        assert_eq!(all.len() as u64, EVENTS_MAX);
        assert_eq!((all[0].seq, &*all[0].text), (11, "event 10"));
        let two = newest(&kv, 2);
        assert_eq!(two.iter().map(|e| e.seq).collect::<Vec<_>>(), [EVENTS_MAX + 9, EVENTS_MAX + 10]);
        kv.delete(&key(500));
        assert!(check(&kv).is_err());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut kv = MemoryKv::default();
        append(&mut kv, 0, &"ä".repeat(EVENT_TEXT_MAX));
        append(&mut kv, 0, &format!("x{}", "ä".repeat(EVENT_TEXT_MAX)));
        let all = newest(&kv, 9);
        assert_eq!(all[0].text.len(), EVENT_TEXT_MAX);
        assert_eq!(all[1].text.len(), EVENT_TEXT_MAX - 1);
        open(&kv).unwrap();
    }
}
