//! Scenarios about disks that hold something else than they were given.

use super::super::{Chunks, Shape};
use super::cast::{Cast, cast, cast_as, same};
use crate::actor::{AppAnswer, AppOp, ByteOp, SlotId};
use crate::block;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use bytes::Bytes;
use chunk_store::{ChunkStore, Done, Effects, Extent, OpenOptions, Ticket};
use types::{BLOCK, BootVerifier, ChunkId};
use wire::Msg;

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "damaged-block-read",
            "a bit flips in the block of the member that a reader asks",
            damaged_block_read as Script,
        ),
        (
            "mended-after-it-was-written",
            "a damaged block is written anew while content for it is on the way from another member",
            mended_after_written as Script,
        ),
        (
            "part-of-a-lost-block",
            "no member has a block undamaged: a write of a part of it ends, and one of all of it ends the loss",
            part_of_a_lost_block as Script,
        ),
        (
            "outvoted-and-filled-again",
            "a copy holds what no other member does, and its checksums say so too: it is dropped, and filled again",
            outvoted as Script,
        ),
    ]
}

impl Cast {
    /// Stops and starts each of these servers in order: what they hold stands in the data area then, and not in memory.
    fn merge(&mut self, slots: &[SlotId]) -> Result<(), String> {
        for s in slots {
            self.stage.world.stop(*s);
            let s = *s;
            self.stage.run_until("a stop in order", 10 * S, |x| !x.world.is_up(s))?;
            self.start(&[s]);
            self.stage.run_for(3 * S);
            self.until_three("the view is whole after a restart", 60 * S)?;
        }
        Ok(())
    }
    /// Writes block 0 of file 0, which stands in the data area of all its members then. The value and the members.
    fn merged_write(&mut self) -> Result<(u64, [SlotId; 3]), String> {
        let value = self.settled_write(self.clients[0], 0)?;
        let members = self.three()?;
        self.merge(&members)?;
        Ok((value, self.three()?))
    }
    /// Flips a bit of block 0 of file 0 in the data area of this server.
    fn flip(&mut self, slot: SlotId) -> Result<(), String> {
        let chunk = self.first_chunk()?.id;
        let memory = self.stage.world.slot(slot).disk.memory.clone();
        let found = chunk_store::survey(&mut memory.clone()).map_err(|e| e.to_string())?;
        let b = found.blocks.iter().find(|b| (b.chunk, b.block) == (chunk, 0)).ok_or("the block is not merged")?;
        memory.flip(&format!("seg-{:05}", b.segment), b.offset + 77, 4);
        Ok(())
    }
}

fn damaged_block_read(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (value, [asked, ..]) = c.merged_write()?;
    c.flip(asked)?;
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("beside a damaged copy", seen, value)?;
    // The reader's doubt made the server look, and mend.
    c.stage.run_for(5 * S);
    c.stage.finish()
}

fn mended_after_written(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let client = c.clients[0];
    let (_, [asked, ..]) = c.merged_write()?;
    c.flip(asked)?;
    let rule = c.stage.rule(move |m| match m.msg {
        Msg::Mend(_) if m.to == asked => Verdict::Hold,
        _ => Verdict::Pass,
    });
    c.stage.read(client, 0, 0)?;
    c.until_held("content for the damaged block", 10 * S)?;
    let value = c.settled_write(client, 0)?;
    c.stage.world.remove_rule(rule);
    if c.stage.world.release(true, |_, _, _| true) == 0 {
        return Err("no content was held: the scenario does not do what it says".into());
    }
    c.stage.run_for(S);
    let seen = c.stage.read(client, 0, 0)?;
    same("behind content that came too late", seen, value)?;
    c.stage.finish()
}

fn part_of_a_lost_block(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let client = c.clients[0];
    for m in c.merged_write()?.1 {
        c.flip(m)?;
    }
    let begun = c.stage.world.now();
    let part = |buffered| AppOp::Bytes { file: 0, op: ByteOp::Write { at: Some(100), data: vec![7; 50], buffered } };
    let index = c.stage.begin(client, part(false))?;
    match c.stage.wait(index)? {
        AppAnswer::Failed(_) if c.stage.world.now() - begun < 20 * S => {}
        other => {
            return Err(format!(
                "a write of part of a lost block: {other:?} after {} ms",
                (c.stage.world.now() - begun) / MS
            ));
        }
    }
    // Buffered it is answered at once; the flush tells.
    let index = c.stage.begin(client, part(true))?;
    if c.stage.wait(index)? != AppAnswer::Done {
        return Err(format!("a buffered write: {:?}", c.stage.answer(index)));
    }
    let index = c.stage.begin(client, AppOp::Flush { file: 0 })?;
    if !matches!(c.stage.wait(index)?, AppAnswer::Failed(_)) {
        return Err(format!("a flush behind it: {:?}", c.stage.answer(index)));
    }
    let value = c.settled_write(client, 0)?;
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("written over what was lost", seen, value)?;
    c.stage.finish()
}

fn outvoted(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { damage: true, ..Shape::default() }, mutant)?;
    let (value, [odd, ..]) = c.merged_write()?;
    let chunk = c.first_chunk()?.id;
    let server = c.stage.world.node::<Chunks>(odd);
    let before = server.and_then(|s| s.0.copy(chunk)).map(|x| x.copy).ok_or("the odd copy is not there")?;
    c.stage.world.stop(odd);
    c.stage.run_until("a stop in order", 10 * S, |s| !s.world.is_up(odd))?;
    forge(&c.stage.world.slot(odd).disk.memory, chunk)?;
    c.start(&[odd]);
    c.stage.run_until("the odd copy is given up and another one stands in its place", 90 * S, |s| {
        let server = s.world.node::<Chunks>(odd);
        server.is_some_and(|s| s.0.ready() && s.0.copy(chunk).is_none_or(|x| x.copy != before))
    })?;
    c.until_three("the copy is made anew", 90 * S)?;
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("after the vote", seen, value)?;
    c.stage.finish()
}

/// Writes something else to block 0 of a stopped store, with its checksum.
fn forge(memory: &host::memory::MemoryDisk, chunk: ChunkId) -> Result<(), String> {
    let mut disk = memory.clone();
    let options = OpenOptions::new(BootVerifier(1));
    let (mut store, _) = chunk_store::open(&mut disk, None, options).map_err(|e| e.to_string())?;
    let mut data = Vec::new();
    block::fill(4_000_000_000, &mut data);
    let data = Bytes::from(data);
    let extent = Extent { offset: 0, length: BLOCK, crcs: vec![checksum::crc32c(&data)], payload: Some(data) };
    carry_out(memory, &mut store, |s, fx| s.patch(Ticket(1), chunk, None, vec![extent], true, fx))?;
    carry_out(memory, &mut store, |s, fx| s.stop(Ticket(2), fx))
}
fn carry_out(
    memory: &host::memory::MemoryDisk,
    store: &mut ChunkStore,
    f: impl FnOnce(&mut ChunkStore, &mut Effects) -> Result<(), chunk_store::StoreError>,
) -> Result<(), String> {
    let mut fx = Effects::default();
    f(store, &mut fx).map_err(|e| e.to_string())?;
    while let Some((tag, op)) = fx.ops.pop() {
        store.complete(tag, memory.run(op), &mut fx);
    }
    if fx.done.iter().all(|d| d.1 == Done::Ok) && !fx.done.is_empty() { Ok(()) } else { Err(format!("{:?}", fx.done)) }
}
