//! The log in memory that outlives the process: every record stands here from its acceptance until the journal on disk
//! has it. Entries are written payload first and header last, so that a kill leaves whole entries only.

use crate::{JournalError, RecordHead, put_u32, put_u64, u32_at, u64_at};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::Ring;

/// First byte of the entries within the ring.
pub const RING_DATA_START: usize = 4096;
const RING_MAGIC: u32 = 0x4752_5350; // "PSRG"
const ENTRY_MAGIC: u32 = 0x4552_5350; // "PSRE"
const TAIL_MAGIC: u32 = 0x5452_5350; // "PSRT"
const VERSION: u32 = 1;
const ENTRY_LEN: usize = 64;
const TAIL_SLOTS: [usize; 2] = [1024, 2048];

/// A record found in the ring.
#[derive(Clone, Debug)]
pub struct RingEntry {
    /// Its number.
    pub record: u64,
    /// Its head.
    pub head: RecordHead,
    /// Its payload, at an aligned address.
    pub payload: Bytes,
}

/// The ring, opened.
pub struct SharedLog {
    ring: Box<dyn Ring>,
    id: u64,
    area: u64,
    tail: u64,
    head: u64,
    /// End position of each entry, oldest first.
    ends: std::collections::VecDeque<(u64, u64)>,
    next: u64,
    /// Every write of the records up to here has ended.
    written: u64,
    life: u32,
    turns: u64,
    scratch: Vec<u8>,
}

fn crc_of(head: &[u8], rest: &[u8]) -> u32 {
    checksum::of_parts(&[&head[..4], &[0; 4], &head[8..], rest])
}

impl SharedLog {
    /// Id in the header of `ring`, if it has a good one.
    pub fn id_of(ring: &dyn Ring) -> Option<u64> {
        if ring.size() < RING_DATA_START + 4096 {
            return None;
        }
        let b = ring.read(0, 64);
        (u32_at(&b, 0) == RING_MAGIC && u32_at(&b, 8) == VERSION && crc_of(&b, &[]) == u32_at(&b, 4))
            .then(|| u64_at(&b, 16))
    }

    /// Makes `ring` a new, empty log. Record `next` will be its first. Error: smaller than two pages.
    pub fn create(ring: Box<dyn Ring>, id: u64, next: u64, life: u32) -> Result<SharedLog, JournalError> {
        if ring.size() < RING_DATA_START + 4096 {
            return Err(JournalError::Short);
        }
        let mut log = SharedLog::over(ring, id);
        log.reset(next, life);
        let mut b = [0u8; 64];
        put_u32(&mut b, 0, RING_MAGIC);
        put_u32(&mut b, 8, VERSION);
        put_u64(&mut b, 16, id);
        let crc = crc_of(&b, &[]);
        put_u32(&mut b, 4, crc);
        log.ring.write(0, &b);
        Ok(log)
    }

    fn over(ring: Box<dyn Ring>, id: u64) -> SharedLog {
        let area = ((ring.size() - RING_DATA_START) / ENTRY_LEN * ENTRY_LEN) as u64;
        SharedLog {
            ring,
            id,
            area,
            tail: 0,
            head: 0,
            ends: Default::default(),
            next: 0,
            written: 0,
            life: 0,
            turns: 0,
            scratch: Vec::new(),
        }
    }

    /// Opens an existing log and reads its entries, oldest first. Errors: not a ring, or no good tail.
    pub fn open(ring: Box<dyn Ring>) -> Result<(SharedLog, Vec<RingEntry>), JournalError> {
        let id = SharedLog::id_of(&*ring).ok_or(JournalError::Magic)?;
        let mut log = SharedLog::over(ring, id);
        let mut best: Option<Vec<u8>> = None;
        for slot in TAIL_SLOTS {
            let b = log.ring.read(slot, 64);
            let good = u32_at(&b, 0) == TAIL_MAGIC && crc_of(&b, &[]) == u32_at(&b, 4);
            if good && best.as_ref().is_none_or(|x| u64_at(x, 16) < u64_at(&b, 16)) {
                best = Some(b);
            }
        }
        let b = best.ok_or(JournalError::Crc)?;
        (log.life, log.turns, log.tail) = (u32_at(&b, 8), u64_at(&b, 16), u64_at(&b, 24));
        (log.head, log.next, log.written) = (log.tail, u64_at(&b, 32), u64_at(&b, 40));
        let mut found = Vec::new();
        while let Some((e, end)) = log.entry() {
            log.head = end;
            log.ends.push_back((log.next, end));
            log.next += 1;
            found.push(e);
        }
        Ok((log, found))
    }

    fn entry(&self) -> Option<(RingEntry, u64)> {
        let room = self.area - (self.head - self.tail);
        if room < ENTRY_LEN as u64 {
            return None;
        }
        let b = self.get(self.head, ENTRY_LEN);
        let (head_len, payload_len) = (u64::from(u32_at(&b, 32)), u64::from(u32_at(&b, 36)));
        let same = u32_at(&b, 0) == ENTRY_MAGIC
            && u64_at(&b, 8) == self.next
            && u64_at(&b, 16) == self.head
            && u32_at(&b, 24) == self.life;
        if !same || ENTRY_LEN as u64 + head_len + payload_len > room {
            return None;
        }
        let raw = self.get(self.head + ENTRY_LEN as u64, head_len as usize);
        if crc_of(&b, &raw) != u32_at(&b, 4) {
            return None;
        }
        let (head, _) = RecordHead::decode(&raw).ok()?;
        let payload = self.get(self.head + ENTRY_LEN as u64 + head_len, payload_len as usize);
        let payload = AlignedBuf::from_slice(&payload).freeze();
        let end = self.head + (ENTRY_LEN as u64 + head_len + payload_len).next_multiple_of(ENTRY_LEN as u64);
        Some((RingEntry { record: self.next, head, payload }, end))
    }

    fn get(&self, pos: u64, len: usize) -> Vec<u8> {
        let at = (pos % self.area) as usize;
        let room = self.area as usize - at;
        let mut b = self.ring.read(RING_DATA_START + at, len.min(room));
        if len > room {
            b.extend_from_slice(&self.ring.read(RING_DATA_START, len - room));
        }
        b
    }
    fn put(&mut self, pos: u64, data: &[u8]) {
        let at = (pos % self.area) as usize;
        let (a, b) = data.split_at(data.len().min(self.area as usize - at));
        self.ring.write(RING_DATA_START + at, a);
        if !b.is_empty() {
            self.ring.write(RING_DATA_START, b);
        }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// Number the next appended record must have.
    pub fn next(&self) -> u64 {
        self.next
    }
    /// Every write of the records up to here had ended, as far as the ring was told: what of them is not on the disk now
    /// was damaged there, as long as the host's memory lives.
    pub fn written(&self) -> u64 {
        self.written
    }
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Forgets all entries; record `next` will be the first one.
    pub fn reset(&mut self, next: u64, life: u32) {
        self.tail = self.head;
        self.next = next;
        self.life = life;
        self.ends.clear();
        self.store_tail(next);
    }

    /// Appends record `record` with its payload. False, and nothing done, when it is not the next one or does not fit.
    pub fn append(&mut self, record: u64, head: &RecordHead, payload: &[Bytes]) -> bool {
        let head_len = head.encoded_len();
        let total = (ENTRY_LEN + head_len + head.payload_len as usize).next_multiple_of(ENTRY_LEN) as u64;
        if record != self.next || self.used() + total > self.area {
            return false;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.resize(ENTRY_LEN + head_len, 0);
        head.encode_into(&mut scratch[ENTRY_LEN..]);
        put_u32(&mut scratch, 0, ENTRY_MAGIC);
        put_u64(&mut scratch, 8, record);
        put_u64(&mut scratch, 16, self.head);
        put_u32(&mut scratch, 24, self.life);
        put_u32(&mut scratch, 32, head_len as u32);
        put_u32(&mut scratch, 36, head.payload_len);
        let crc = crc_of(&scratch[..ENTRY_LEN], &scratch[ENTRY_LEN..]);
        put_u32(&mut scratch, 4, crc);
        let mut at = self.head + (ENTRY_LEN + head_len) as u64;
        for p in payload {
            self.put(at, p);
            at += p.len() as u64;
        }
        self.put(self.head + ENTRY_LEN as u64, &scratch[ENTRY_LEN..]);
        self.put(self.head, &scratch[..ENTRY_LEN]);
        self.scratch = scratch;
        self.head += total;
        self.next += 1;
        self.ends.push_back((record, self.head));
        true
    }

    /// The journal on disk has every record up to `record`: gives their room back. Every other write of the records up to
    /// `written` has ended too.
    pub fn release(&mut self, record: u64, written: u64) {
        let before = (self.tail, self.written);
        while let Some((r, end)) = self.ends.front().copied().filter(|e| e.0 <= record) {
            self.tail = end;
            self.ends.pop_front();
            if self.ends.is_empty() {
                debug_assert!(r < self.next, "entries end before the next record");
            }
        }
        self.written = self.written.max(written);
        if (self.tail, self.written) != before {
            let oldest = self.ends.front().map_or(self.next, |e| e.0);
            self.store_tail(oldest);
        }
    }

    fn store_tail(&mut self, oldest: u64) {
        self.turns += 1;
        let mut b = [0u8; 64];
        put_u32(&mut b, 0, TAIL_MAGIC);
        put_u32(&mut b, 8, self.life);
        put_u64(&mut b, 16, self.turns);
        put_u64(&mut b, 24, self.tail);
        put_u64(&mut b, 32, oldest);
        put_u64(&mut b, 40, self.written);
        let crc = crc_of(&b, &[]);
        put_u32(&mut b, 4, crc);
        self.ring.write(TAIL_SLOTS[(self.turns % 2) as usize], &b);
    }
}
