//! Fetching a copy's content from other servers: which pieces, from whom, how many at once, and when to give up.

use crate::live::Filled;
use chunk_store::Extent;
use std::collections::{BTreeMap, VecDeque};
use types::{BLOCK, ChunkId, CopyId, CsId, LeaseEpoch, Member, Nanos, NodeId, Seq, SessionId, ViewVer};
use wire::{CopyReport, CopyReq, DataCtl, OpDone};

/// Largest piece asked for at once, bytes.
pub(crate) const PIECE: u32 = 1 << 20;
/// Pieces of one copy in flight, until the store has taken them.
const DEPTH: usize = 4;
/// A source that does not answer for so long is not asked again for that piece.
pub(crate) const SOURCE_TIMEOUT: Nanos = Nanos::from_secs(2);
/// Times a piece is tried before the whole is given up.
const TRIES: u32 = 8;
/// Instead of a time: the piece is here, and waits for room in the store.
const HELD: Nanos = Nanos(Nanos::NEVER.0 - 1);
/// A server that has just started is left alone for so long.
const STARTING: Nanos = Nanos::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    No,
    Asked,
    Until(Nanos),
}

/// What the content is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A join; data enters as it comes. Records that came before it began are known here only by what the source says of
    /// them: the end of the file above all.
    Join { state: Option<CopyReport> },
    /// A replacement asked for by `reply`; as a join, and all of the source's state comes with it.
    Replace { reply: NodeId, state: Option<CopyReport> },
    /// A merge asked for by `reply`; everything is staged and enters in one record.
    Converge { reply: NodeId, last: Seq, ranges: Vec<(u32, u32)>, ops: Vec<OpDone>, staged: Vec<Extent> },
}

/// Where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Waiting for the empty copy to be durable.
    Begin,
    /// Asking for the source's state.
    State,
    /// Asking which ranges hold data.
    List,
    /// Fetching.
    Data,
    /// Everything is here; making it durable.
    Settling,
}

#[derive(Debug)]
struct Flight {
    offset: u32,
    length: u32,
    from: CsId,
    tries: u32,
    /// When to stop waiting; NEVER while the store takes it in.
    until: Nanos,
}

/// One copy being fetched.
#[derive(Debug)]
pub(crate) struct Pull {
    pub chunk: ChunkId,
    /// Our own copy id.
    pub to: CopyId,
    pub epoch: LeaseEpoch,
    pub session: SessionId,
    pub ver: ViewVer,
    pub short: bool,
    pub stable: Seq,
    pub flushed: Seq,
    pub sources: Vec<Member>,
    /// What stands here was a member's under this version: only what changed since need be fetched. None: all of it.
    pub since: Option<ViewVer>,
    pub purpose: Purpose,
    pub phase: Phase,
    source: usize,
    /// Sources that could not tell what changed.
    clueless: usize,
    tries: u32,
    until: Nanos,
    /// A source has just started and answers soon: nothing is asked before then.
    rest: Rest,
    todo: VecDeque<(u32, u32, u32)>,
    flight: BTreeMap<u32, Flight>,
    /// Blocks to fetch, as far as known.
    pub total: u32,
    /// Of these, here.
    pub done: u32,
}

impl Pull {
    pub fn new(req: &CopyReq, sources: Vec<Member>, purpose: Purpose, phase: Phase) -> Pull {
        Pull {
            chunk: req.chunk,
            to: req.copy,
            epoch: req.epoch,
            session: req.session,
            ver: req.ver,
            short: req.short,
            stable: req.stable,
            flushed: req.flushed,
            sources,
            since: None,
            purpose,
            phase,
            source: 0,
            clueless: 0,
            tries: 0,
            until: Nanos::ZERO,
            rest: Rest::No,
            todo: VecDeque::new(),
            flight: BTreeMap::new(),
            total: 0,
            done: 0,
        }
    }
    /// Fetch these ranges: pieces of at most [`PIECE`] bytes.
    pub fn plan(&mut self, ranges: &[(u32, u32)]) {
        self.phase = Phase::Data;
        for &(offset, length) in ranges {
            self.total += length / BLOCK;
            let mut at = 0;
            while at < length {
                let n = PIECE.min(length - at);
                self.todo.push_back((offset + at, n, 0));
                at += n;
            }
        }
    }
    /// Everything planned is here.
    pub fn complete(&self) -> bool {
        self.phase == Phase::Data && self.todo.is_empty() && self.flight.is_empty()
    }
    fn request(&self, source: Member, now: Nanos) -> CopyReq {
        CopyReq {
            chunk: self.chunk,
            copy: source.copy,
            member: true,
            session: self.session,
            epoch: self.epoch,
            ver: self.ver,
            short: self.short,
            stable: self.stable,
            flushed: self.flushed,
            stamp: now.0,
        }
    }
    /// The source that is asked next.
    pub fn current(&self) -> Option<Member> {
        let n = self.sources.len();
        if n == 0 { None } else { Some(self.sources[self.source % n]) }
    }

    /// What to ask now. `filled` are blocks that need not be fetched. Errors: it cannot succeed any more.
    pub fn step(
        &mut self,
        now: Nanos,
        ids: &mut u32,
        filled: Option<&Filled>,
        out: &mut Vec<(CsId, DataCtl)>,
    ) -> Result<(), &'static str> {
        let Some(source) = self.current() else { return Err("no source") };
        match self.rest {
            Rest::Asked => {
                self.rest = Rest::Until(now + STARTING);
                return Ok(());
            }
            Rest::Until(t) if now < t => return Ok(()),
            Rest::Until(_) | Rest::No => self.rest = Rest::No,
        }
        match self.phase {
            Phase::Begin | Phase::Settling => {}
            Phase::State | Phase::List => {
                if self.until != Nanos::ZERO && now >= self.until {
                    self.next_source()?;
                }
                if self.until == Nanos::ZERO {
                    let Some(source) = self.current() else { return Err("no source") };
                    self.until = now + SOURCE_TIMEOUT;
                    let req = self.request(source, now);
                    let ask = match self.phase {
                        Phase::State => DataCtl::ChunkState(req),
                        _ => DataCtl::CopyList { req, to: self.to, since: self.since },
                    };
                    out.push((source.cs, ask));
                }
            }
            Phase::Data => {
                let late: Vec<u32> = self.flight.iter().filter(|(_, f)| now >= f.until).map(|(id, _)| *id).collect();
                for id in late {
                    self.failed(id)?;
                }
                while self.flight.len() < DEPTH {
                    let Some((offset, length, tries)) = self.todo.pop_front() else { break };
                    if filled.is_some_and(|f| f.has_range(offset, length)) {
                        self.done += length / BLOCK;
                        continue;
                    }
                    *ids = ids.wrapping_add(1);
                    let source = if tries == 0 { source } else { self.current().unwrap_or(source) };
                    let flight = Flight { offset, length, from: source.cs, tries, until: now + SOURCE_TIMEOUT };
                    self.flight.insert(*ids, flight);
                    let req = self.request(source, now);
                    out.push((source.cs, DataCtl::CopyRead { req, to: self.to, id: u64::from(*ids), offset, length }));
                }
            }
        }
        Ok(())
    }

    /// The current source refuses or is silent: ask the next one. A merge has only its winner.
    pub fn next_source(&mut self) -> Result<(), &'static str> {
        self.tries += 1;
        self.source += 1;
        self.until = Nanos::ZERO;
        if matches!(self.purpose, Purpose::Converge { .. }) || self.tries > TRIES {
            return Err("its sources do not answer");
        }
        if self.phase == Phase::List {
            // The content comes from the next one, so what is known of the content has to come from there too.
            self.phase = Phase::State;
        }
        Ok(())
    }
    /// The current source cannot tell what changed: another one may. False: none can, so everything is fetched.
    pub fn asks_another(&mut self) -> bool {
        self.clueless += 1;
        if self.since.is_none() || self.clueless >= self.sources.len() {
            return false;
        }
        self.source += 1;
        self.until = Nanos::ZERO;
        self.phase = Phase::State;
        true
    }
    /// The source has just started: the same is asked of it again in a moment.
    pub fn source_starts(&mut self) {
        self.until = Nanos::ZERO;
        self.rest = Rest::Asked;
    }
    /// The piece `id` did not come.
    pub fn failed(&mut self, id: u32) -> Result<(), &'static str> {
        let Some(f) = self.flight.remove(&id) else { return Ok(()) };
        if matches!(self.purpose, Purpose::Converge { .. }) || f.tries >= TRIES {
            return Err("its sources do not give a piece");
        }
        if self.current().is_some_and(|m| m.cs == f.from) {
            self.source += 1;
        }
        self.todo.push_back((f.offset, f.length, f.tries + 1));
        Ok(())
    }
    /// The piece has come and is kept until there is room for it.
    pub fn hold(&mut self, id: u32) {
        if let Some(f) = self.flight.get_mut(&id) {
            f.until = HELD;
        }
    }
    /// The source does not give the piece now: it is fetched again, and nobody is to blame.
    pub fn postpone(&mut self, id: u32) -> Result<(), &'static str> {
        let Some(f) = self.flight.remove(&id) else { return Ok(()) };
        self.todo.push_front((f.offset, f.length, f.tries));
        Ok(())
    }
    /// The connection to `cs` broke: what it was asked will not come.
    pub fn reset(&mut self, cs: CsId) -> Result<(), &'static str> {
        if matches!(self.phase, Phase::State | Phase::List)
            && self.current().is_some_and(|m| m.cs == cs)
            && self.until != Nanos::ZERO
        {
            return self.next_source();
        }
        let lost = |f: &Flight| f.from == cs && f.until < HELD;
        let ids: Vec<u32> = self.flight.iter().filter(|(_, f)| lost(f)).map(|(id, _)| *id).collect();
        ids.into_iter().try_for_each(|id| self.failed(id))
    }
    /// Piece `id` as asked of `cs`: (offset, length), while it is waited for.
    pub fn piece(&self, id: u32, cs: CsId) -> Option<(u32, u32)> {
        let f = self.flight.get(&id)?;
        (f.from == cs && f.until != Nanos::NEVER).then_some((f.offset, f.length))
    }
    /// The store takes the piece in; it counts as in flight until [`Self::stored`].
    pub fn storing(&mut self, id: u32) {
        if let Some(f) = self.flight.get_mut(&id) {
            f.until = Nanos::NEVER;
        }
    }
    /// The piece is in.
    pub fn stored(&mut self, id: u32) {
        if let Some(f) = self.flight.remove(&id) {
            self.done += f.length / BLOCK;
        }
    }
    /// The next phase begins.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.until = Nanos::ZERO;
    }
    /// When it wants to look at the time again.
    pub fn deadline(&self) -> Nanos {
        match self.rest {
            Rest::Asked => return Nanos::ZERO,
            Rest::Until(t) => return t,
            Rest::No => {}
        }
        match self.phase {
            Phase::State | Phase::List => self.until,
            Phase::Data => self.flight.values().map(|f| f.until).min().unwrap_or(Nanos::NEVER),
            Phase::Begin | Phase::Settling => Nanos::NEVER,
        }
    }
}
