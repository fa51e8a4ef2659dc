//! Cases about locks of programs: ranges, waiting and giving up, clients that die or are cut off, leaders that do.

use super::cast::{Cast, cast, same};
use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::block::Seen;
use crate::history::Section;
use crate::kept::Script;
use crate::lock_op::{LockOp, LockSaid};
use crate::world::{MS, S, Verdict};
use std::cell::Cell;
use wire::locks::{Family, LockKind, TO_END};
use wire::names::MetaOp;
use wire::{FromMds, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "locks-side-by-side",
            "two hosts and two programs of one lock parts of a range, and one gives up the middle of its own",
            side_by_side as Script,
        ),
        ("locks-in-a-circle", "two clients wait for each other's locks", in_a_circle as Script),
        (
            "locks-changed-by-two",
            "two who read under a lock on the whole file both want to write",
            changed_by_two as Script,
        ),
        ("locks-of-the-dead", "a client dies while another one waits for its lock", of_the_dead as Script),
        ("locks-waited-for-by-the-dead", "a client dies while it waits for a lock", waited_for_by_the_dead as Script),
        (
            "lock-asked-twice",
            "a lock that was asked for twice arrives again when it is given up",
            asked_twice as Script,
        ),
        ("lock-word-lost", "the word that a lock has come is lost", word_lost as Script),
        ("lock-given-up", "somebody waits no longer, and then the lock is free", given_up as Script),
        (
            "lock-of-a-lonely-leader",
            "a leader that is cut off is asked for a lock, and the next one by somebody else",
            of_a_lonely_leader as Script,
        ),
        (
            "lock-lost-unnoticed",
            "a client is cut off until its session is over, and its program goes on as if it held its lock",
            lost_unnoticed as Script,
        ),
        (
            "write-of-a-lost-lock",
            "… and its write, asked for while it was cut off, goes out when it is back",
            write_of_a_lost_lock as Script,
        ),
        (
            "lock-asked-while-cut-off",
            "a client that is cut off until its session is over is asked for a lock meanwhile",
            |m| asked_while_cut_off(m, false),
        ),
        ("lock-waited-for-while-cut-off", "… or has waited for one since before", |m| asked_while_cut_off(m, true)),
    ]
}

/// The file that is locked: the one of counters.
const FILE: u32 = 3;

fn set(kind: LockKind, bytes: (u64, u64), wait: bool) -> LockOp {
    LockOp::Set { family: Family::Bytes, kind, start: bytes.0, end: bytes.1, wait }
}
fn write(start: u64, end: u64) -> LockOp {
    set(LockKind::Write, (start, end), false)
}
fn wait(start: u64, end: u64) -> LockOp {
    set(LockKind::Write, (start, end), true)
}
fn clear(start: u64, end: u64) -> LockOp {
    LockOp::Clear { family: Family::Bytes, start, end }
}

/// A program: its client and its number there.
type Program = (SlotId, u64);

fn begin(c: &mut Cast, p: Program, op: LockOp) -> Result<usize, String> {
    c.stage.begin(p.0, AppOp::Lock { file: FILE, owner: p.1, op })
}
fn ask(c: &mut Cast, p: Program, op: LockOp) -> Result<AppAnswer, String> {
    let index = begin(c, p, op)?;
    c.stage.wait(index)
}
fn held(what: &str, answer: &AppAnswer) -> Result<(), String> {
    match answer {
        AppAnswer::Lock(LockSaid::Held { .. }) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}
fn hold(c: &mut Cast, what: &str, p: Program, op: LockOp) -> Result<(), String> {
    held(what, &ask(c, p, op)?)
}
fn busy(c: &mut Cast, what: &str, p: Program, op: LockOp) -> Result<(), String> {
    match ask(c, p, op)? {
        AppAnswer::Lock(LockSaid::Busy) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}
/// What is waited for comes within `limit`.
fn comes(c: &mut Cast, what: &str, index: usize, limit: u64) -> Result<(), String> {
    c.stage.run_until(what, limit, |s| s.work.history.records[index].end.is_some())?;
    held(what, &c.stage.wait(index)?)
}
fn waits(c: &mut Cast, what: &str, index: usize) -> Result<(), String> {
    c.stage.run_for(200 * MS);
    c.stage.answer(index).map_or(Ok(()), |a| Err(format!("{what} is to wait, and is answered: {a:?}")))
}
/// All files are closed, and everything is judged.
fn finish(mut c: Cast) -> Result<(), String> {
    for p in c.clients.clone().into_iter().flat_map(|s| [(s, 1), (s, 2)]) {
        if c.stage.world.is_up(p.0) {
            ask(&mut c, p, LockOp::Close)?;
        }
    }
    c.stage.finish()
}
/// A program looks at the counter, which is written down for the judgement; the number of its section.
fn look(c: &mut Cast, p: Program) -> Result<(usize, Seen), String> {
    let read = c.stage.begin(p.0, AppOp::Read { file: FILE, block: 0, count: 1 })?;
    let section = c.stage.work.history.sections.len();
    c.stage.work.history.sections.push(Section { read, write: None, flush: None });
    match c.stage.wait(read)? {
        AppAnswer::Blocks(b) if b.len() == 1 => Ok((section, b[0])),
        other => Err(format!("a look at the counter: {other:?}")),
    }
}
/// … and begins to move it on; the operation and the value.
fn move_on(c: &mut Cast, p: Program, section: usize) -> Result<(usize, u64), String> {
    let (index, value) = c.stage.begin_write(p.0, FILE, 0)?;
    c.stage.work.history.sections[section].write = Some(index);
    Ok((index, value))
}

fn side_by_side(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, other, b) = ((c.clients[0], 1), (c.clients[0], 2), (c.clients[1], 1));
    hold(&mut c, "a free range", a, write(0, 10))?;
    busy(&mut c, "another host", b, write(5, 6))?;
    busy(&mut c, "another program of the host", other, set(LockKind::Read, (5, 6), false))?;
    ask(&mut c, a, clear(4, 6))?;
    hold(&mut c, "what was given up", b, write(4, 6))?;
    hold(&mut c, "its own again", b, set(LockKind::Read, (4, 6), false))?;
    hold(&mut c, "a second reader", other, set(LockKind::Read, (5, 6), false))?;
    busy(&mut c, "a writer beside a reader", b, write(5, 6))?;
    busy(&mut c, "what stands before the middle", b, write(0, 1))?;
    busy(&mut c, "what stands behind the middle", b, write(9, 10))?;
    let index = begin(&mut c, b, wait(8, 12))?;
    waits(&mut c, "a range of which a part is held", index)?;
    ask(&mut c, a, clear(0, 5))?;
    waits(&mut c, "a range of which the part is still held", index)?;
    ask(&mut c, a, clear(0, TO_END))?;
    comes(&mut c, "what is free", index, S)?;
    finish(c)
}

fn in_a_circle(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(&mut c, "a free byte", a, write(0, 1))?;
    hold(&mut c, "another one", b, write(1, 2))?;
    let index = begin(&mut c, a, wait(1, 2))?;
    waits(&mut c, "the byte of the other", index)?;
    let circle = begin(&mut c, b, wait(0, 1))?;
    c.stage.run_until("that the circle is found", S, |s| s.work.history.records[circle].end.is_some())?;
    match c.stage.wait(circle)? {
        AppAnswer::Lock(LockSaid::Circle) => {}
        other => return Err(format!("a circle: {other:?}")),
    }
    ask(&mut c, b, clear(0, TO_END))?;
    comes(&mut c, "what the other gave up", index, S)?;
    finish(c)
}

fn changed_by_two(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    let whole = |kind| LockOp::Set { family: Family::Whole, kind, start: 0, end: TO_END, wait: true };
    hold(&mut c, "one reader", a, whole(LockKind::Read))?;
    hold(&mut c, "two readers", b, whole(LockKind::Read))?;
    let first = begin(&mut c, a, whole(LockKind::Write))?;
    waits(&mut c, "who wants to write beside a reader", first)?;
    let second = begin(&mut c, b, whole(LockKind::Write))?;
    comes(&mut c, "what the first gave up in order to wait", second, S)?;
    ask(&mut c, b, LockOp::Close)?;
    comes(&mut c, "and its own turn", first, S)?;
    finish(c)
}

fn of_the_dead(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(&mut c, "a free range", a, write(0, 4))?;
    let index = begin(&mut c, b, wait(2, 6))?;
    waits(&mut c, "a range of which a part is held", index)?;
    c.kill(&[a.0]);
    comes(&mut c, "the lock of a dead client", index, 2 * S)?;
    finish(c)
}

fn waited_for_by_the_dead(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(&mut c, "a free byte", b, write(0, 1))?;
    let index = begin(&mut c, a, wait(0, 1))?;
    waits(&mut c, "the byte of the other", index)?;
    c.kill(&[a.0]);
    // It is in nobody's way: its session ends in its time.
    c.stage.run_for(40 * S);
    ask(&mut c, b, clear(0, 1))?;
    hold(&mut c, "what nobody waits for", b, write(0, 1))?;
    finish(c)
}

fn asked_twice(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    let first = Cell::new(true);
    c.hold(move |_, _, m| {
        let is = matches!(m, Msg::ToMds(ToMds::Meta { op: MetaOp::Lock { .. }, .. }));
        is && first.replace(false)
    });
    hold(&mut c, "a free byte, asked for again", a, write(0, 1))?;
    ask(&mut c, a, clear(0, 1))?;
    if c.stage.world.release(true, |_, _, _| true) == 0 {
        return Err("nothing was held: the scenario does not do what it says".into());
    }
    c.stage.run_for(200 * MS);
    hold(&mut c, "what was given up", b, write(0, 1))?;
    finish(c)
}

fn word_lost(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(&mut c, "a free byte", a, write(0, 1))?;
    let index = begin(&mut c, b, wait(0, 1))?;
    waits(&mut c, "the byte of the other", index)?;
    c.stage.rule(|m| match m.msg {
        Msg::FromMds(FromMds::Locked { .. }) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    ask(&mut c, a, clear(0, 1))?;
    comes(&mut c, "a lock of which no word comes", index, 2 * S)?;
    finish(c)
}

fn given_up(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(&mut c, "a free byte", a, write(0, 1))?;
    let index = begin(&mut c, b, wait(0, 1))?;
    waits(&mut c, "the byte of the other", index)?;
    ask(&mut c, b, LockOp::GiveUp)?;
    match c.stage.wait(index)? {
        AppAnswer::Lock(LockSaid::GivenUp) => {}
        other => return Err(format!("a wait that was given up: {other:?}")),
    }
    ask(&mut c, a, clear(0, 1))?;
    hold(&mut c, "what nobody waits for", a, write(0, 1))?;
    finish(c)
}

fn of_a_lonely_leader(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    // Both know the file.
    for p in [a, b] {
        ask(&mut c, p, LockOp::Close)?;
    }
    let leader = c.leader()?;
    let others: Vec<SlotId> = c.mds.iter().copied().filter(|m| *m != leader).collect();
    c.cut_off(leader, &others);
    let first = begin(&mut c, a, write(0, 1))?;
    c.stage.run_for(100 * MS);
    c.cut_off(b.0, &[leader]);
    let second = begin(&mut c, b, write(0, 1))?;
    let answers = [c.stage.wait(first)?, c.stage.wait(second)?];
    if answers.iter().filter(|a| held("", a).is_ok()).count() != 1 {
        return Err(format!("one byte asked for by two: {answers:?}"));
    }
    c.mend_off(b.0, &[leader]);
    c.mend_off(leader, &others);
    finish(c)
}

/// One program read the counter under a lock and is cut off; the other one gets the lock when that session is over, and
/// moves the counter on.
fn lost(c: &mut Cast, queued: bool) -> Result<(usize, u64), String> {
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    hold(c, "a free byte", a, write(0, 1))?;
    let (section, _) = look(c, a)?;
    let mds = c.mds.clone();
    c.cut_off(a.0, &mds);
    let early = if queued { Some(move_on(c, a, section)?) } else { None };
    let index = begin(c, b, wait(0, 1))?;
    comes(c, "the lock of a client that is cut off", index, 50 * S)?;
    let (next, _) = look(c, b)?;
    let (moved, value) = move_on(c, b, next)?;
    if c.stage.wait(moved)? != AppAnswer::Done {
        return Err(format!("a write under a lock: {:?}", c.stage.answer(moved)));
    }
    ask(c, b, clear(0, 1))?;
    c.mend_off(a.0, &mds);
    c.stage.run_for(5 * S);
    let late = early.map_or_else(|| move_on(c, a, section), Ok)?.0;
    Ok((late, value))
}
fn lost_unnoticed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (late, value) = lost(&mut c, false)?;
    lost_lock_writes_nothing(c, late, value)
}
fn lost_lock_writes_nothing(mut c: Cast, late: usize, value: u64) -> Result<(), String> {
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    if c.stage.wait(late)? == AppAnswer::Done {
        return Err("a program whose lock was lost has written".into());
    }
    hold(&mut c, "a free byte", b, write(0, 1))?;
    same("under the lock", look(&mut c, b)?.1, value)?;
    ask(&mut c, b, clear(0, 1))?;
    // The file is closed by everybody of that host: then it can be used again.
    ask(&mut c, a, LockOp::Close)?;
    hold(&mut c, "a byte of a file opened again", a, write(0, 1))?;
    same("under the lock", look(&mut c, a)?.1, value)?;
    finish(c)
}

fn write_of_a_lost_lock(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (late, value) = lost(&mut c, true)?;
    lost_lock_writes_nothing(c, late, value)
}

fn asked_while_cut_off(mutant: Option<&str>, before: bool) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = ((c.clients[0], 1), (c.clients[1], 1));
    // Both know the file.
    for p in [a, b] {
        ask(&mut c, p, LockOp::Close)?;
    }
    hold(&mut c, "a free byte", b, write(0, 1))?;
    let mds = c.mds.clone();
    let early = if before { Some(begin(&mut c, a, wait(0, 1))?) } else { None };
    c.stage.run_for(S);
    c.cut_off(a.0, &mds);
    // Until it has noticed.
    c.stage.run_for(8 * S);
    let index = early.map_or_else(|| begin(&mut c, a, wait(0, 1)), Ok)?;
    c.stage.run_for(40 * S);
    c.mend_off(a.0, &mds);
    match c.stage.wait(index)? {
        AppAnswer::Failed(_) => {}
        other => return Err(format!("a lock asked for in a session that is over: {other:?}")),
    }
    ask(&mut c, b, clear(0, 1))?;
    hold(&mut c, "what nobody waits for", b, write(0, 1))?;
    ask(&mut c, b, LockOp::Close)?;
    ask(&mut c, a, LockOp::Close)?;
    hold(&mut c, "a free byte of a file opened again", a, write(0, 1))?;
    finish(c)
}
