//! What stands on disks: batches of a journal, segments of a log, superblocks, leaves. A folder that was changed opens, or
//! is refused; it never ends the process, and what opens opens again as the same.

use super::{Target, number, own_crc, put};
use host::disk::Folder;
use host::memory::MemoryDisk;
use journal::{BatchHeader, RecordHead, Start, encode_batch};
use types::BootVerifier;

pub fn all() -> Vec<Target> {
    vec![
        Target { name: "journal", seeds: batches, mend: Some(mend_batch), run: batch },
        Target { name: "raft-log", seeds: log_changes, mend: None, run: log },
        Target { name: "superblock", seeds: || changes(8), mend: None, run: |b| open_store(b, Some("super")) },
        Target { name: "leaves", seeds: || changes(24), mend: None, run: |b| open_store(b, Some("map-")) },
        Target { name: "store", seeds: || changes(24), mend: None, run: |b| open_store(b, None) },
    ]
}

const RUNNING: &[u8] = include_bytes!("../../../crates/data/chunk-store/tests/golden/v1-running.img");
const STOPPED: &[u8] = include_bytes!("../../../crates/data/chunk-store/tests/golden/v1-stopped.img");
const LOG: [(&str, &[u8]); 3] = [
    ("super", include_bytes!("../../../crates/data/raft-log/tests/golden/v1/super")),
    ("log-00000001", include_bytes!("../../../crates/data/raft-log/tests/golden/v1/log-00000001")),
    (
        "snap-0000000000000004-00000002",
        include_bytes!("../../../crates/data/raft-log/tests/golden/v1/snap-0000000000000004-00000002"),
    ),
];

/// A golden image of the chunk store as a disk. Per file: length of the name u8, name, size u64, count u32; per block that
/// is not zero: number u32, n u16, n bytes; n = 65535 is one byte that fills the block.
pub fn store(which: &str) -> MemoryDisk {
    let mut left = if which == "running" { RUNNING } else { STOPPED };
    let mut disk = MemoryDisk::new();
    let mut take = |n: usize| {
        let (x, rest) = left.split_at(n);
        left = rest;
        (x, rest.is_empty())
    };
    loop {
        let n = usize::from(take(1).0[0]);
        let name = String::from_utf8_lossy(take(n).0).into_owned();
        let mut size = [0; 8];
        size.copy_from_slice(take(8).0);
        let file = disk.create(&name, u64::from_le_bytes(size)).expect("a disk in memory has room");
        let (count, mut end) = take(4);
        for _ in 0..number(count, 0) {
            let at = number(take(4).0, 0);
            let n = take(2).0;
            let n = u16::from_le_bytes([n[0], n[1]]);
            let (bytes, e) = take(if n == u16::MAX { 1 } else { n.into() });
            let mut block = vec![if n == u16::MAX { bytes[0] } else { 0 }; 4096];
            block[..bytes.len()].copy_from_slice(bytes);
            disk.write(file, u64::from(at) * 4096, &block).expect("a disk in memory writes");
            end = e;
        }
        disk.flush(file).expect("a disk in memory flushes");
        if end {
            return disk;
        }
    }
}
/// All of a file.
pub fn bytes_of(disk: &MemoryDisk, name: &str) -> Vec<u8> {
    let mut disk = disk.clone();
    let size = disk.list().unwrap_or_default().into_iter().find(|f| f.0 == name).map_or(0, |f| f.1);
    match disk.open(name) {
        Ok(f) => disk.read(f, 0, size as usize).map(|b| b.to_vec()).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Changes to files, eight bytes each: file u8, what u8 (even: one byte; odd: a word; 128 and more: and mend the block's
/// own checksum, where it has one at 4 or 8), place u16 among the blocks that are used, place in the block u16, value u16.
fn changes(n: usize) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for i in 0..n as u8 {
        let what = if i % 2 == 0 { 129 } else { 1 };
        all.push(vec![i % 5, what, i, 0, i.wrapping_mul(8), 0, 255 - i, 1]);
    }
    all
}

fn apply(disk: &mut MemoryDisk, names: &[String], b: &[u8]) {
    for c in b.chunks_exact(8).take(64) {
        let Some(name) = names.get(usize::from(c[0]) % names.len().max(1)) else { return };
        let bytes = bytes_of(disk, name);
        let used: Vec<usize> =
            bytes.chunks(4096).enumerate().filter(|(_, x)| x.iter().any(|y| *y != 0)).map(|(i, _)| i).collect();
        let place = usize::from(u16::from_le_bytes([c[2], c[3]]));
        let Some(block) = used.get(place % used.len().max(1)) else { continue };
        let mut data = bytes[block * 4096..(block * 4096 + 4096).min(bytes.len())].to_vec();
        let at = usize::from(u16::from_le_bytes([c[4], c[5]])) % data.len();
        data[at] = c[6];
        if c[1] % 2 == 1 && at + 1 < data.len() {
            data[at + 1] = c[7];
        }
        if c[1] >= 128 && data.len() == 4096 {
            let crc_at = if c[1] & 64 == 0 { 4 } else { 8 };
            let crc = own_crc(&data, crc_at);
            put(&mut data, crc_at, crc);
        }
        if let Ok(f) = disk.open(name) {
            let written = disk.write(f, *block as u64 * 4096, &data).and_then(|()| disk.flush(f));
            written.expect("a disk in memory writes");
        }
    }
}
fn names(disk: &MemoryDisk, only: Option<&str>) -> Vec<String> {
    let all = disk.clone().list().unwrap_or_default().into_iter().map(|f| f.0);
    let chosen: Vec<String> = all.filter(|n| only.is_none_or(|o| n.starts_with(o))).collect();
    chosen
}

fn open_store(b: &[u8], only: Option<&str>) -> Result<(), String> {
    let which = if b.len().is_multiple_of(2) { "running" } else { "stopped" };
    let mut disk = store(which);
    let mut found = names(&disk, only);
    if found.is_empty() {
        found = names(&disk, None);
    }
    apply(&mut disk, &found, b);
    let options = || chunk_store::OpenOptions::new(BootVerifier(77));
    let Ok((first, _)) = chunk_store::open(&mut disk.clone(), None, options()) else { return Ok(()) };
    let was: Vec<_> = first.copies().map(|c| (c.chunk, c.copy, c.last)).collect();
    drop(first);
    match chunk_store::open(&mut disk.clone(), None, options()) {
        Ok((second, _)) => {
            let now: Vec<_> = second.copies().map(|c| (c.chunk, c.copy, c.last)).collect();
            if was == now { Ok(()) } else { Err(format!("it held {was:?} and holds {now:?} at the next start")) }
        }
        Err(e) => Err(format!("a folder that was opened is refused at the next start: {e}")),
    }
}

fn log_changes() -> Vec<Vec<u8>> {
    changes(30)
}
fn log(b: &[u8]) -> Result<(), String> {
    let mut disk = MemoryDisk::new();
    for (name, bytes) in LOG {
        let file = disk.create(name, bytes.len() as u64).expect("a disk in memory has room");
        disk.write(file, 0, bytes).and_then(|()| disk.flush(file)).expect("a disk in memory writes");
    }
    let found = names(&disk, None);
    apply(&mut disk, &found, b);
    let options = raft_log::OpenOptions::default();
    let Ok((_, was)) = raft_log::open(&mut disk.clone(), &options) else { return Ok(()) };
    match raft_log::open(&mut disk.clone(), &options) {
        Ok((_, now)) if (now.hard, now.base, &now.entries) == (was.hard, was.base, &was.entries) => Ok(()),
        Ok(_) => Err("the log holds something else at the next start".into()),
        Err(e) => Err(format!("a log that was opened is refused at the next start: {e}")),
    }
}

fn batches() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for which in ["running", "stopped"] {
        let bytes = bytes_of(&store(which), "journal");
        let blocks = bytes.chunks(4096).filter(|b| BatchHeader::peek(b).is_ok());
        all.extend(blocks.take(16).map(<[u8]>::to_vec));
    }
    all.push(vec![0; 4096]);
    all
}
fn mend_batch(b: &mut Vec<u8>) {
    b.resize(b.len().next_multiple_of(4096).max(4096), 0);
    let len = b.len() as u32;
    put(b, 52, len);
    let crc = own_crc(b, 8);
    put(b, 8, crc);
}
fn batch(b: &[u8]) -> Result<(), String> {
    if let Ok((r, n)) = RecordHead::decode(b) {
        let mut out = vec![0; r.encoded_len()];
        r.encode_into(&mut out);
        if out[..] != b[..n] {
            return Err(format!("{r:?} is written as something else than it was read from"));
        }
    }
    if let Ok((h, records)) = BatchHeader::decode(b) {
        let (again, bytes) = encode_batch(h, &records.iter().collect::<Vec<_>>());
        if again != h || bytes[..] != *b {
            return Err(format!("{h:?} is written as something else than it was read from"));
        }
    }
    // As a ring of its own, read from its beginning.
    let size = (b.len() / 4096 * 4096) as u64;
    if size > 0 {
        let mut disk = MemoryDisk::new();
        let base = journal::JOURNAL_DATA_START;
        let f = disk.create("journal", base + size).map_err(|e| e.to_string())?;
        disk.write(f, base, &b[..size as usize]).map_err(|e| e.to_string())?;
        let start = BatchHeader::peek(b).map_or(Start { pos: 0, seq: 1, record: 1, life: 0 }, |h| Start {
            pos: 0,
            seq: h.seq,
            record: h.first,
            life: h.life,
        });
        journal::scan(&mut disk, f, size, start).map_err(|e| e.to_string())?;
    }
    Ok(())
}
