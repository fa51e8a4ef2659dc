//! Cases about files that several clients write at once, through one that writes for all.

use super::super::Shape;
use super::cast::{Cast, cast, cast_as, same};
use crate::actor::{AppAnswer, AppOp, ByteOp, Role, SlotId};
use crate::block::Seen;
use crate::kept::Script;
use crate::lock_op::{LockOp, LockSaid};
use crate::world::{MS, S};
use wire::Msg;
use wire::locks::{Family, LockKind};
use wire::share::{ShareCtl, ShareMsg};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "shared-and-apart-again",
            "two clients write one file in turns, share it, cut it, write it alone, and share it again",
            shared_and_apart as Script,
        ),
        (
            "shared-then-unanswered",
            "a write has happened and its answer is lost; somebody else writes over it, and then the steward dies",
            then_unanswered as Script,
        ),
        ("shared-appends", "two clients append to one file; answers are lost, and stewards die", appends as Script),
        (
            "shared-with-the-dead",
            "a client dies while its write is on its way to the steward, and another one gets its lock",
            with_the_dead as Script,
        ),
        (
            "shared-with-others-since",
            "… and shares the file with a third one when the write arrives",
            with_others_since as Script,
        ),
        (
            "shared-on-one-member",
            "only one member has a write when the steward dies; the merge tells the others of it",
            on_one_member as Script,
        ),
        (
            "shared-without-a-pause",
            "three clients read and write one file for ten seconds, also while it is not shared yet and no more",
            without_a_pause as Script,
        ),
        (
            "shared-and-flushed",
            "what went through a steward is flushed through the next one, and all hosts lose power",
            and_flushed as Script,
        ),
        (
            "shared-lost-and-written-over",
            "all hosts lose power before a flush, and what was lost is written anew through the next steward: a flush tells",
            lost_and_written_over as Script,
        ),
        (
            "shared-and-cut-meanwhile",
            "a file is cut and shared anew: a write from before is refused and happens, one that had happened and was not answered fails",
            cut_meanwhile as Script,
        ),
        (
            "shared-read-first",
            "the steward reads before it writes, and gives the file back: nobody waits for it when a sharer dies later",
            read_first as Script,
        ),
    ]
}

pub(super) fn asks(m: &Msg) -> bool {
    matches!(m, Msg::Share(ShareMsg { ctl: ShareCtl::Ask(_), .. }))
}
pub(super) fn answers(m: &Msg) -> bool {
    matches!(m, Msg::Share(ShareMsg { ctl: ShareCtl::Answer(_), .. }))
}
/// The server of a steward dies, and starts again.
pub(super) fn dies(c: &mut Cast, steward: SlotId) {
    let of: Vec<SlotId> = c.cs.iter().copied().filter(|s| c.stage.world.slot(*s).part == Some(steward)).collect();
    c.kill(&of);
    c.start(&of);
}
/// These clients write block 8 of file 0 in turns until they share it; the steward.
pub(super) fn in_turns(c: &mut Cast, clients: &[SlotId]) -> Result<SlotId, String> {
    let asked = c.stage.rule_count(|m| asks(m.msg));
    for round in 0..40 {
        c.stage.write(clients[round % clients.len()], 0, 8)?;
        if asked.get() as usize >= 2 * clients.len() {
            let first = c.members()?[0];
            return c.stage.world.slot(first).part.ok_or_else(|| "the first member has no steward".into());
        }
    }
    Err("clients that write one file in turns do not share it".into())
}
fn done(what: &str, answer: &AppAnswer) -> Result<(), String> {
    if *answer == AppAnswer::Done { Ok(()) } else { Err(format!("{what}: {answer:?}")) }
}

fn shared_and_apart(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for _ in 0..2 {
        in_turns(&mut c, &[a, b])?;
        for (writer, reader) in [(a, b), (b, a), (a, b)] {
            let value = c.stage.write(writer, 0, 1)?;
            same("what the other client wrote", c.stage.read(reader, 0, 1)?, value)?;
            same("what it wrote itself", c.stage.read(writer, 0, 1)?, value)?;
        }
        c.stage.truncate(a, 0, 4)?;
        let value = c.stage.write(b, 0, 3)?;
        same("behind a cut", c.stage.read(a, 0, 8)?, 0)?;
        same("before it", c.stage.read(a, 0, 3)?, value)?;
        // One of them goes on alone, and needs nobody.
        c.stage.run_for(3 * S);
        c.stage.write(a, 0, 1)?;
        let asked = c.stage.rule_count(|m| asks(m.msg));
        c.stage.write(a, 0, 1)?;
        if asked.get() > 0 {
            return Err("a client that writes alone asks a steward".into());
        }
    }
    c.stage.finish()
}

fn then_unanswered(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let steward = in_turns(&mut c, &[a, b])?;
    c.hold(move |_, to, m| to == a && answers(m));
    let (index, _) = c.stage.begin_write(a, 0, 0)?;
    c.stage.run_for(20 * MS);
    let value = c.stage.write(b, 0, 0)?;
    dies(&mut c, steward);
    done("a write that was not answered", &c.stage.wait(index)?)?;
    same("what was written after it", c.stage.read(b, 0, 0)?, value)?;
    c.stage.finish()
}

fn appends(mutant: Option<&str>) -> Result<(), String> {
    const FILE: u32 = 5;
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let record = |who: u8, n: u8| -> Vec<u8> { [b'<', who, b'0' + n, b'>'].repeat(40) };
    let append = |data: Vec<u8>| AppOp::Bytes { file: FILE, op: ByteOp::Write { at: None, data, buffered: false } };
    let asked = c.stage.rule_count(|m| asks(m.msg));
    let mut all = Vec::new();
    let mut add = |c: &mut Cast, slot, data: Vec<u8>| -> Result<(), String> {
        let index = c.stage.begin(slot, append(data.clone()))?;
        match c.stage.wait(index)? {
            AppAnswer::Placed(at) if at == all.len() as u64 => all.extend(data),
            other => return Err(format!("an append behind {} bytes: {other:?}", all.len())),
        }
        Ok(())
    };
    let mut n = 0;
    while asked.get() < 4 {
        n += 1;
        add(&mut c, a, record(b'a', n % 10))?;
        add(&mut c, b, record(b'b', n % 10))?;
        if n > 40 {
            return Err("clients that append to one file in turns do not share it".into());
        }
    }
    // The answer is lost, and everything that shares dies.
    let rule = c.hold(move |_, to, m| to == a && answers(m));
    let late = c.stage.begin(a, append(record(b'A', 1)))?;
    c.stage.run_for(20 * MS);
    for steward in c.stage.world.slots_of(Role::Steward) {
        dies(&mut c, steward);
    }
    match c.stage.wait(late)? {
        AppAnswer::Placed(at) if at == all.len() as u64 => all.extend(record(b'A', 1)),
        other => return Err(format!("an append whose steward died: {other:?}")),
    }
    c.stage.world.remove_rule(rule);
    for (i, slot) in [b, a, b].into_iter().enumerate() {
        let data = record(b'z', i as u8);
        let index = c.stage.begin(slot, append(data.clone()))?;
        match c.stage.wait(index)? {
            AppAnswer::Placed(at) if at == all.len() as u64 => all.extend(data),
            other => return Err(format!("an append behind {} bytes: {other:?}", all.len())),
        }
    }
    let length = all.len() as u32 + 100;
    match c.stage.bytes(b, FILE, ByteOp::Read { at: 0, length })? {
        AppAnswer::Bytes(found) if found == all => {}
        other => return Err(format!("each record once and in order: {other:?}")),
    }
    c.stage.finish()
}

fn lock(c: &mut Cast, slot: SlotId) -> Result<usize, String> {
    let op = LockOp::Set { family: Family::Bytes, kind: LockKind::Write, start: 0, end: 1, wait: true };
    c.stage.begin(slot, AppOp::Lock { file: 3, owner: 1, op })
}
fn unlock(c: &mut Cast, slot: SlotId) -> Result<(), String> {
    let close = c.stage.begin(slot, AppOp::Lock { file: 3, owner: 1, op: LockOp::Close })?;
    c.stage.wait(close).map(|_| ())
}
fn held(c: &mut Cast, what: &str, index: usize) -> Result<(), String> {
    match c.stage.wait(index)? {
        AppAnswer::Lock(LockSaid::Held { .. }) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}
/// `a` dies with a lock, and a write of it is still on its way when `b` has the lock.
fn dies_with_a_lock(c: &mut Cast, a: SlotId, b: SlotId) -> Result<SlotId, String> {
    let steward = in_turns(c, &[a, b])?;
    let index = lock(c, a)?;
    held(c, "a free lock", index)?;
    c.hold(move |from, _, m| from == a && asks(m));
    c.stage.begin_write(a, 0, 0)?;
    c.stage.run_for(20 * MS);
    c.kill(&[a]);
    let index = lock(c, b)?;
    held(c, "the lock of the dead", index)?;
    Ok(steward)
}

/// What `b` writes under the lock stays when the write of the dead arrives.
fn too_late(mut c: Cast, a: SlotId, b: SlotId, steward: SlotId) -> Result<(), String> {
    let value = c.stage.write(b, 0, 0)?;
    c.deliver("the write of the dead", a, steward)?;
    c.stage.run_for(300 * MS);
    same("what was written under the lock", c.stage.read(b, 0, 0)?, value)?;
    c.start(&[a]);
    unlock(&mut c, b)?;
    c.stage.finish()
}

fn with_the_dead(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let steward = dies_with_a_lock(&mut c, a, b)?;
    too_late(c, a, b, steward)
}

fn with_others_since(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { clients: 3, ..Shape::default() }, mutant)?;
    let (a, b, third) = (c.clients[0], c.clients[1], c.clients[2]);
    let steward = dies_with_a_lock(&mut c, a, b)?;
    let other = in_turns(&mut c, &[b, third])?;
    if other != steward {
        return Err("another steward: the script does not do what it says".into());
    }
    too_late(c, a, b, steward)
}

fn on_one_member(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let steward = in_turns(&mut c, &[a, b])?;
    let [first, second, third] = c.three()?;
    c.stage.run_for(200 * MS);
    let lost = c.lose_writes(steward, &[second, third]);
    let (index, _) = c.stage.begin_write(a, 0, 0)?;
    c.stage.run_for(20 * MS);
    // The sharer hears nothing for a while.
    let others: Vec<SlotId> = c.mds.iter().chain(&c.cs).copied().collect();
    c.cut_off(a, &others);
    dies(&mut c, steward);
    c.stage.world.remove_rule(lost);
    let value = c.stage.write(b, 0, 0)?;
    c.stage.run_for(200 * MS);
    // The other members say what they remember, and the first one later.
    let said =
        c.hold(move |from, to, m| from == first && to == a && matches!(m, Msg::Data(wire::DataCtl::State { .. })));
    c.mend_off(a, &others);
    c.until_held("what the first member says of itself", 20 * S)?;
    c.stage.run_for(100 * MS);
    c.stage.world.remove_rule(said);
    c.stage.world.release(true, |_, _, _| true);
    done("a write that one member had", &c.stage.wait(index)?)?;
    same("what was written after it", c.stage.read(b, 0, 0)?, value)?;
    c.stage.finish()
}

fn and_flushed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let steward = in_turns(&mut c, &[a, b])?;
    let value = c.stage.write(a, 0, 0)?;
    dies(&mut c, steward);
    in_turns(&mut c, &[b, a])?;
    c.stage.flush(a, 0)?;
    c.power_of_all();
    same("what was flushed", c.stage.read(b, 0, 0)?, value)?;
    c.stage.finish()
}

fn lost_and_written_over(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { clients: 3, ..Shape::default() }, mutant)?;
    let (a, b, d) = (c.clients[0], c.clients[1], c.clients[2]);
    in_turns(&mut c, &[a, b])?;
    c.stage.flush(a, 0)?;
    let before = c.stage.write(a, 0, 0)?;
    c.power_of_all();
    c.stage.run_for(S);
    in_turns(&mut c, &[b, d])?;
    let asked = c.stage.rule_count(move |m| m.from == a && asks(m.msg));
    c.stage.write(a, 0, 8)?;
    if asked.get() == 0 {
        return Err("it has a lease of its own".into());
    }
    if c.stage.read(b, 0, 0)? == Seen::Value(before) {
        return Err("nothing was lost".into());
    }
    let told = c.stage.begin(a, AppOp::Flush { file: 0 })?;
    match c.stage.wait(told)? {
        AppAnswer::Failed(_) => {}
        other => return Err(format!("a flush after a loss: {other:?}")),
    }
    c.stage.flush(a, 0)?;
    c.stage.finish()
}

fn cut_meanwhile(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { clients: 3, ..Shape::default() }, mutant)?;
    let (a, b, d) = (c.clients[0], c.clients[1], c.clients[2]);
    for happened in [false, true] {
        let steward = in_turns(&mut c, &[a, b])?;
        let held = move |from, to, m: &Msg| if happened { to == a && answers(m) } else { from == a && asks(m) };
        let rule = c.hold(held);
        let (index, value) = c.stage.begin_write(a, 0, 0)?;
        c.stage.run_for(20 * MS);
        c.stage.truncate(d, 0, 0)?;
        in_turns(&mut c, &[b, d])?;
        c.stage.world.remove_rule(rule);
        if happened {
            c.stage.world.release(false, |_, _, _| true);
        } else {
            c.deliver("the write from before the cut", a, steward)?;
        }
        for slot in [b, d].repeat(50) {
            c.stage.write(slot, 0, 8)?;
            c.stage.run_for(20 * MS);
        }
        match c.stage.answer(index) {
            Some(AppAnswer::Failed(_)) if happened => same("what was cut off", c.stage.read(b, 0, 0)?, 0)?,
            Some(AppAnswer::Done) if !happened => same("what was not", c.stage.read(b, 0, 0)?, value)?,
            other => return Err(format!("a write from before a cut, happened: {happened}: {other:?}")),
        }
    }
    c.stage.finish()
}

fn read_first(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { clients: 3, ..Shape::default() }, mutant)?;
    let (a, b, d) = (c.clients[0], c.clients[1], c.clients[2]);
    let rule = c.hold(move |from, _, m| from != d && asks(m));
    let mut late = None;
    for round in 0..40 {
        let (index, _) = c.stage.begin_write([a, b][round % 2], 0, 8)?;
        c.stage.run_until("a write", S, |s| s.answer(index).is_some() || s.world.held() > 0)?;
        if c.stage.answer(index).is_none() {
            late = Some(index);
            break;
        }
    }
    let late = late.ok_or("clients that write one file in turns do not share it")?;
    c.stage.read(d, 0, 8)?;
    c.stage.world.remove_rule(rule);
    c.stage.world.release(true, |_, _, _| true);
    done("a write that came late to the steward", &c.stage.wait(late)?)?;
    c.stage.run_for(3 * S);
    let index = lock(&mut c, a)?;
    held(&mut c, "a free lock", index)?;
    c.kill(&[a]);
    let index = lock(&mut c, b)?;
    c.stage.run_until("the lock of the dead", 5 * S, |s| s.answer(index).is_some())?;
    held(&mut c, "the lock of the dead", index)?;
    c.start(&[a]);
    unlock(&mut c, b)?;
    c.stage.finish()
}

/// Nothing fails, so nobody waits for a timer.
fn without_a_pause(mutant: Option<&str>) -> Result<(), String> {
    const LONGEST: u64 = 300 * MS;
    let mut c = cast_as(Shape { clients: 3, ..Shape::default() }, mutant)?;
    let clients = c.clients.clone();
    let mut open: Vec<Option<(usize, u64)>> = vec![None; clients.len()];
    let (begun, mut n) = (c.stage.world.now(), 0);
    while c.stage.world.now() < begun + 10 * S {
        for (i, slot) in clients.iter().enumerate() {
            if let Some((index, since)) = open[i] {
                let took = c.stage.world.now() - since;
                if c.stage.answer(index).is_some() {
                    open[i] = None;
                } else if took > LONGEST {
                    let what = &c.stage.work.history.records[index].op;
                    return Err(format!("{what:?} of client {i} takes more than {} ms", LONGEST / MS));
                }
                continue;
            }
            n += 1;
            // The second half begins with a pause of two of them.
            let now = c.stage.world.now() - begun;
            if i > 0 && (4 * S..6 * S).contains(&now) {
                continue;
            }
            let block = 8 + (n % 3) as u32;
            let index = match n % 5 {
                0 | 3 => c.stage.begin_write(*slot, 0, block)?.0,
                _ => c.stage.begin(*slot, AppOp::Read { file: 0, block, count: 1 })?,
            };
            open[i] = Some((index, c.stage.world.now()));
        }
        c.stage.run_for(MS / 2);
    }
    c.stage.finish()
}
