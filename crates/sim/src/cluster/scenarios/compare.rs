//! Cases about writes where something is expected to stand.

use super::cast::{Cast, cast, same};
use super::share::{answers, asks, dies, in_turns};
use crate::actor::{AppAnswer, AppOp, ByteOp, SlotId};
use crate::kept::Script;
use crate::world::{MS, S};
use types::BLOCK;

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "compared-alone",
            "one client compares and writes: bytes across blocks, at the end of the file and past it",
            alone as Script,
        ),
        (
            "compared-by-two",
            "two clients write where both have read the same, in turns and at once, by themselves and through a steward",
            by_two as Script,
        ),
        (
            "compared-then-unanswered",
            "it has been written and the answer is lost; somebody else writes over it, and then the steward dies",
            then_unanswered as Script,
        ),
        (
            "compared-and-asked-twice",
            "something differs; when the message comes once more, late, what was expected stands there",
            asked_twice as Script,
        ),
    ]
}

fn compare(c: &mut Cast, slot: SlotId, block: u32, from: u64, to: u64) -> Result<usize, String> {
    c.stage.begin(slot, AppOp::CompareWrite { file: 0, block, expected: vec![from], values: vec![to] })
}
fn is(what: &str, found: &AppAnswer, expected: &AppAnswer) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

fn alone(mutant: Option<&str>) -> Result<(), String> {
    const FILE: u32 = 5;
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let block = BLOCK as usize;
    // Two blocks and a part of a third one.
    let mut content: Vec<u8> = (0..2 * block + 100).map(|i| (i % 251) as u8).collect();
    c.stage.bytes(a, FILE, ByteOp::Write { at: Some(0), data: content.clone(), buffered: true })?;
    let try_it = |c: &mut Cast, slot, at: usize, expected: Vec<u8>, with: u8| {
        let data = vec![with; expected.len()];
        c.stage.bytes(slot, FILE, ByteOp::CompareWrite { at: at as u64, expected, data })
    };
    for (slot, at, length) in
        [(a, 0, 7), (a, block - 3, 6), (b, 100, 2 * block - 50), (b, 2 * block + 90, 10), (a, 0, 4)]
    {
        let there = content[at..at + length].to_vec();
        let mut other = there.clone();
        other[length - 1] ^= 1;
        is("another last byte", &try_it(&mut c, slot, at, other, 9)?, &AppAnswer::Differs(length as u64 - 1))?;
        is("what stands there", &try_it(&mut c, slot, at, there, length as u8)?, &AppAnswer::Done)?;
        content[at..at + length].fill(length as u8);
    }
    let end = content.len();
    is("across the end", &try_it(&mut c, a, end - 4, vec![10; 8], 1)?, &AppAnswer::Differs(4))?;
    is("behind the end", &try_it(&mut c, b, end + 9, vec![0; 8], 1)?, &AppAnswer::Differs(0))?;
    for slot in [a, b] {
        match c.stage.bytes(slot, FILE, ByteOp::Read { at: 0, length: end as u32 + 50 })? {
            AppAnswer::Bytes(found) if found == content => {}
            AppAnswer::Bytes(found) => {
                let at = found.iter().zip(&content).position(|(x, y)| x != y);
                return Err(format!("{} bytes of {end}, the first other one at {at:?}", found.len()));
            }
            other => return Err(format!("a read: {other:?}")),
        }
    }
    let nothing = ByteOp::CompareWrite { at: 0, expected: vec![], data: vec![] };
    let index = c.stage.begin(a, AppOp::Bytes { file: FILE, op: nothing })?;
    match c.stage.wait(index)? {
        AppAnswer::Failed(_) => c.stage.finish(),
        other => Err(format!("nothing to compare: {other:?}")),
    }
}

/// Both have read `from`; returns what stands there then, which is one's and not the other's.
fn one_of_two(c: &mut Cast, a: SlotId, b: SlotId, from: u64, at_once: bool) -> Result<u64, String> {
    let (x, y) = (c.stage.value(), c.stage.value());
    let first = compare(c, a, 1, from, x)?;
    if !at_once {
        is("the first of two", &c.stage.wait(first)?, &AppAnswer::Done)?;
    }
    let second = compare(c, b, 1, from, y)?;
    let ends = (c.stage.wait(first)?, c.stage.wait(second)?);
    let stands = match ends {
        (AppAnswer::Done, AppAnswer::Differs(_)) => x,
        (AppAnswer::Differs(_), AppAnswer::Done) => y,
        other => return Err(format!("one of two writes: {other:?}")),
    };
    same("what one of them wrote", c.stage.read(a, 0, 1)?, stands)?;
    Ok(stands)
}

fn by_two(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let mut from = c.stage.write(a, 0, 1)?;
    for shared in [false, true] {
        if shared {
            in_turns(&mut c, &[a, b])?;
        }
        let asked = c.stage.rule_count(|m| asks(m.msg));
        for at_once in [false, true, false] {
            from = one_of_two(&mut c, a, b, from, at_once)?;
            from = one_of_two(&mut c, b, a, from, at_once)?;
        }
        if shared && asked.get() == 0 {
            return Err("nothing went through a steward".into());
        }
        c.stage.run_for(3 * S);
    }
    c.stage.finish()
}

fn then_unanswered(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let from = c.stage.write(a, 0, 1)?;
    let steward = in_turns(&mut c, &[a, b])?;
    c.hold(move |_, to, m| to == a && answers(m));
    let (x, y) = (c.stage.value(), c.stage.value());
    let index = compare(&mut c, a, 1, from, x)?;
    c.stage.run_for(20 * MS);
    let next = compare(&mut c, b, 1, x, y)?;
    is("where the first one has written", &c.stage.wait(next)?, &AppAnswer::Done)?;
    dies(&mut c, steward);
    is("it had been written", &c.stage.wait(index)?, &AppAnswer::Done)?;
    same("what was written after it", c.stage.read(b, 0, 1)?, y)?;
    c.stage.finish()
}

/// Who was told that something differs may have acted on it.
fn asked_twice(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    c.stage.write(a, 0, 1)?;
    let steward = in_turns(&mut c, &[a, b])?;
    let (x, y) = (c.stage.value(), c.stage.value());
    let answer = c.hold(move |_, to, m| to == a && answers(m));
    let index = compare(&mut c, a, 1, x, y)?;
    c.stage.run_for(20 * MS);
    let ask = c.hold(move |from, _, m| from == a && asks(m));
    c.stage.run_for(600 * MS);
    c.stage.world.remove_rule(answer);
    c.stage.world.release(true, |_, to, _| to == a);
    match c.stage.wait(index)? {
        AppAnswer::Differs(_) => {}
        other => return Err(format!("something else stands there: {other:?}")),
    }
    let write = c.stage.begin(b, AppOp::Write { file: 0, block: 1, values: vec![x], buffered: false })?;
    is("what was expected", &c.stage.wait(write)?, &AppAnswer::Done)?;
    c.stage.world.remove_rule(ask);
    c.deliver("the message, once more", a, steward)?;
    c.stage.run_for(300 * MS);
    same("what was written since", c.stage.read(b, 0, 1)?, x)?;
    c.stage.finish()
}
