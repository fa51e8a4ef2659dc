//! The simulated disk under a process: operations that take time, end in any order, fail, and are caught half done when
//! the process or the power goes.

use crate::rng::Rng;
use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, FileId, Tag};
use host::memory::MemoryDisk;
use std::collections::BTreeMap;

const US: u64 = 1_000;

/// How much of what was not flushed survives a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tear {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// Each sector by itself, with this many percent.
    Sectors(u32),
    /// Each block by itself, with this many percent.
    Blocks(u32),
}

/// What a disk does with a write instead of what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Nothing.
    Lost,
    /// It puts it so many bytes into the file.
    Misplaced(u64),
}

struct InFlight {
    tag: Tag,
    op: DiskOp,
    /// For a flush: how many writes of the file had completed when it was submitted.
    covers: u64,
}

/// A slot's disk and the operations on their way to it.
pub struct Disk {
    /// The contents; they survive processes.
    pub memory: MemoryDisk,
    in_flight: BTreeMap<u64, InFlight>,
    next: u64,
    /// Times are multiplied by this.
    pub slowness: u64,
    /// Every write and flush fails from now on.
    pub failing: bool,
    /// What becomes of the next write of this file.
    pub lie: Option<(FileId, Lie)>,
}

impl Disk {
    /// An empty, healthy disk.
    pub fn new() -> Disk {
        Disk { memory: MemoryDisk::new(), in_flight: BTreeMap::new(), next: 0, slowness: 1, failing: false, lie: None }
    }

    /// Starts an operation: returns its number and how long it will take, or what is wrong with submitting it now.
    pub fn submit(&mut self, tag: Tag, op: DiskOp, rng: &mut Rng) -> Result<(u64, u64), String> {
        self.conflict(tag, &op)?;
        let covers = if let DiskOp::Flush { file } = op { self.memory.completed(file) } else { 0 };
        let time = match &op {
            DiskOp::Read { .. } => rng.range(40 * US, 200 * US),
            DiskOp::Write { data, .. } => {
                rng.range(20 * US, 120 * US) + data.iter().map(|d| d.len() as u64).sum::<u64>() / 2
            }
            DiskOp::Flush { .. } => rng.range(100 * US, 1_500 * US),
            DiskOp::Create { .. } | DiskOp::Remove { .. } => rng.range(500 * US, 5_000 * US),
        };
        self.next += 1;
        self.in_flight.insert(self.next, InFlight { tag, op, covers });
        Ok((self.next, time * self.slowness))
    }

    /// Stores promise never to submit overlapping writes, or a read over a write, at once, nor the same tag twice.
    fn conflict(&self, tag: Tag, op: &DiskOp) -> Result<(), String> {
        let Some((file, from, to, writes)) = range(op) else { return Ok(()) };
        for f in self.in_flight.values() {
            if f.tag == tag {
                return Err(format!("disk tag {} is in flight twice", tag.0));
            }
            if let Some((file2, from2, to2, writes2)) = range(&f.op)
                && (writes || writes2)
                && file == file2
                && from < to2
                && from2 < to
            {
                return Err(format!(
                    "operation on file {} bytes {from}..{to} submitted while one on {from2}..{to2} is in flight",
                    file.0
                ));
            }
        }
        Ok(())
    }

    /// Ends operation `number`: its effect takes place now. None: the process that started it is gone.
    pub fn complete(&mut self, number: u64) -> Option<(Tag, DiskDone)> {
        let f = self.in_flight.remove(&number)?;
        if self.failing && !matches!(f.op, DiskOp::Read { .. }) {
            let detail = "simulated medium error (EIO)".to_string();
            return Some((f.tag, DiskDone::Failed(DiskError { kind: DiskErrorKind::Io, detail })));
        }
        Some((f.tag, self.carry_out(f.op, f.covers)))
    }

    fn carry_out(&mut self, op: DiskOp, covers: u64) -> DiskDone {
        match op {
            DiskOp::Flush { file } => {
                self.memory.flush_completed(file, covers);
                DiskDone::Ok
            }
            DiskOp::Write { file, offset, data } if self.lie.is_some_and(|l| l.0 == file) => {
                match self.lie.take() {
                    Some((_, Lie::Misplaced(at))) if at != offset => {
                        self.memory.run(DiskOp::Write { file, offset: at, data });
                    }
                    _ => {}
                }
                DiskDone::Ok
            }
            op => self.memory.run(op),
        }
    }

    /// The process dies: what it had in flight is carried out or not, removals last (nothing else may touch a file that
    /// is being removed, so their order among the others tells nothing).
    pub fn kill(&mut self, rng: &mut Rng) {
        let ops = std::mem::take(&mut self.in_flight);
        let (removals, others): (Vec<_>, Vec<_>) =
            ops.into_values().partition(|f| matches!(f.op, DiskOp::Remove { .. }));
        for f in others.into_iter().chain(removals) {
            if !self.failing && rng.percent(50) {
                self.carry_out(f.op, f.covers);
            }
        }
    }

    /// The power goes: as [`Self::kill`], and then what was not flushed survives as `tear` says.
    pub fn power_cut(&mut self, tear: Tear, rng: &mut Rng) {
        self.kill(rng);
        match tear {
            Tear::None => self.memory.power_cut(|| false),
            Tear::All => self.memory.power_cut(|| true),
            Tear::Sectors(percent) => self.memory.power_cut(|| rng.percent(percent)),
            Tear::Blocks(percent) => {
                let (mut sector, mut keep) = (0u32, false);
                self.memory.power_cut(|| {
                    if sector % 8 == 0 {
                        keep = rng.percent(percent);
                    }
                    sector += 1;
                    keep
                });
            }
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Disk::new()
    }
}

fn range(op: &DiskOp) -> Option<(FileId, u64, u64, bool)> {
    match op {
        DiskOp::Read { file, offset, len } => Some((*file, *offset, offset + u64::from(*len), false)),
        DiskOp::Write { file, offset, data } => {
            Some((*file, *offset, offset + data.iter().map(|d| d.len() as u64).sum::<u64>(), true))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use host::disk::Folder;

    fn write(file: FileId, offset: u64, byte: u8) -> DiskOp {
        DiskOp::Write { file, offset, data: vec![Bytes::from(vec![byte; 4096])] }
    }

    #[test]
    fn a_flush_covers_only_writes_that_ended_before_it_began() {
        let mut rng = Rng::new(1);
        let mut d = Disk::new();
        let file = d.memory.clone().create("f", 8192).unwrap();
        let (w1, _) = d.submit(Tag(1), write(file, 0, 1), &mut rng).unwrap();
        d.complete(w1);
        let (w2, _) = d.submit(Tag(2), write(file, 4096, 2), &mut rng).unwrap();
        let (fl, _) = d.submit(Tag(3), DiskOp::Flush { file }, &mut rng).unwrap();
        d.complete(w2);
        d.complete(fl);
        d.power_cut(Tear::None, &mut rng);
        let now = d.memory.clone().read(file, 0, 8192).unwrap();
        assert_eq!((now[0], now[4096]), (1, 0));
    }

    #[test]
    fn overlapping_submissions_are_reported_and_errors_are_final() {
        let mut rng = Rng::new(1);
        let mut d = Disk::new();
        let file = d.memory.clone().create("f", 8192).unwrap();
        d.submit(Tag(1), write(file, 0, 1), &mut rng).unwrap();
        assert!(d.submit(Tag(2), DiskOp::Read { file, offset: 0, len: 8192 }, &mut rng).is_err());
        assert!(d.submit(Tag(1), write(file, 4096, 1), &mut rng).is_err());
        d.failing = true;
        let (n, _) = d.submit(Tag(3), write(file, 4096, 3), &mut rng).unwrap();
        assert!(matches!(d.complete(n), Some((Tag(3), DiskDone::Failed(_)))));
        assert!(d.complete(n).is_none());
    }

    #[test]
    fn a_lie_concerns_one_write() {
        let mut rng = Rng::new(1);
        let mut d = Disk::new();
        let file = d.memory.clone().create("f", 16384).unwrap();
        for (i, lie) in [Lie::Lost, Lie::Misplaced(8192)].into_iter().enumerate() {
            d.lie = Some((file, lie));
            for byte in [1, 2] {
                let offset = 4096 * (byte - 1);
                let (n, _) = d.submit(Tag(byte), write(file, offset, byte as u8 + 10 * i as u8), &mut rng).unwrap();
                assert!(matches!(d.complete(n), Some((_, DiskDone::Ok))));
            }
            assert_eq!(d.lie, None);
        }
        let now = d.memory.clone().read(file, 0, 16384).unwrap();
        assert_eq!((now[0], now[4096], now[8192]), (0, 12, 11));
    }

    #[test]
    fn power_cuts_tear_by_sector_and_writes_in_flight_may_survive() {
        let mut rng = Rng::new(5);
        let (mut torn, mut arrived) = (0, 0);
        for _ in 0..200 {
            let mut d = Disk::new();
            let file = d.memory.clone().create("f", 4096).unwrap();
            d.submit(Tag(1), write(file, 0, 1), &mut rng).unwrap();
            d.power_cut(Tear::Sectors(50), &mut rng);
            let now = d.memory.clone().read(file, 0, 4096).unwrap();
            let kept = now.chunks(512).filter(|s| s[0] == 1).count();
            assert!(now.chunks(512).all(|s| s.iter().all(|b| *b == s[0])));
            torn += usize::from((1..8).contains(&kept));
            arrived += usize::from(kept > 0);
        }
        assert!((70..130).contains(&arrived) && torn > 60, "{arrived} arrived, {torn} torn");
    }
}
