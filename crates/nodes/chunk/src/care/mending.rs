//! Blocks that are damaged here and wanted from others: whom to ask next, and what follows when all have been asked. Pure.

use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, Member, Nanos};
use wire::integrity::Standing;

/// Blocks asked for in one message.
pub(crate) const ASK_MAX: usize = 64;
/// A server that does not answer for so long is passed over.
const SILENT: Nanos = Nanos::from_secs(2);
/// Between attempts while a server was silent, or a copy was not plain; grows up to [`PAUSE_MAX`].
const PAUSE: Nanos = Nanos::from_millis(500);
const PAUSE_MAX: Nanos = Nanos::from_secs(60);
/// Attempts after which members that all have other content are believed.
const BELIEVE: u32 = 3;

/// What became of asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// A member was silent or may have it later.
    Again,
    /// Members stand exactly where this copy stands, and have other content there: this copy has what nobody wrote.
    GiveUp,
    /// Every member has answered and none has it.
    Lost,
}

/// What one member said of the blocks that are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Said {
    /// Its copy is plain and stands as ours does.
    alike: bool,
    /// Its copy is plain and stands where ours does or before that.
    plain: bool,
    /// Of the blocks that are left, at least one has another checksum there.
    differs: bool,
    answered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The leader is to be asked who the members are, from then on.
    Where(Nanos),
    /// A member was asked; until then.
    Asked(CsId, Nanos),
    /// The next member is to be asked.
    Next,
}

/// Damaged blocks of one chunk.
#[derive(Debug)]
pub(crate) struct Mending {
    /// Block and the checksum of what belongs there.
    pub blocks: BTreeMap<u32, u32>,
    /// Blocks of these that were declared lost.
    pub lost: BTreeSet<u32>,
    members: Vec<Member>,
    said: BTreeMap<CsId, Said>,
    phase: Phase,
    tries: u32,
    /// Number of the question under way.
    pub id: u64,
    /// The last block asked about in this round: the next question goes on behind it.
    cursor: Option<u32>,
    /// From whom content came last.
    pub from: Option<CsId>,
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing before that time.
    Wait(Nanos),
    /// Ask the leader for the members.
    Locate,
    /// Ask this server for these blocks.
    Ask(CsId, Vec<(u32, u32)>),
    /// All were asked.
    Decide(Verdict),
}

impl Mending {
    pub fn new(now: Nanos) -> Mending {
        Mending {
            blocks: BTreeMap::new(),
            lost: BTreeSet::new(),
            members: vec![],
            said: BTreeMap::new(),
            phase: Phase::Where(now),
            tries: 0,
            id: 0,
            cursor: None,
            from: None,
        }
    }
    /// Another damaged block.
    pub fn add(&mut self, now: Nanos, block: u32, crc: u32) -> bool {
        let new = self.blocks.insert(block, crc) != Some(crc);
        if new {
            self.lost.remove(&block);
            if let Phase::Where(at) = &mut self.phase {
                *at = (*at).min(now);
            }
        }
        new
    }
    /// Is it not yet known what becomes of all of them?
    pub fn open(&self) -> bool {
        self.blocks.keys().any(|b| !self.lost.contains(b))
    }

    /// What to do at `now`. `id` numbers a question that is asked.
    pub fn step(&mut self, now: Nanos, id: u64) -> Step {
        match self.phase {
            Phase::Where(at) if now < at => return Step::Wait(at),
            Phase::Where(_) => {
                // Asked again if no answer comes.
                self.phase = Phase::Where(now + SILENT);
                return Step::Locate;
            }
            Phase::Asked(_, until) if now < until => return Step::Wait(until),
            Phase::Asked(cs, _) => {
                self.said.entry(cs).or_insert(Said { alike: false, plain: false, differs: false, answered: false });
                self.next_member();
            }
            Phase::Next => {}
        }
        while let Some(m) = self.members.first().copied() {
            let behind = self.cursor.map_or(0, |c| c + 1);
            let ask: Vec<(u32, u32)> = self.blocks.range(behind..).take(ASK_MAX).map(|(b, c)| (*b, *c)).collect();
            let Some((last, _)) = ask.last().copied() else {
                self.next_member();
                continue;
            };
            self.cursor = Some(last);
            self.id = id;
            self.phase = Phase::Asked(m.cs, now + SILENT);
            return Step::Ask(m.cs, ask);
        }
        Step::Decide(self.verdict(now))
    }
    fn next_member(&mut self) {
        if !self.members.is_empty() {
            self.members.remove(0);
        }
        self.cursor = None;
        self.phase = Phase::Next;
    }
    /// All have been asked: what follows, and when it begins again.
    fn verdict(&mut self, now: Nanos) -> Verdict {
        self.tries += 1;
        let pause = Nanos((PAUSE.0 << self.tries.min(10)).min(PAUSE_MAX.0));
        self.phase = Phase::Where(now + pause);
        let said = std::mem::take(&mut self.said);
        if said.values().any(|s| s.alike && s.differs) {
            // Records may have been on their way; they are not, time after time.
            return if self.tries >= BELIEVE { Verdict::GiveUp } else { Verdict::Again };
        }
        // What was acknowledged is on all members, and a plain copy forgets nothing. So a record that no other one has was
        // never acknowledged, and a takeover must not wait for its content.
        let alone =
            !said.is_empty() && said.values().all(|s| s.answered && s.plain) && said.values().any(|s| s.differs);
        if alone {
            return if self.tries >= BELIEVE { Verdict::GiveUp } else { Verdict::Again };
        }
        if said.values().all(|s| s.answered && s.alike) { Verdict::Lost } else { Verdict::Again }
    }

    /// The leader's word: the members of the chunk besides this server.
    pub fn located(&mut self, others: Vec<Member>) {
        if matches!(self.phase, Phase::Where(_)) {
            self.members = others;
            self.said.clear();
            self.cursor = None;
            self.phase = Phase::Next;
        }
    }
    /// Is this the answer that is waited for?
    pub fn awaits(&self, cs: CsId, id: u64) -> bool {
        self.id == id && matches!(self.phase, Phase::Asked(c, _) if c == cs)
    }
    /// `cs` has answered; blocks that it gave and that are taken have been removed from `blocks` before. `ours` and
    /// `theirs` tell where the copies stand; `damaged` of the blocks that are left it has damaged as well.
    pub fn answered(&mut self, cs: CsId, ours: Option<Standing>, theirs: Option<Standing>, damaged: &[u32]) {
        let mut asked = self.blocks.range(..=self.cursor.unwrap_or(u32::MAX));
        let differs = asked.any(|(b, _)| !damaged.contains(b));
        let same = |a: Standing, b: Standing| a.written == b.written && a.last == b.last;
        // Only the member itself speaks for the view: another copy on its server does not.
        let theirs = theirs.filter(|s| self.members.first().is_some_and(|m| m.cs == cs && m.copy == s.copy));
        let alike = matches!((ours, theirs), (Some(a), Some(b)) if same(a, b));
        let plain = matches!((ours, theirs), (Some(a), Some(b)) if (b.written, b.last) <= (a.written, a.last));
        let before = self.said.get(&cs).copied();
        self.said.insert(
            cs,
            Said {
                alike: alike && before.is_none_or(|s| s.alike),
                plain: plain && before.is_none_or(|s| s.plain),
                differs: differs || before.is_some_and(|s| s.differs),
                answered: true,
            },
        );
        self.phase = Phase::Next;
    }
    /// The connection to `cs` broke.
    pub fn reset(&mut self, cs: CsId, now: Nanos) {
        if let Phase::Asked(c, until) = &mut self.phase
            && *c == cs
        {
            *until = now;
        }
    }
}

/// Chunks of which blocks are damaged.
pub(crate) type Mends = BTreeMap<ChunkId, Mending>;

#[cfg(test)]
mod tests {
    use super::*;
    use types::{CopyId, LeaseEpoch, Seq};

    fn member(cs: u32) -> Member {
        Member { cs: CsId(cs), copy: CopyId(1) }
    }
    fn stands(last: u64) -> Option<Standing> {
        Some(Standing { copy: CopyId(1), written: LeaseEpoch(4), last: Seq(last) })
    }
    fn begun(n: u32) -> Mending {
        let mut m = Mending::new(Nanos(0));
        for b in 0..n {
            assert!(m.add(Nanos(0), b, b + 100));
        }
        assert_eq!(m.step(Nanos(0), 1), Step::Locate);
        m.located(vec![member(2), member(3)]);
        m
    }

    #[test]
    fn members_are_asked_in_turn_and_in_parts() {
        let mut m = begun(ASK_MAX as u32 + 5);
        let Step::Ask(cs, asked) = m.step(Nanos(0), 7) else { panic!() };
        assert_eq!((cs, asked.len(), asked[0]), (CsId(2), ASK_MAX, (0, 100)));
        assert!(m.awaits(CsId(2), 7) && !m.awaits(CsId(2), 6) && !m.awaits(CsId(3), 7));
        (0..ASK_MAX as u32).for_each(|b| assert!(m.blocks.remove(&b).is_some()));
        m.answered(CsId(2), stands(1), stands(1), &[]);
        let Step::Ask(cs, asked) = m.step(Nanos(0), 8) else { panic!() };
        assert_eq!((cs, asked.len()), (CsId(2), 5));
        // Silence: the other one is asked.
        let late = Nanos(0) + SILENT;
        let Step::Ask(cs, asked) = m.step(late, 9) else { panic!() };
        assert_eq!((cs, asked.len()), (CsId(3), 5));
        m.blocks.clear();
        m.answered(CsId(3), stands(1), stands(1), &[]);
        assert!(!m.open());
    }

    #[test]
    fn lost_only_when_all_have_answered_and_have_it_damaged_or_nobody_else_is_there() {
        let mut m = begun(1);
        m.step(Nanos(0), 1);
        m.answered(CsId(2), stands(1), stands(1), &[0]);
        m.step(Nanos(0), 2);
        assert_eq!(m.step(Nanos(0) + SILENT, 3), Step::Decide(Verdict::Again), "one was silent");
        let mut m = begun(1);
        m.step(Nanos(0), 1);
        m.answered(CsId(2), stands(1), stands(1), &[0]);
        m.step(Nanos(0), 2);
        m.answered(CsId(3), stands(1), None, &[]);
        assert_eq!(m.step(Nanos(0), 3), Step::Decide(Verdict::Again), "a copy that is not plain may become so");
        let mut m = begun(1);
        for (id, cs) in [(1, 2), (2, 3)] {
            m.step(Nanos(0), id);
            m.answered(CsId(cs), stands(1), stands(1), &[0]);
        }
        assert_eq!(m.step(Nanos(0), 3), Step::Decide(Verdict::Lost));
        let mut alone = begun(1);
        alone.members.clear();
        assert_eq!(alone.step(Nanos(0), 1), Step::Decide(Verdict::Lost));
        let Step::Wait(_) = alone.step(Nanos(0), 2) else { panic!("it is asked for again, with a pause") };
    }

    #[test]
    fn other_content_is_believed_only_after_several_looks_at_the_same_standing() {
        let mut m = begun(1);
        let mut now = Nanos(0);
        for round in 1..=BELIEVE {
            for (id, cs) in [(1, 2), (2, 3)] {
                assert!(matches!(m.step(now, id), Step::Ask(..)));
                m.answered(CsId(cs), stands(5), stands(5), &[]);
            }
            let want = if round < BELIEVE { Verdict::Again } else { Verdict::GiveUp };
            assert_eq!(m.step(now, 3), Step::Decide(want));
            let Step::Wait(at) = m.step(now, 4) else { panic!() };
            now = at;
            assert_eq!(m.step(now, 5), Step::Locate);
            m.located(vec![member(2), member(3)]);
        }
        // A member that stands further says nothing about this copy, and one behind it only if all others are plain and
        // answer: then what they lack was never acknowledged.
        for (last, third, gives_up) in
            [(6, stands(6), false), (4, None, false), (4, stands(6), false), (4, stands(5), true)]
        {
            let mut m = begun(1);
            let mut now = Nanos(0);
            let mut verdict = Verdict::Again;
            for round in 0..BELIEVE {
                for (id, cs, theirs) in [(1, 2, stands(last)), (2, 3, third)] {
                    assert!(matches!(m.step(now, id), Step::Ask(..)));
                    m.answered(CsId(cs), stands(5), theirs, if theirs == stands(5) { &[0] } else { &[] });
                }
                let Step::Decide(v) = m.step(now, 3) else { panic!() };
                assert!(round + 1 == BELIEVE || v == Verdict::Again);
                verdict = v;
                let Step::Wait(at) = m.step(now, 4) else { panic!() };
                now = at;
                assert_eq!(m.step(now, 5), Step::Locate);
                m.located(vec![member(2), member(3)]);
            }
            assert_eq!(verdict == Verdict::GiveUp, gives_up, "{last} {third:?}");
        }
    }
}
