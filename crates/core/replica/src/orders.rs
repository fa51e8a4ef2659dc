//! What a copy does on the word of the metadata group, which takes its chunk over: fences, merges, replacements.

use crate::copy::{CopyState, Joining, RECENT_MAX, TAIL_MAX, UNTOLD};
use crate::member::{Seat, lost, report};
use crate::ops::Ops;
use crate::rules::Rules;
use alloc::boxed::Box;
use alloc::vec::Vec;
use marks::mark;
use types::{ChunkId, CopyId, CsId, LeaseEpoch, Member, Seq};
use wire::{CopyReport, OpDone, RangeRec};

/// What to do with a fence of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceVerdict {
    /// Older than what is promised, or not to be answered yet: say nothing.
    Ignore,
    /// Answer at once with this report: nothing here can be trusted.
    Report(CopyReport),
    /// Store this state durably, then wait (promises, writes in flight), then report.
    Store(CopyState),
    /// Stored already: wait as before, then report.
    Known,
}

/// What to do with the word that a copy is clean after all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClearVerdict {
    /// Older than what is promised: say nothing.
    Ignore,
    /// It is not so: answer that it failed.
    Fail,
    /// Store this state durably, then wait as for a fence, then answer.
    Store(Box<CopyState>),
    /// Stored already: wait as before, then answer.
    Known,
}

/// What to do with a merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConvergeVerdict {
    /// Of an older epoch than the promised one: say nothing.
    Ignore,
    /// It cannot be taken: answer that it failed.
    Fail,
    /// It is in already: answer that it succeeded.
    Done,
    /// Take the ranges from the winner and end at its `last`.
    Pull,
    /// This copy wins, or nothing differs: change the state only.
    Keep,
}

/// What to do with a replacement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplaceVerdict {
    /// Older than what is here: say nothing.
    Ignore,
    /// Not the copy that may be destroyed: answer that it failed.
    Fail,
    /// It is in already: answer that it succeeded.
    Done,
    /// What stands here becomes the new copy: store this state durably.
    Adopt(CopyState),
    /// Replace whatever is here by this empty copy, durably, then copy all from the source.
    Copy(CopyState),
}

impl Seat<'_> {
    /// Judges a fence of `epoch` for the chunk's copy `copy`, which is the chunk's first one on this server if `initial`.
    pub fn fence(&self, chunk: ChunkId, epoch: LeaseEpoch, copy: CopyId, initial: bool) -> FenceVerdict {
        let Some(c) = self.copy else {
            if !self.reconciled {
                mark!("fence.starting");
                return FenceVerdict::Ignore;
            }
            if !initial || !self.may_be_absent(chunk) || !copy.is_some() {
                mark!("fence.absent-lost");
                return FenceVerdict::Report(lost(chunk, copy));
            }
            mark!("fence.absent-created");
            let mut fresh = CopyState::new(chunk, copy);
            fresh.promised = epoch;
            return FenceVerdict::Store(fresh);
        };
        if c.copy < copy {
            // The group has seen the named copy here and an older one stands in its place: the named one is lost.
            mark!("fence.older-copy-in-place");
            return FenceVerdict::Report(lost(chunk, copy));
        }
        if c.unclean && self.rules.unclean {
            mark!("fence.unclean");
            return FenceVerdict::Report(report(c));
        }
        if epoch < c.promised && self.rules.epochs {
            mark!("fence.low-epoch");
            return FenceVerdict::Ignore;
        }
        if epoch <= c.promised {
            mark!("fence.known");
            return FenceVerdict::Known;
        }
        let mut raised = c.clone();
        raised.promised = epoch;
        FenceVerdict::Store(raised)
    }

    /// Judges the word that under the fence of `epoch` a clean copy ends at (`written`, `last`). A power loss leaves a copy as
    /// it was after some record; if that is the record where a clean one stands, nothing is missing. Damage is another thing.
    pub fn clear(&self, epoch: LeaseEpoch, copy: CopyId, written: LeaseEpoch, last: Seq) -> ClearVerdict {
        let Some(c) = self.copy.filter(|c| c.copy == copy) else { return ClearVerdict::Fail };
        if epoch < c.promised {
            return ClearVerdict::Ignore;
        }
        if !c.unclean {
            return if epoch == c.promised { ClearVerdict::Known } else { ClearVerdict::Fail };
        }
        if c.damaged || c.joining.is_some() || (c.written, c.last) != (written, last) {
            return ClearVerdict::Fail;
        }
        ClearVerdict::Store(Box::new(CopyState { promised: epoch, unclean: false, ..c.clone() }))
    }

    /// Judges a merge under the fence of `epoch`. Only the clean copy named, whose promised epoch is the fence's, takes
    /// it: any other has moved on or was not asked.
    pub fn converge(
        &self,
        me: CsId,
        epoch: LeaseEpoch,
        copy: CopyId,
        winner: Member,
        last: Seq,
        ranges: &[(u32, u32)],
    ) -> ConvergeVerdict {
        let Some(c) = self.copy else { return ConvergeVerdict::Fail };
        let newest = epoch == c.promised || !self.rules.merges_of_this_fence;
        if epoch < c.promised && !newest {
            mark!("converge.low-epoch");
            return ConvergeVerdict::Ignore;
        }
        let foreign = c.copy != copy && self.rules.copy_ids;
        if foreign || c.unclean && self.rules.unclean || !newest {
            mark!("converge.not-this-copy");
            return ConvergeVerdict::Fail;
        }
        if c.joining.is_some_and(|j| !j.copied) {
            mark!("converge.half-filled");
            return ConvergeVerdict::Fail;
        }
        if c.written == epoch && c.joining.is_none() {
            mark!("converge.again");
            return if c.last == last { ConvergeVerdict::Done } else { ConvergeVerdict::Fail };
        }
        if winner.cs == me || ranges.is_empty() {
            let mine = winner.cs != me || winner.copy == c.copy;
            // Without ranges a copy that ends elsewhere cannot have what it lacks.
            let ends = c.last == last || !self.rules.merge_tails;
            return if mine && ends { ConvergeVerdict::Keep } else { ConvergeVerdict::Fail };
        }
        ConvergeVerdict::Pull
    }

    /// Judges a replacement. A server never goes back to an older copy id, and destroys only the copy it is told to.
    pub fn replace(
        &self,
        chunk: ChunkId,
        me: CsId,
        epoch: LeaseEpoch,
        copy: CopyId,
        supersedes: CopyId,
        source: Member,
    ) -> ReplaceVerdict {
        let adopts = source == Member { cs: me, copy: supersedes };
        if let Some(c) = self.copy {
            if epoch < c.promised && self.rules.epochs || copy < c.copy && self.rules.no_older_copy {
                mark!("replace.low-epoch-or-older");
                return ReplaceVerdict::Ignore;
            }
            if copy == c.copy {
                mark!("replace.again");
                let whole = c.joining.is_none() && !(c.unclean && self.rules.unclean);
                return if whole { ReplaceVerdict::Done } else { ReplaceVerdict::Fail };
            }
            // An older copy than the one to be destroyed stands in for it: the group knows that one to be lost.
            if supersedes < c.copy || adopts && supersedes != c.copy {
                mark!("replace.not-superseded");
                return ReplaceVerdict::Fail;
            }
            if adopts {
                if c.joining.is_some_and(|j| !j.copied) {
                    mark!("replace.heir-half-filled");
                    return ReplaceVerdict::Fail;
                }
                mark!("replace.crowned");
                let mut s = c.clone();
                s.copy = copy;
                s.promised = epoch;
                s.unclean = false;
                s.damaged = false;
                s.end_join();
                // What those had who left before may be more than what is left.
                s.full = UNTOLD;
                s.missed = None;
                s.stable = s.stable.min(s.last);
                return ReplaceVerdict::Adopt(s);
            }
        } else if !self.reconciled {
            return ReplaceVerdict::Ignore;
        } else if !copy.is_some() {
            return ReplaceVerdict::Fail;
        } else if adopts {
            // No server of the view has anything: the chunk goes on empty, if that is what the group says.
            if supersedes.is_some() {
                return ReplaceVerdict::Fail;
            }
            mark!("replace.crowned-empty");
            let mut s = CopyState::new(chunk, copy);
            s.promised = epoch;
            return ReplaceVerdict::Adopt(s);
        }
        if source.cs == me {
            return ReplaceVerdict::Fail;
        }
        let mut fresh = CopyState::new(chunk, copy);
        fresh.promised = epoch;
        fresh.recent = None;
        fresh.full = UNTOLD;
        fresh.joining = Some(Joining { base: Seq(0), copied: false });
        ReplaceVerdict::Copy(fresh)
    }

    /// Is this exactly the copy to forget?
    pub fn delete(&self, copy: CopyId) -> bool {
        self.copy.is_some_and(|c| c.copy == copy)
    }
}

/// The state after a merge under `epoch` that ends at `last`, with the operations that the winner remembers: the merged ranges stay as tail until the next holder's
/// `stable` passes them, because until then the other members may lack them.
pub fn converged(
    rules: &Rules,
    c: &CopyState,
    epoch: LeaseEpoch,
    last: Seq,
    ranges: &[(u32, u32)],
    ops: &[OpDone],
) -> CopyState {
    let mut s = c.clone();
    s.last = last;
    if rules.ops_follow_records {
        s.ops = Ops::told(ops);
    }
    s.ops.cut(last);
    s.stable = s.stable.min(last);
    s.flushed = s.flushed.min(last);
    s.written = epoch;
    s.end_join();
    if let Some(m) = &mut s.missed {
        ranges.iter().for_each(|&(offset, length)| m.regions.put(offset, length));
    }
    let recs = || ranges.iter().map(|&(offset, length)| RangeRec { seq: last, offset, length });
    let tail = last > s.stable && rules.merged_stay_tail;
    s.tail = if tail { recs().collect() } else { Vec::new() };
    if let Some(r) = &mut s.recent {
        // What this copy held above `last` was overwritten by the winner's content, so its ranges count as of `last`.
        r.iter_mut().for_each(|x| x.seq = x.seq.min(last));
        r.extend(recs());
        if r.len() > RECENT_MAX {
            s.recent = None;
        }
    }
    s
}

/// The state of a copy made whole from `source` under the id `copy` and the fence `epoch`: all that the source knows of
/// its records, so that a merge treats both alike.
pub fn replaced(copy: CopyId, epoch: LeaseEpoch, source: &CopyReport) -> CopyState {
    let mut s = CopyState::new(source.chunk, copy);
    s.file = source.file;
    s.full = UNTOLD;
    s.promised = epoch;
    s.written = source.written;
    s.last = source.last;
    s.stable = source.stable.min(source.last);
    s.flushed = source.flushed.min(source.last);
    s.tail = source.tail.iter().copied().filter(|r| r.seq > s.stable).take(3 * TAIL_MAX).collect();
    s.recent = source.recent.clone().filter(|r| r.len() <= RECENT_MAX);
    s.session = source.session;
    s.file_end = source.file_end;
    s.mtime = source.mtime;
    s.truncate_gen = source.truncate_gen;
    s.ops = Ops::told(&source.ops);
    s.ops.cut(s.last);
    s
}
