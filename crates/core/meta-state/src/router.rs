//! The state as a whole: which module a command goes to, and what one module's change means for another.

use crate::chunks::{self, Chunks, Duty, Loss, MINT_MAX, Registration};
use crate::command::{Command, EndSource};
use crate::events;
use crate::kv::{Kv, MemoryKv};
use crate::locks::{LockRules, Locks, Ticket};
use crate::members;
use crate::namespace::{self, Asked, FILE_MAX, Namespace, Stored, layout_error};
use crate::outcome::{AllocError, Outcome, Refused, RegisterResult};
use crate::sessions::{self, Admission, Sessions};
use crate::settings::{self, Cluster, TEXT_MAX};
use crate::table::{self, Row, RowError, system, system_key};
use marks::mark;
use serde::{Deserialize, Serialize};
use types::{CsId, InodeId, OpId, SessionId};
use wire::meta::FileEnd;
use wire::names::{MetaError, MetaOp, MetaOutcome};

/// Where in the log the state stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Index of the newest command applied or skipped.
    pub index: u64,
    /// Newest time that a command carried, in nanoseconds since 1970.
    pub time: i64,
}
impl Row for Applied {}

/// The metadata of a cluster. A function of the commands applied and nothing else: two states that applied the same
/// commands hold the same bytes.
#[derive(Clone)]
pub struct State<K: Kv = MemoryKv> {
    pub(crate) kv: K,
    pub(crate) names: Namespace,
    pub(crate) chunks: Chunks,
    pub(crate) sessions: Sessions,
    pub(crate) locks: Locks,
}

impl State<MemoryKv> {
    /// An empty state in memory, before any command.
    pub fn new() -> State<MemoryKv> {
        State {
            kv: MemoryKv::default(),
            names: Namespace::default(),
            chunks: Chunks::default(),
            sessions: Sessions::default(),
            locks: Locks::default(),
        }
    }
}

impl Default for State<MemoryKv> {
    fn default() -> Self {
        State::new()
    }
}

impl<K: Kv> State<K> {
    /// Opens the state that stands in `kv`, which may be empty: reads every row, and makes the indexes. Err names a row
    /// that cannot be read; nothing is changed.
    pub fn open(kv: K) -> Result<State<K>, RowError> {
        crate::snapshot::check_tables(&kv)?;
        settings::open(&kv)?;
        members::open(&kv)?;
        events::open(&kv)?;
        let names = Namespace::open(&kv)?;
        let chunks = Chunks::open(&kv)?;
        let sessions = Sessions::open(&kv)?;
        let locks = Locks::open(&kv)?;
        Ok(State { kv, names, chunks, sessions, locks })
    }

    /// For tests: goes on without one of [`crate::NAME_RULES`]. Panics if there is no such rule.
    pub fn switch_off(&mut self, rule: &str) {
        assert!(self.names.switch_off(rule), "no rule is called `{rule}`");
    }

    /// For tests: goes on under these rules of locks.
    pub fn set_lock_rules(&mut self, rules: LockRules) {
        self.locks.set_rules(rules);
    }
    /// Which of them hold.
    pub fn lock_rules(&self) -> LockRules {
        self.locks.rules()
    }

    /// Where in the log the state stands.
    pub fn position(&self) -> Applied {
        table::get(&self.kv, &system_key(system::APPLIED)).unwrap_or_default()
    }

    /// Applies the command at `index`. Total: whatever the command says, the outcome is a value, and a command that is
    /// refused has changed nothing but the index. An index at or below the applied one is refused.
    pub fn apply(&mut self, index: u64, cmd: &Command) -> Outcome {
        let at = self.position();
        if index <= at.index {
            return Outcome::Refused(Refused::Applied { applied: at.index });
        }
        let outcome = match cmd {
            Command::Batch(list) => Outcome::Batch(list.iter().map(|c| self.single(index, c)).collect()),
            c => self.single(index, c),
        };
        let time = cmd.time().map_or(at.time, |t| t.max(at.time));
        table::put(&mut self.kv, &system_key(system::APPLIED), &Applied { index, time });
        outcome
    }

    /// Goes past a command without applying it, leaving an event; for an operator whose servers all fail at it.
    pub fn skip(&mut self, index: u64) {
        let at = self.position();
        if index <= at.index {
            return;
        }
        events::append(&mut self.kv, at.time, &format!("the command at log index {index} was skipped by an operator"));
        table::put(&mut self.kv, &system_key(system::APPLIED), &Applied { index, ..at });
    }

    fn single(&mut self, index: u64, cmd: &Command) -> Outcome {
        if !settings::founded(&self.kv) && !matches!(cmd, Command::Init { .. }) {
            return Outcome::Refused(Refused::NoCluster);
        }
        let kv = &mut self.kv;
        match cmd {
            Command::Init { cluster, name, layout, mds, time } => {
                if settings::founded(kv) {
                    return Outcome::Done;
                }
                if !cluster.is_some() || name.is_empty() || name.len() > TEXT_MAX {
                    return Outcome::Refused(Refused::Argument("id or name of the cluster"));
                }
                if layout_error(layout).is_some() {
                    return Outcome::Refused(Refused::Argument("layout"));
                }
                let c = Cluster { id: *cluster, name: name.clone(), mds: mds.clone(), founded: *time };
                settings::found(kv, &c);
                members::found(kv, mds);
                self.names.found(kv, *layout, *time);
                Outcome::Done
            }
            Command::Op { id, time, op, place, keepers } => {
                self.operation(&Request { index, id: *id, time: *time, op, place: place.as_deref(), keepers })
            }
            Command::OpenSession { incarnation, may_cache, time } => {
                Outcome::Session(self.sessions.open_session(kv, *incarnation, *may_cache, *time))
            }
            Command::ResumeSession { session, incarnation, time } => {
                Outcome::Session(self.sessions.resume(kv, *session, *incarnation, *time))
            }
            Command::BlockSession { session, epoch, time } => {
                let blocked = self.sessions.block(kv, *session, *epoch, *time);
                self.locks_end(*session, blocked)
            }
            Command::SettleSession { session } => done(self.sessions.settle(kv, *session)),
            Command::CloseSession { session, time: _ } => {
                let closed = self.sessions.close(kv, *session);
                self.locks_end(*session, closed)
            }
            Command::Reap { steps } => Outcome::Ended { gone: self.reap(*steps, index) },
            Command::RegisterCs { cs, incarnation, boot, lost_memory, addr, host, capacity, time } => {
                let r = Registration {
                    incarnation: *incarnation,
                    boot: *boot,
                    lost_memory: *lost_memory,
                    addr,
                    host,
                    capacity: *capacity,
                    time: *time,
                };
                Outcome::Registered(if !r.is_sound() {
                    RegisterResult::Invalid
                } else {
                    chunks::register(kv, *cs, &r)
                        .map_or(RegisterResult::Unknown, |absent_mark| RegisterResult::Ok { absent_mark })
                })
            }
            Command::AllocChunks { ino, chunks } => Outcome::Chunks(match namespace::view(kv, *ino) {
                None => Err(AllocError::NoFile),
                Some((_, false)) => Err(AllocError::NotRegular),
                Some((inode, true)) => self.chunks.allocate(kv, *ino, &inode.layout, FILE_MAX, chunks),
            }),
            Command::ChangeView { chunk, ver, change } => {
                Outcome::View(self.chunks.change_view(kv, *chunk, *ver, change, index))
            }
            Command::MintCopies { chunk, count } => {
                if *count > MINT_MAX {
                    return Outcome::Refused(Refused::Argument("count of copy ids"));
                }
                Outcome::Copies(self.chunks.mint_copies(kv, *chunk, *count))
            }
            Command::SetEnds { ends, source, time } => {
                Outcome::Ends(ends.iter().map(|e| self.set_end(e, *source, *time)).collect())
            }
            Command::LeaseFloor { ino, epoch } => {
                // Of a file that is gone nobody can hold anything.
                let _ = self.names.raise_lease_floor(kv, *ino, *epoch);
                Outcome::Done
            }
            Command::Loss { chunk, epoch, written, last, time } => {
                let loss = Loss { chunk: *chunk, epoch: *epoch, written: *written, last: *last, time: *time };
                done(chunks::record_loss(kv, loss).then_some(()).ok_or(Refused::NoChunk(*chunk)))
            }
            Command::Deleted { cs, chunk, copy } => {
                chunks::tombstone_gone(kv, *cs, *chunk, *copy);
                Outcome::Done
            }
            Command::MdsLeft { mds, time } => {
                if members::gone(kv, *mds) {
                    events::append(kv, *time, &format!("metadata server {mds} has left the group"));
                }
                Outcome::Done
            }
            Command::DropCs { cs, time } => {
                if self.chunks.duty(*cs) == Duty::Releasing && self.chunks.copies_on(*cs) == 0 {
                    let _ = self.chunks.set_duty(kv, *cs, Duty::Dropped, *time);
                    chunks::forget_tombstones(kv, *cs);
                    events::append(kv, *time, &format!("chunk server {cs} holds nothing any more and was dropped"));
                }
                Outcome::Done
            }
            Command::Event { time, text } => {
                events::append(kv, *time, text);
                Outcome::Done
            }
            Command::SetSetting { key, value } => done(settings::set(kv, key, value).map_err(Refused::Argument)),
            Command::FeatureLevel { level } => {
                settings::raise_level(kv, *level);
                Outcome::Done
            }
            Command::LowWater { session } => Outcome::LowWater(self.sessions.raise_low_water(kv, *session)),
            Command::Batch(_) => Outcome::Refused(Refused::Nested),
        }
    }

    /// Locks end with their session, whether what it wrote is taken over already or not: that is what leases are for.
    fn locks_end(&mut self, session: SessionId, over: Result<(), Refused>) -> Outcome {
        if over.is_ok() {
            self.locks.session_over(&mut self.kv, session);
        }
        done(over)
    }
    /// Who has the lock they waited for, by commands applied since this was asked last.
    pub fn granted(&mut self) -> Vec<Ticket> {
        self.locks.granted()
    }

    fn operation(&mut self, r: &Request<'_>) -> Outcome {
        let plain = |result| Outcome::Op { result, replayed: false, gone: Vec::new() };
        let on_locks = matches!(r.op, MetaOp::Lock { .. } | MetaOp::Unlock { .. } | MetaOp::Unwait { .. });
        let admission = match sessions::admit(&self.kv, r.id) {
            Admission::Replay(_) | Admission::Stale(_) if on_locks && !self.locks.rules().lock_retries_known => {
                Admission::New
            }
            a => a,
        };
        match admission {
            Admission::Gone => return plain(Err(MetaError::SessionGone)),
            Admission::NoSlot => return plain(Err(MetaError::Invalid)),
            Admission::Stale(last) => return Outcome::Stale { last },
            Admission::Replay(result) => {
                if on_locks {
                    mark!("locks.asked-twice");
                }
                return Outcome::Op { result, replayed: true, gone: Vec::new() };
            }
            Admission::New => {}
        }
        // A question needs no log and no memory of its answer; one that comes this way is answered all the same.
        if !r.op.is_write() {
            return plain(self.query(r.op));
        }
        let mut gone = Vec::new();
        let result = self.write_op(r, &mut gone);
        sessions::answer(&mut self.kv, r.id, &result);
        Outcome::Op { result, replayed: false, gone }
    }

    fn write_op(&mut self, r: &Request<'_>, gone: &mut Vec<InodeId>) -> Result<MetaOutcome, MetaError> {
        if let MetaOp::NewCs { nonce } = r.op {
            let cluster = settings::cluster(&self.kv).ok_or(MetaError::Invalid)?;
            let cs = chunks::new_server(&mut self.kv, *nonce).ok_or(MetaError::NoSpace)?;
            return Ok(MetaOutcome::Cs(cs, cluster.id));
        }
        match r.op {
            MetaOp::NewMds { nonce, addr } => return self.new_mds(*nonce, addr, r.time),
            MetaOp::RmMds { mds } => {
                self.with_founders()?;
                members::remove(&mut self.kv, *mds)?;
                let text = format!("metadata server {mds} is to leave the group");
                events::append(&mut self.kv, r.time, &text);
                return Ok(MetaOutcome::Done);
            }
            MetaOp::ReleaseCs { cs, force } => {
                let root = namespace::view(&self.kv, namespace::ROOT).map_or(1, |(i, _)| i.layout.norm);
                let serves = chunks::server(&self.kv, *cs).is_some() && self.chunks.duty(*cs) == Duty::Serves;
                if serves && !force && chunks::serving(&self.kv).filter(|other| other != cs).count() < root.into() {
                    return Err(MetaError::TooFewCs);
                }
                if self.chunks.set_duty(&mut self.kv, *cs, Duty::Releasing, r.time)? {
                    let text = format!("chunk server {cs} is being released: its copies are made anew on others");
                    events::append(&mut self.kv, r.time, &text);
                }
                return Ok(MetaOutcome::Done);
            }
            MetaOp::KeepCs { cs } => {
                if self.chunks.set_duty(&mut self.kv, *cs, Duty::Serves, r.time)? {
                    events::append(&mut self.kv, r.time, &format!("chunk server {cs} stays"));
                }
                return Ok(MetaOutcome::Done);
            }
            _ => {}
        }
        if let MetaOp::Lock { ino, .. } | MetaOp::Unlock { ino, .. } | MetaOp::Unwait { ino, .. } = r.op {
            namespace::live(&self.kv, *ino).ok_or(MetaError::NotFound)?;
            return self.locks.apply(&mut self.kv, r.op, r.id.session);
        }
        let asked = Asked { session: r.id.session, time: r.time, stored: self.stored(r.op) };
        let done = self.names.apply(&mut self.kv, r.op, &asked)?;
        if let (Some(ino), Some(place)) = (done.created, r.place)
            && let Some((inode, true)) = namespace::view(&self.kv, ino)
        {
            // A server may have gone since the leader chose: then the file begins without chunks, as without a wish.
            let _ = self.chunks.allocate(&mut self.kv, ino, &inode.layout, FILE_MAX, &[(0, place.to_vec())]);
        }
        if let Some((ino, first)) = done.cut {
            self.chunks.cut(&mut self.kv, ino, first, r.index);
        }
        if let Some(ino) = done.nameless {
            self.keep(ino, r);
            if !self.names.is_kept(ino) {
                self.discard(ino, r.index, gone);
            }
        }
        if let Some(dir) = done.removed {
            self.locks.file_gone(&mut self.kv, dir);
            gone.push(dir);
        }
        Ok(done.outcome)
    }

    /// The record of the cluster, whose first metadata servers have rows from now on.
    fn with_founders(&mut self) -> Result<Cluster, MetaError> {
        let cluster = settings::cluster(&self.kv).ok_or(MetaError::Invalid)?;
        members::find_founders(&mut self.kv, &cluster.mds);
        Ok(cluster)
    }
    fn new_mds(&mut self, nonce: u64, addr: &str, time: i64) -> Result<MetaOutcome, MetaError> {
        let cluster = self.with_founders()?;
        let before = members::next(&self.kv);
        let id = members::add(&mut self.kv, nonce, addr)?;
        if id == before {
            events::append(&mut self.kv, time, &format!("metadata server {id} at {addr} is to join the group"));
        }
        let born = cluster.mds.iter().map(|(id, _)| *id).collect();
        let group = members::all(&self.kv).map(|(id, m)| (id, m.addr)).collect();
        Ok(MetaOutcome::Mds { id, cluster: cluster.id, born, group })
    }

    /// An inode has no name any more: it is kept for those who may have it open and live.
    fn keep(&mut self, ino: InodeId, r: &Request<'_>) {
        let asks = matches!(r.op, MetaOp::Unlink { keep: true, .. } | MetaOp::Rename { keep: true, .. });
        let others = r.keepers.iter().filter(|(i, _)| *i == ino).map(|(_, s)| *s);
        for s in others.chain(asks.then_some(r.id.session)) {
            if sessions::get(&self.kv, s).is_some_and(|s| s.block.is_none()) {
                self.names.keep_orphan(&mut self.kv, s, ino);
            }
        }
    }

    /// What the operation has to know of its file's chunks.
    fn stored(&self, op: &MetaOp) -> Stored {
        let (ino, cut) = match op {
            MetaOp::Setattr { ino, set } if set.size.is_some() => (*ino, 0),
            MetaOp::Truncate { ino, size, .. } => (*ino, *size),
            MetaOp::SetBody { ino, .. } | MetaOp::Unbody { ino, .. } => (*ino, 0),
            _ => return Stored::default(),
        };
        let Some(inode) = namespace::live(&self.kv, ino) else { return Stored::default() };
        let log2 = inode.layout.chunk_log2;
        let mapped = |index: u64| u32::try_from(index).is_ok_and(|i| chunks::mapped(&self.kv, ino, i).is_some());
        let end = |last: u32| (u64::from(last) + 1).checked_shl(log2.into()).unwrap_or(u64::MAX);
        Stored {
            end: chunks::last_index(&self.kv, ino).map_or(0, end),
            first: mapped(0),
            cut: mapped(cut.checked_shr(log2.into()).unwrap_or(0)),
        }
    }

    fn set_end(&mut self, end: &FileEnd, source: EndSource, time: i64) -> Result<u64, MetaError> {
        let taken = self.names.set_end(&mut self.kv, end, source)?;
        if taken.unzeroed {
            let text = format!(
                "inode {}: an end at {} was reported before the file was zeroed past {}; it does not count",
                end.ino, end.size, taken.size
            );
            events::append(&mut self.kv, time, &text);
        }
        Ok(taken.size)
    }
}

/// A namespace operation as the log has it.
struct Request<'a> {
    index: u64,
    id: OpId,
    time: i64,
    op: &'a MetaOp,
    place: Option<&'a [CsId]>,
    keepers: &'a [(InodeId, SessionId)],
}

fn done(result: Result<(), Refused>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(e) => Outcome::Refused(e),
    }
}
