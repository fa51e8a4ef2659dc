//! Scenarios about content: ends that are cut, zeros, writes answered from memory, small files, and what a front end hears.

use super::super::Application;
use super::cast::{Cast, cast, same};
use crate::actor::{AppAnswer, AppOp, ByteOp, SlotId};
use crate::block::Seen;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use client::Event;
use std::cell::Cell;
use std::rc::Rc;
use wire::names::MetaOp;
use wire::{DataCtl, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        ("cut-then-grown", "what was cut off stays away when the file grows again", cut_then_grown as Script),
        ("cut-by-the-dead", "a client cuts a file and dies; another one lets it grow", cut_by_the_dead as Script),
        ("cut-and-all-power", "a file is cut and grows; all hosts lose power at once", cut_and_all_power as Script),
        (
            "write-queued-over-a-cut",
            "a write waits in pieces while another client cuts the file: zeros come before it, not after",
            write_queued_over_a_cut as Script,
        ),
        (
            "write-queued-over-a-body",
            "a write waits in pieces while another client puts small content into the inode",
            write_queued_over_a_body as Script,
        ),
        ("cut-and-leader-change", "the leader dies while a file is cut", cut_and_leader_change as Script),
        (
            "cut-within-a-block",
            "ends within blocks: bytes behind them read as zeros afterwards",
            cut_within_a_block as Script,
        ),
        (
            "zeros-and-extents",
            "zeros over parts of blocks, blocks and holes; where data stands",
            zeros_and_extents as Script,
        ),
        (
            "buffered-becomes-records",
            "small buffered writes leave as large records",
            buffered_becomes_records as Script,
        ),
        ("buffered-and-recalled", "another client reads what was buffered", buffered_and_recalled as Script),
        (
            "buffered-and-deposed",
            "a client with dirty bytes is cut off: its next flush says so, once",
            buffered_and_deposed as Script,
        ),
        (
            "recalled-while-filling-a-block",
            "a lease is recalled while a block is read to be filled, and more of the file is dirty by then",
            recalled_while_filling_a_block as Script,
        ),
        (
            "buffered-over-leader-change",
            "dirty bytes outlive a change of the leader",
            buffered_over_leader_change as Script,
        ),
        ("small-files", "small files stay in the inode and leave it when they grow", small_files as Script),
        ("small-file-power", "a small file leaves the inode while all hosts lose power", small_file_power as Script),
        ("appends-of-two", "two clients append in turn: nothing overlaps", appends_of_two as Script),
        ("front-end-cache", "a front end hears before its lease goes back", front_end_cache as Script),
    ]
}

fn write(at: u64, data: &[u8], buffered: bool) -> ByteOp {
    ByteOp::Write { at: Some(at), data: data.to_vec(), buffered }
}
fn append(data: &[u8], buffered: bool) -> ByteOp {
    ByteOp::Write { at: None, data: data.to_vec(), buffered }
}

impl Cast {
    fn expect_bytes(&mut self, slot: SlotId, file: u32, at: u64, want: &[u8]) -> Result<(), String> {
        let length = want.len() as u32 + 7;
        match self.stage.bytes(slot, file, ByteOp::Read { at, length })? {
            AppAnswer::Bytes(b) if b == want => Ok(()),
            AppAnswer::Bytes(b) => {
                let place = b.iter().zip(want).position(|(a, b)| a != b);
                Err(format!("read {} bytes at {at}, wanted {}; they differ at {place:?}", b.len(), want.len()))
            }
            other => Err(format!("read at {at}: {other:?}")),
        }
    }
    fn expect_zero(&mut self, slot: SlotId, blocks: &[u32]) -> Result<(), String> {
        for b in blocks {
            match self.stage.read(slot, 0, *b)? {
                Seen::Value(0) => {}
                other => return Err(format!("block {b} was cut off and reads as {other:?}")),
            }
        }
        Ok(())
    }
    fn expect_flush(&mut self, slot: SlotId, file: u32, well: bool) -> Result<(), String> {
        let index = self.stage.begin(slot, AppOp::Flush { file })?;
        match (self.stage.wait(index)?, well) {
            (AppAnswer::Done, true) | (AppAnswer::Failed(_), false) => Ok(()),
            (other, _) => Err(format!("flush of file {file}: {other:?}")),
        }
    }
}

fn cut_then_grown(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for (cutter, grower) in [(a, a), (a, b), (b, a)] {
        for block in 0..4 {
            c.stage.write(a, 0, block)?;
        }
        c.stage.truncate(cutter, 0, 1)?;
        c.expect_zero(b, &[1, 2, 3])?;
        let value = c.stage.write(grower, 0, 3)?;
        c.expect_zero(b, &[1, 2])?;
        same("behind the hole", c.stage.read(a, 0, 3)?, value)?;
        c.expect_zero(a, &[1, 2])?;
    }
    // Growth without a write.
    c.stage.truncate(a, 0, 2)?;
    c.stage.truncate(a, 0, 4)?;
    c.expect_zero(b, &[2, 3])?;
    c.stage.finish()
}

fn cut_by_the_dead(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for block in 0..4 {
        c.stage.write(a, 0, block)?;
    }
    c.stage.flush(a, 0)?;
    c.stage.truncate(a, 0, 1)?;
    c.stage.begin(a, AppOp::Write { file: 0, block: 3, values: vec![900_001], buffered: false })?;
    c.stage.run_for(MS);
    c.kill(&[a]);
    c.stage.write(b, 0, 2)?;
    c.expect_zero(b, &[1])?;
    c.stage.finish()
}

fn cut_and_all_power(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for block in 0..4 {
        c.stage.write(a, 0, block)?;
    }
    c.stage.write(a, 0, 255)?;
    c.stage.flush(a, 0)?;
    c.stage.truncate(a, 0, 1)?;
    // Behind the first chunk: the other chunk's records survive by themselves.
    c.stage.write(a, 0, 256)?;
    c.power_of_all();
    c.stage.run_for(20 * S);
    c.expect_zero(b, &[1, 2, 3, 255])?;
    c.stage.write(b, 0, 300)?;
    c.expect_zero(a, &[1, 2, 3, 255])?;
    c.stage.finish()
}

fn cut_and_leader_change(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for round in 0..3 {
        for block in 0..4 {
            c.stage.write(a, 0, block)?;
        }
        let index = c.stage.begin(a, AppOp::Truncate { file: 0, blocks: 1 })?;
        c.stage.run_for(round * MS / 2);
        let leader = c.leader()?;
        c.kill(&[leader]);
        if c.stage.wait(index)? != AppAnswer::Done {
            return Err(format!("a cut failed at a change of the leader: {:?}", c.stage.answer(index)));
        }
        c.start(&[leader]);
        let writer = if round == 1 { b } else { a };
        c.stage.write(writer, 0, 3)?;
        c.expect_zero(b, &[1, 2])?;
        c.stage.run_for(3 * S);
    }
    c.stage.finish()
}

fn cut_within_a_block(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let mut model = vec![7u8; 20_000];
    c.stage.bytes(a, 7, write(0, &model, false))?;
    for (size, grow) in [(10_000, 15_000), (4096, 4097), (4095, 9000), (5000, 5001), (1, 30_000)] {
        c.stage.bytes(a, 7, ByteOp::Truncate { size })?;
        model.truncate(size as usize);
        c.expect_bytes(b, 7, 0, &model)?;
        c.stage.bytes(b, 7, write(grow, &[9], false))?;
        model.resize(grow as usize, 0);
        model.push(9);
        c.expect_bytes(a, 7, 0, &model)?;
        c.stage.bytes(a, 7, write(0, &[5; 3000], true))?;
        let n = model.len().min(3000);
        model[..n].fill(5);
        model.resize(model.len().max(3000), 5);
    }
    c.expect_bytes(b, 7, 0, &model)?;
    c.stage.finish()
}

fn zeros_and_extents(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let mut model = vec![3u8; 64 << 10];
    c.stage.bytes(a, 7, write(0, &model, false))?;
    let zero = |at: u64, length: u64, discard, keep_size| ByteOp::Zero { at, length, discard, keep_size };
    for (at, length, discard) in [(100, 50, false), (4000, 9000, true), (16384, 8192, true), (40_000, 4096, false)] {
        c.stage.bytes(a, 7, zero(at, length, discard, true))?;
        model[at as usize..(at + length) as usize].fill(0);
        c.expect_bytes(b, 7, 0, &model)?;
    }
    // Past the end: nothing is stored; the size grows if it may.
    c.stage.bytes(a, 7, zero(60 << 10, 3 << 20, true, true))?;
    model[60 << 10..].fill(0);
    c.expect_bytes(b, 7, 0, &model)?;
    c.stage.bytes(a, 7, zero(62 << 10, 3 << 20, false, false))?;
    let end = (62u64 << 10) + (3 << 20);
    match c.stage.bytes(b, 7, ByteOp::Extents { at: 0, length: 1 << 30 })? {
        AppAnswer::Extents(e) => {
            let told: u64 = e.iter().map(|x| x.1).sum();
            let data: u64 = e.iter().filter(|x| x.2).map(|x| x.1).sum();
            let holes = e.iter().filter(|x| !x.2).map(|x| (x.0, x.1));
            if told != end || data > 60 << 10 || !holes.clone().any(|h| h == (16384, 8192)) {
                return Err(format!("extents of {end} bytes: {e:?}"));
            }
        }
        other => return Err(format!("extents: {other:?}")),
    }
    // A place without a chunk gets none.
    c.stage.bytes(a, 7, zero(1 << 20, 1 << 20, false, true))?;
    let survey = &mut c.stage.system.survey;
    survey.refresh(&mut c.stage.world, 8);
    let chunks = survey.chunks().iter().filter(|x| x.file == Some(7)).count();
    if chunks != 1 {
        return Err(format!("zeros made chunks: {chunks} instead of 1"));
    }
    c.stage.finish()
}

fn buffered_becomes_records(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    c.stage.bytes(a, 7, write(0, &[1; 5000], false))?;
    c.stage.run_for(S);
    let writes = c.stage.rule_count(move |m| m.from == a && matches!(m.msg, Msg::Write(_)));
    let mut model = vec![1u8; 5000];
    for i in 0..300u64 {
        let at = i * 3500;
        c.stage.bytes(a, 7, write(at, &[i as u8; 3500], true))?;
        model.resize(model.len().max(at as usize + 3500), 0);
        model[at as usize..at as usize + 3500].fill(i as u8);
    }
    if writes.get() > 0 {
        return Err(format!("{} records left before anybody asked", writes.get()));
    }
    let tail = model.len() - 9000;
    c.expect_bytes(a, 7, tail as u64, &model[tail..])?;
    c.stage.flush(a, 7)?;
    // 1.05 MB in records of 64 KiB, to three members each.
    if writes.get() > 3 * 17 {
        return Err(format!("{} messages for 17 records", writes.get()));
    }
    c.expect_bytes(b, 7, 0, &model)?;
    // By age, without anybody asking.
    c.stage.bytes(a, 7, write(0, &[8; 100], true))?;
    let before = writes.get();
    c.stage.run_for(2 * S);
    if writes.get() == before {
        return Err("what was dirty for two seconds is still in memory only".into());
    }
    c.stage.finish()
}

fn buffered_and_recalled(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for round in 0..6u32 {
        let (writer, reader) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let value = c.stage.buffer(writer, 0, round % 3)?;
        same("own memory", c.stage.read(writer, 0, round % 3)?, value)?;
        same("after the recall", c.stage.read(reader, 0, round % 3)?, value)?;
    }
    c.stage.flush(a, 0)?;
    c.stage.flush(b, 0)?;
    c.stage.finish()
}

fn buffered_and_deposed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    c.stage.write(a, 0, 0)?;
    let servers: Vec<SlotId> = c.mds.iter().chain(&c.cs).copied().collect();
    c.cut_off(a, &servers);
    c.stage.buffer(a, 0, 1)?;
    let value = c.stage.write(b, 0, 1)?;
    c.stage.run_for(2 * S);
    c.mend_off(a, &servers);
    c.expect_flush(a, 0, false)?;
    c.expect_flush(a, 0, true)?;
    same("what the other client wrote", c.stage.read(a, 0, 1)?, value)?;
    c.stage.finish()
}

fn recalled_while_filling_a_block(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let mut model = vec![1u8; 5000];
    c.stage.bytes(a, 7, write(0, &model, false))?;
    c.stage.bytes(a, 7, append(&[2; 100], true))?;
    let rule = c.hold(move |from, _, m| from == a && matches!(m, Msg::Data(DataCtl::Read { .. })));
    let flush = c.stage.begin(a, AppOp::Flush { file: 7 })?;
    c.until_held("the last block is read", S)?;
    c.stage.bytes(a, 7, append(&[3; 100], true))?;
    let read = c.stage.begin(b, AppOp::Bytes { file: 7, op: ByteOp::Read { at: 0, length: 8192 } })?;
    c.stage.run_for(300 * MS);
    c.stage.world.remove_rule(rule);
    c.stage.world.release(true, |_, _, _| true);
    match c.stage.wait(flush)? {
        AppAnswer::Done => {}
        other => return Err(format!("what a living client had told its program was lost: {other:?}")),
    }
    model.extend([[2; 100], [3; 100]].concat());
    match c.stage.wait(read)? {
        AppAnswer::Bytes(seen) if seen == model => {}
        other => return Err(format!("another client read {other:?}")),
    }
    c.expect_flush(a, 7, true)?;
    c.stage.finish()
}

fn buffered_over_leader_change(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    for _ in 0..3 {
        let value = c.stage.buffer(a, 0, 1)?;
        let leader = c.leader()?;
        c.kill(&[leader]);
        c.stage.flush(a, 0)?;
        c.start(&[leader]);
        same("after the change", c.stage.read(b, 0, 1)?, value)?;
        c.stage.run_for(3 * S);
    }
    c.stage.finish()
}

fn small_files(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let data = c.stage.rule_count(|m| matches!(m.msg, Msg::Write(_)));
    let bodies = c.stage.rule_count(|m| matches!(m.msg, Msg::ToMds(ToMds::Meta { op: MetaOp::SetBody { .. }, .. })));
    c.stage.bytes(a, 11, write(0, b"hello", true))?;
    c.stage.bytes(a, 11, append(b" world", true))?;
    c.expect_bytes(a, 11, 0, b"hello world")?;
    c.stage.flush(a, 11)?;
    if (data.get(), bodies.get()) != (0, 1) {
        return Err(format!("{} records and {} bodies for a small file", data.get(), bodies.get()));
    }
    c.expect_bytes(b, 11, 0, b"hello world")?;
    c.stage.bytes(b, 11, write(0, b"J", true))?;
    c.expect_bytes(a, 11, 0, b"Jello world")?;
    c.stage.bytes(a, 11, ByteOp::Truncate { size: 5 })?;
    c.expect_bytes(b, 11, 0, b"Jello")?;
    // It grows out of the inode, by a buffered write and by another one.
    c.stage.bytes(b, 11, write(3000, b"far", true))?;
    let mut model = b"Jello".to_vec();
    model.resize(3000, 0);
    model.extend_from_slice(b"far");
    c.expect_bytes(b, 11, 0, &model)?;
    c.expect_bytes(a, 11, 0, &model)?;
    c.stage.bytes(a, 12, write(0, b"x", true))?;
    c.stage.flush(a, 12)?;
    c.stage.bytes(b, 12, write(1, b"y", false))?;
    c.expect_bytes(a, 12, 0, b"xy")?;
    c.stage.finish()
}

fn small_file_power(mutant: Option<&str>) -> Result<(), String> {
    for at in 0..12 {
        let mut c = cast(mutant)?;
        let (a, b) = (c.clients[0], c.clients[1]);
        c.stage.bytes(a, 11, write(0, b"precious", true))?;
        c.stage.flush(a, 11)?;
        let op = AppOp::Bytes { file: 11, op: write(100_000, b"far", false) };
        c.stage.begin(a, op)?;
        c.stage.run_for(at * 400_000);
        c.power_of_all();
        c.stage.run_for(20 * S);
        match c.stage.bytes(b, 11, ByteOp::Read { at: 0, length: 8 })? {
            AppAnswer::Bytes(x) if x == b"precious" => {}
            other => return Err(format!("after a power loss {at} moments into the move: {other:?}")),
        }
        c.stage.finish()?;
    }
    Ok(())
}

fn appends_of_two(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let mut model = Vec::new();
    for i in 0..40u8 {
        let slot = if i % 3 == 0 { a } else { b };
        let data = vec![i + 1; 200 + usize::from(i) * 37];
        match c.stage.bytes(slot, 7, append(&data, i % 2 == 0))? {
            AppAnswer::Placed(at) if at == model.len() as u64 => model.extend_from_slice(&data),
            other => return Err(format!("append {i} to {} bytes: {other:?}", model.len())),
        }
    }
    c.expect_bytes(a, 7, 0, &model)?;
    c.expect_bytes(b, 7, 0, &model)?;
    // Both at once.
    let mut open = Vec::new();
    for i in 0..20u8 {
        for slot in [a, b] {
            let op = AppOp::Bytes { file: 7, op: append(&vec![100 + i; 1000], i % 2 == 0) };
            open.push(c.stage.begin(slot, op)?);
        }
    }
    let mut places = Vec::new();
    for index in open {
        match c.stage.wait(index)? {
            AppAnswer::Placed(at) => places.push(at),
            other => return Err(format!("an append of many: {other:?}")),
        }
    }
    places.sort_unstable();
    let base = model.len() as u64;
    if places.iter().enumerate().any(|(i, at)| *at != base + 1000 * i as u64) {
        return Err(format!("appends overlap or leave gaps behind {base}: {places:?}"));
    }
    c.stage.finish()
}

fn front_end_cache(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    c.stage.write(a, 0, 0)?;
    c.stage.bytes(a, 0, ByteOp::Cached)?;
    let index = c.stage.begin(b, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_for(200 * MS);
    if c.stage.answer(index).is_some() {
        return Err("the lease went back before the front end was heard".into());
    }
    let app = c.stage.world.node::<Application>(a).ok_or("no client")?;
    let events = app.events();
    let Some(&Event::Revoke { ino, .. }) = events.first() else {
        return Err(format!("the front end heard {events:?}"));
    };
    // It says nothing: the lease goes back all the same, in time.
    c.stage.wait(index)?;
    let app = c.stage.world.node::<Application>(a).ok_or("no client")?;
    if app.client.view_of(ino).is_some() {
        return Err("a view of a file without a lease".into());
    }
    // Taken by force: the leader waits for the front end's word.
    c.stage.write(a, 0, 0)?;
    c.stage.bytes(a, 0, ByteOp::Cached)?;
    let servers: Vec<SlotId> = c.mds.iter().chain(&c.cs).copied().collect();
    c.cut_off(a, &servers);
    c.stage.write(b, 0, 0)?;
    c.mend_off(a, &servers);
    c.stage.run_for(2 * S);
    let app = c.stage.world.node::<Application>(a).ok_or("no client")?;
    let events = app.events();
    let revoked = |e: &Event| matches!(e, Event::Revoke { ino: i, .. } if *i == ino);
    if !events.iter().any(revoked) {
        return Err(format!("the front end heard {events:?} of a lease that was taken"));
    }
    c.stage.finish()
}

/// A write of the first client is cut into pieces and waits for its chunk; until the rule that is returned ends, neither
/// its question for the chunk nor, once the lease has gone, the one for that arrives.
fn queue_write(c: &mut Cast, file: u32, block: u32) -> Result<(usize, u64, u32), String> {
    let waits = c.clients[0];
    let begin = Rc::new(Cell::new(false));
    let began = Rc::clone(&begin);
    let lost = c.stage.rule(move |m| match m.msg {
        Msg::ToMds(ToMds::Map { .. }) if m.from == waits => Verdict::Drop,
        Msg::ToMds(ToMds::Meta { op: MetaOp::Open { .. }, .. }) if m.from == waits && began.get() => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let (index, value) = c.stage.begin_write(waits, file, block)?;
    c.stage.run_for(100 * MS);
    begin.set(true);
    Ok((index, value, lost))
}

/// What a file keeps behind an end that was cut is zeroed before anything is written there. A write that was taken from the
/// queue under an earlier lease must wait for that too: zeros that come after it would take it away again.
fn write_queued_over_a_cut(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (waits, cuts) = (c.clients[0], c.clients[1]);
    let (index, value, lost) = queue_write(&mut c, 0, 296)?;
    c.stage.write(cuts, 0, 316)?;
    c.stage.truncate(cuts, 0, 276)?;
    c.stage.world.remove_rule(lost);
    c.stage.wait(index)?;
    c.stage.write(waits, 0, 356)?;
    let seen = c.stage.read(waits, 0, 296)?;
    same("after the file grew once more", seen, value)?;
    c.stage.finish()
}

/// Content that somebody else put into the inode moves to the chunks before a write that waited goes there.
fn write_queued_over_a_body(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let small = c.clients[1];
    let (index, value, lost) = queue_write(&mut c, 11, 3)?;
    c.stage.bytes(small, 11, write(0, b"small", true))?;
    c.stage.flush(small, 11)?;
    c.stage.world.remove_rule(lost);
    c.stage.wait(index)?;
    let seen = c.stage.read(small, 11, 3)?;
    same("a write that waited for its chunk", seen, value)?;
    match c.stage.bytes(small, 11, ByteOp::Read { at: 0, length: 5 })? {
        AppAnswer::Bytes(b) if b == b"small" => {}
        other => return Err(format!("small content: {other:?}")),
    }
    c.stage.finish()
}
