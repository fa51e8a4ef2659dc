//! Applications: every client slot reads, writes, flushes and renames at random, and everything is written down.

use crate::actor::{AppAnswer, AppOp, NameAnswer, NameOp, Role, SlotId};
use crate::history::{History, Record};
use crate::programs::Programs;
use crate::rng::Rng;
use crate::system::{Load, System};
use crate::world::{Finished, MS, World};
use std::collections::BTreeMap;

/// Directories that all clients use, one operation after the other; any other one belongs to one client.
const SHARED: std::ops::Range<u32> = 1000..1002;

#[derive(Default)]
struct Application {
    life: u32,
    /// Ticket → record.
    open: BTreeMap<u64, usize>,
    /// File it is busy with for a while.
    focus: u32,
    /// The directory of its operation on names.
    naming: Option<u32>,
}

/// The applications of a run.
pub struct Workload {
    rng: Rng,
    load: Load,
    /// Operations a client has outstanding at most.
    depth: u64,
    /// Longest pause between two operations of a client, nanoseconds.
    pause: u64,
    /// Percent of writes, of flushes, of operations on names; the rest reads.
    mix: (u64, u64, u64),
    /// Percent of writes that are truncations or zeros, and of the others those answered from memory.
    cuts: u64,
    buffered: u64,
    /// Draws what an operation on names is turned into, apart from the rest.
    turns: Rng,
    apps: BTreeMap<SlotId, Application>,
    programs: Option<Programs>,
    next_value: u64,
    next_ticket: u64,
    /// No new operations.
    pub quiet: bool,
    /// Programs that use locks do nothing else, and all the time.
    pub eager: bool,
    /// What happened.
    pub history: History,
}

impl Workload {
    /// A load of random character.
    pub fn new(load: Load, mut rng: Rng) -> Workload {
        let depth = 1 + rng.skewed(7);
        let names = if load.names { rng.range(2, 10) } else { 0 };
        let mix = (rng.range(25, 60), rng.range(1, 8), names);
        // Drawn from a generator of their own, so that the rest of a run does not depend on them.
        let mut more = rng.fork(17);
        let cuts = if load.cuts { more.below(3) * 6 } else { 0 };
        let buffered = if load.cuts && more.percent(50) { more.range(20, 80) } else { 0 };
        let programs = load.guarded.map(|file| Programs::new(file, more.fork(19)));
        Workload {
            depth,
            pause: rng.range(20, 60) * MS * u64::from(load.clients.max(2)) / 2,
            turns: rng.clone().fork(18),
            mix,
            cuts,
            buffered,
            load,
            rng,
            apps: BTreeMap::new(),
            programs,
            next_value: 0,
            next_ticket: 0,
            quiet: false,
            eager: false,
            history: History::default(),
        }
    }

    /// Operations that may still end: those of lives that are not over.
    pub fn outstanding(&self) -> usize {
        let programs = self.programs.as_ref().map_or(0, Programs::at_work);
        self.apps.values().map(|a| a.open.len()).sum::<usize>() + programs
    }
    /// The oldest of them, for a report.
    pub fn oldest(&self) -> Option<&Record> {
        let first = self.apps.values().filter_map(|a| a.open.values().next()).min()?;
        self.history.records.get(*first)
    }

    /// A value never written before.
    pub fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// Hands one operation to a client and writes it down. None: no process runs there.
    pub fn submit(&mut self, world: &mut World, slot: SlotId, op: AppOp) -> Option<usize> {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let life = world.slot(slot).life;
        if !world.submit(slot, ticket, op.clone()) {
            return None;
        }
        let app = self.apps.entry(slot).or_default();
        if app.life != life {
            // What an earlier life left open stays open for ever.
            *app = Application { life, ..Application::default() };
        }
        if let AppOp::Name(op) = op {
            app.naming = Some(op.dir().unwrap_or(slot.0 as u32));
        }
        app.open.insert(ticket, self.history.records.len());
        self.history.records.push(Record { slot, life, op, start: world.now(), end: None });
        Some(self.history.records.len() - 1)
    }

    /// Takes note of an operation that ended.
    pub fn finished(&mut self, now: u64, f: Finished) {
        let Some(app) = self.apps.get_mut(&f.slot).filter(|a| a.life == f.life) else { return };
        let Some(index) = app.open.remove(&f.ticket) else { return };
        let r = &mut self.history.records[index];
        if matches!(r.op, AppOp::Name(_)) {
            app.naming = None;
        }
        r.end = Some((now, f.answer));
    }
    /// Takes note of everything that ended.
    pub fn collect(&mut self, world: &mut World, system: &mut dyn System) {
        let mut locks = false;
        for f in world.take_finished() {
            locks |= matches!(f.answer, AppAnswer::Lock(_));
            self.finished(world.now(), f);
        }
        if locks {
            for session in system.sessions_over() {
                self.history.over.entry(session).or_insert(world.now());
            }
        }
    }

    /// A client that may have lost a process: forgets what its dead lives left open.
    fn refresh(&mut self, world: &World, slot: SlotId) {
        let life = world.slot(slot).life;
        let up = world.is_up(slot);
        if let Some(app) = self.apps.get_mut(&slot)
            && (app.life != life || !up)
        {
            app.open.clear();
            app.naming = None;
        }
    }
    /// Forgets what dead clients left open.
    pub fn refresh_all(&mut self, world: &World) {
        for slot in world.slots_of(Role::Client) {
            self.refresh(world, slot);
        }
    }

    /// The turn of one client's application: starts an operation, perhaps. Returns when to be called next.
    pub fn turn(&mut self, world: &mut World, slot: SlotId) -> u64 {
        // When it is measured how soon everybody goes on, nobody is slow for the number of others.
        let crowd = if self.eager { u64::from(self.load.clients.max(2)) } else { 2 };
        let pause = MS + self.rng.below(self.pause * 2 / crowd);
        self.refresh(world, slot);
        let mut programs = self.programs.take();
        if let Some(p) = &mut programs {
            p.turn(self, world, slot);
        }
        let theirs = programs.as_ref().map_or(0, |p| p.busy(slot));
        self.programs = programs;
        let open = self.apps.get(&slot).map_or(0, |a| a.open.len().saturating_sub(theirs) as u64);
        if !self.quiet && open < self.depth && world.is_up(slot) {
            let op = self.choose(slot);
            if let Some(op) = op {
                self.submit(world, slot, op);
            }
        }
        world.now() + pause
    }

    fn choose(&mut self, slot: SlotId) -> Option<AppOp> {
        let refocus = self.rng.percent(3);
        let fresh = self.rng.below(u64::from(self.load.files)) as u32;
        let naming = {
            let app = self.apps.entry(slot).or_default();
            if refocus {
                app.focus = fresh;
            }
            app.naming.is_some()
        };
        let file = if self.rng.percent(80) { self.apps[&slot].focus } else { fresh };
        let (first, length) = *self.rng.pick(&self.load.ranges)?;
        let whole = length >= 16 && self.rng.percent(30);
        let count = if whole { length } else { 1 + self.rng.below(u64::from(length.min(4))) as u32 };
        let block = first + self.rng.below(u64::from(length - count + 1)) as u32;
        let dice = self.rng.below(100);
        let (w, f, n) = self.mix;
        let cut = self.cuts > 0 && self.rng.below(100) < self.cuts;
        let buffered = self.buffered > 0 && self.rng.below(100) < self.buffered;
        Some(if dice < w && cut {
            self.cut(file, block, count)
        } else if dice < w {
            AppOp::Write { file, block, values: (0..count).map(|_| self.value()).collect(), buffered }
        } else if dice < w + f {
            if self.rng.percent(20) { AppOp::Close { file } } else { AppOp::Flush { file } }
        } else if dice < w + f + n && !naming {
            AppOp::Name(self.name_op(slot.0 as u32)?)
        } else {
            AppOp::Read { file, block, count }
        })
    }
    fn cut(&mut self, file: u32, block: u32, count: u32) -> AppOp {
        match self.rng.below(3) {
            0 => AppOp::Zero { file, block, count, discard: self.rng.percent(50) },
            _ => AppOp::Truncate { file, blocks: if self.rng.percent(15) { 0 } else { block + count - 1 } },
        }
    }
    /// In the client's own directory or a shared one. None: somebody is busy in that.
    fn name_op(&mut self, own: u32) -> Option<NameOp> {
        if !self.turns.percent(50) {
            return Some(self.name_op_in(own));
        }
        let dir = SHARED.start + self.turns.below(SHARED.len() as u64) as u32;
        if self.apps.values().any(|a| a.naming == Some(dir)) {
            return None;
        }
        // Few names, found often: what one client keeps is what another one changes.
        let name = self.turns.below(2) as u32;
        Some(match self.turns.below(10) {
            0..2 => NameOp::Create { dir, name },
            2 => NameOp::Remove { dir, name },
            3 => NameOp::Replace { dir, name, to: 1 - name },
            4 => NameOp::Exchange { dir, name, to: 1 - name },
            _ => NameOp::Find { dir, name },
        })
    }
    fn name_op_in(&mut self, dir: u32) -> NameOp {
        let name = self.rng.below(6) as u32;
        match self.rng.below(10) {
            0..4 => NameOp::Create { dir, name },
            4..6 => NameOp::Remove { dir, name },
            6..8 => {
                let to = (name + 1 + self.rng.below(5) as u32) % 6;
                match self.turns.below(4) {
                    0 | 1 => NameOp::Rename { dir, name, to },
                    2 => NameOp::Replace { dir, name, to },
                    _ => NameOp::Exchange { dir, name, to },
                }
            }
            _ if self.turns.percent(20) => NameOp::Tmp { dir },
            _ => NameOp::Find { dir, name },
        }
    }
}

/// Did it end well, as far as an application can tell?
pub fn well(answer: &AppAnswer) -> bool {
    !matches!(answer, AppAnswer::Failed(_) | AppAnswer::Name(NameAnswer::Exists | NameAnswer::Missing))
}
