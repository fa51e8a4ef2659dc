//! Programs that use locks, some on every client: they move counters on under locks of ranges, or by comparing, and take, change, test and
//! give up locks at random, of their own and in each other's way.

use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::block::Seen;
use crate::history::Section;
use crate::lock_op::{LockOp, LockSaid};
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{MS, World};
use wire::locks::{Family, LockKind, TO_END};

/// Counters that locks guard: each in a block of its own, behind those of [`COMPARED`], guarded by a byte of its own.
const COUNTERS: u32 = 2;
/// Counters that are moved on where they stand as they were read, without a lock.
const COMPARED: u32 = 2;
/// Blocks of the file that hold counters.
pub const BLOCKS: u32 = COMPARED + COUNTERS;
/// The byte that guards the first one; ranges that are locked for it begin at [`FIRST`] or later and end before [`END`].
const GUARD: u64 = 8;
const FIRST: u64 = 4;
const END: u64 = 16;
/// Bytes below are locked by programs that only play.
const PLAYGROUND: u64 = 4;

/// A program that looks at a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    counter: u32,
    start: u64,
    end: u64,
    /// It moves the counter on.
    writes: bool,
    waits: bool,
    /// Number of its section, once it reads.
    section: usize,
}

/// What a program does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Idle,
    /// Locks the range around a counter, …
    Lock(Look),
    /// … gives up what it does not need, …
    Trim(Look),
    Read(Look),
    Write(Look),
    /// Reads a counter without a lock, and writes where this value stands.
    Peek(Look),
    Compare(Look, u64),
    Flush(Look),
    /// Does something with locks of a family, so many times more.
    Play(Family, u32),
    /// Gives everything of the family up.
    Leave(Family),
    Close,
}

/// A program.
struct Program {
    owner: u64,
    life: u32,
    next: Next,
    /// Its operation under way.
    busy: Option<usize>,
    /// When it gives a wait up; once it has, never.
    patience: u64,
}

/// All programs of a run.
pub struct Programs {
    rng: Rng,
    file: u32,
    /// Percent of turns in which one begins something.
    zeal: u32,
    all: Vec<(SlotId, Vec<Program>)>,
}

impl Programs {
    /// Programs that lock `file`.
    pub fn new(file: u32, mut rng: Rng) -> Programs {
        Programs { file, zeal: rng.range(1, 3) as u32, rng, all: Vec::new() }
    }
    /// Programs of a client that wait for an operation.
    pub fn busy(&self, slot: SlotId) -> usize {
        let of = self.all.iter().find(|(s, _)| *s == slot);
        of.map_or(0, |(_, p)| p.iter().filter(|p| p.busy.is_some()).count())
    }
    /// Programs that are not done.
    pub fn at_work(&self) -> usize {
        self.all.iter().flat_map(|(_, p)| p).filter(|p| p.next != Next::Idle || p.busy.is_some()).count()
    }

    /// The turn of one client: each of its programs goes on if it can.
    pub fn turn(&mut self, work: &mut Workload, world: &mut World, slot: SlotId) {
        let life = world.slot(slot).life;
        if !self.all.iter().any(|(s, _)| *s == slot) {
            let program = |owner| Program { owner, life, next: Next::Idle, busy: None, patience: u64::MAX };
            self.all.push((slot, (1..=2).map(program).collect()));
        }
        let mut all = std::mem::take(&mut self.all);
        for (_, programs) in all.iter_mut().filter(|(s, _)| *s == slot) {
            for p in programs {
                if p.life != life || !world.is_up(slot) {
                    *p = Program { owner: p.owner, life, next: Next::Idle, busy: None, patience: u64::MAX };
                }
                if world.is_up(slot) {
                    self.go_on(p, work, world, slot);
                }
            }
        }
        self.all = all;
    }

    fn go_on(&mut self, p: &mut Program, work: &mut Workload, world: &mut World, slot: SlotId) {
        if let Some(index) = p.busy {
            let Some((_, answer)) = work.history.records[index].end.clone() else {
                if p.patience <= world.now() {
                    p.patience = u64::MAX;
                    work.submit(world, slot, AppOp::Lock { file: self.file, owner: p.owner, op: LockOp::GiveUp });
                }
                return;
            };
            p.busy = None;
            p.patience = u64::MAX;
            p.next = self.after(p.next, &answer);
        }
        if let (Next::Idle, false) = (p.next, work.quiet) {
            p.next = self.begin(work.eager);
        }
        if let (Next::Play(family, _), true) = (p.next, work.quiet) {
            p.next = Next::Leave(family);
        }
        let Some(op) = self.operation(p, work, world.now()) else { return };
        p.busy = work.submit(world, slot, op);
        match (&mut p.next, p.busy) {
            (Next::Read(look) | Next::Peek(look), Some(read)) => {
                look.section = work.history.sections.len();
                work.history.sections.push(Section { read, write: None, flush: None });
            }
            (Next::Write(look) | Next::Compare(look, _), Some(i)) => {
                work.history.sections[look.section].write = Some(i)
            }
            (Next::Flush(look), Some(i)) => work.history.sections[look.section].flush = Some(i),
            _ => {}
        }
    }

    fn begin(&mut self, eager: bool) -> Next {
        if !eager && !self.rng.percent(self.zeal) {
            return Next::Idle;
        }
        let dice = if eager { 0 } else { self.rng.below(100) };
        match dice {
            45..65 => {
                let counter = self.rng.below(u64::from(COMPARED)) as u32;
                Next::Peek(Look { counter, start: 0, end: 0, writes: true, waits: false, section: 0 })
            }
            0..45 => {
                let counter = self.rng.below(u64::from(COUNTERS)) as u32;
                let guard = GUARD + u64::from(counter);
                let (start, end) = (self.rng.range(FIRST, guard + 1), self.rng.range(guard + 1, END + 1));
                let (writes, waits) = (eager || self.rng.percent(75), eager || self.rng.percent(85));
                Next::Lock(Look { counter, start, end, writes, waits, section: 0 })
            }
            65..88 => Next::Play(Family::Bytes, 2 + self.rng.below(3) as u32),
            _ => Next::Play(Family::Whole, 1 + self.rng.below(3) as u32),
        }
    }

    /// What a program goes on with when what it was at has ended.
    fn after(&mut self, at: Next, answer: &AppAnswer) -> Next {
        let failed = matches!(answer, AppAnswer::Failed(_));
        match (at, answer) {
            (Next::Close, _) => Next::Idle,
            // A program that is told of lost locks closes the file; what it held is not there any more.
            _ if failed => Next::Close,
            (Next::Lock(look), AppAnswer::Lock(LockSaid::Held { .. })) if self.rng.percent(30) => Next::Trim(look),
            (Next::Lock(look), AppAnswer::Lock(LockSaid::Held { .. })) | (Next::Trim(look), _) => Next::Read(look),
            (Next::Read(look), AppAnswer::Blocks(_)) if look.writes => Next::Write(look),
            (Next::Peek(look), AppAnswer::Blocks(seen)) => match seen[..] {
                [Seen::Value(v)] => Next::Compare(look, v),
                _ => Next::Idle,
            },
            (Next::Compare(look, _), AppAnswer::Done) if self.rng.percent(30) => Next::Flush(look),
            (Next::Compare(look, _), _) if self.rng.percent(60) => Next::Peek(look),
            (Next::Compare(..), _) => Next::Idle,
            (Next::Write(look), AppAnswer::Done) if self.rng.percent(40) => Next::Flush(look),
            (Next::Play(family, 0), _) | (Next::Play(family, _), AppAnswer::Lock(LockSaid::Circle)) => {
                Next::Leave(family)
            }
            (Next::Play(family, n), _) => Next::Play(family, n - 1),
            (Next::Leave(_) | Next::Idle, _) => Next::Idle,
            _ if self.rng.percent(30) => Next::Close,
            _ => Next::Leave(Family::Bytes),
        }
    }

    fn operation(&mut self, p: &mut Program, work: &mut Workload, now: u64) -> Option<AppOp> {
        let rng = &mut self.rng;
        let file = self.file;
        let op = match p.next {
            Next::Idle => return None,
            Next::Lock(look) => {
                let kind = if look.writes { LockKind::Write } else { LockKind::Read };
                if look.waits && rng.percent(15) {
                    p.patience = now + rng.range(20 * MS, 600 * MS);
                }
                LockOp::Set { family: Family::Bytes, kind, start: look.start, end: look.end, wait: look.waits }
            }
            Next::Trim(look) => {
                let guard = GUARD + u64::from(look.counter);
                let parts = [(look.start, guard), (guard + 1, look.end)];
                let sides: Vec<(u64, u64)> = parts.into_iter().filter(|(a, b)| a < b).collect();
                let (from, to) = rng.pick(&sides).copied().unwrap_or((END, END + 1));
                let start = rng.range(from, to);
                let end = rng.range(start + 1, to + 1);
                LockOp::Clear { family: Family::Bytes, start, end }
            }
            Next::Read(look) => return Some(AppOp::Read { file, block: COMPARED + look.counter, count: 1 }),
            Next::Peek(look) => return Some(AppOp::Read { file, block: look.counter, count: 1 }),
            Next::Compare(look, v) => {
                let (expected, values) = (vec![v], vec![work.value()]);
                return Some(AppOp::CompareWrite { file, block: look.counter, expected, values });
            }
            Next::Write(look) => {
                let values = vec![work.value()];
                return Some(AppOp::Write { file, block: COMPARED + look.counter, values, buffered: rng.percent(25) });
            }
            Next::Flush(_) => return Some(AppOp::Flush { file }),
            Next::Play(family, _) => {
                let kind = if rng.percent(50) { LockKind::Read } else { LockKind::Write };
                let start = if family == Family::Bytes { rng.below(PLAYGROUND) } else { 0 };
                let end = if family == Family::Bytes { rng.range(start + 1, PLAYGROUND + 1) } else { TO_END };
                match rng.below(10) {
                    0 => LockOp::Test { family, kind, start, end },
                    1..3 => LockOp::Clear { family, start, end },
                    n => {
                        let wait = n < 8;
                        // Nobody finds circles of those who wait for whole files.
                        if wait && (family == Family::Whole || rng.percent(30)) {
                            p.patience = now + rng.range(20 * MS, 600 * MS);
                        }
                        LockOp::Set { family, kind, start, end, wait }
                    }
                }
            }
            Next::Leave(family) => LockOp::Clear { family, start: 0, end: TO_END },
            Next::Close => LockOp::Close,
        };
        Some(AppOp::Lock { file, owner: p.owner, op })
    }
}
