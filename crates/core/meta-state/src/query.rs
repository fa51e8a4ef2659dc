//! Questions to the state; none of them changes anything.

use crate::chunks::{self, ChunkRecord, Duty, Loss, Server};
use crate::command::EndSource;
use crate::events::{self, Event};
use crate::kv::Kv;
use crate::locks::Table as LockTable;
use crate::members::{self, Member};
use crate::namespace::{self, Inode};
use crate::router::State;
use crate::sessions::{self, Admission, Block, Session};
use crate::settings::{self, Cluster};
use crate::table;
use types::{ChunkId, CopyId, CsId, Incarnation, InodeId, Layout, LeaseEpoch, MdsId, OpId, SessionId};
use wire::meta::FileEnd;
use wire::names::{Attr, MetaError, MetaOp, MetaOutcome};

/// Most chunks that one Info lists; the rest comes by [`State::file_chunks`].
pub const INFO_CHUNKS_MAX: usize = 1 << 16;

/// An inode as clients see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InodeView {
    /// Attributes.
    pub attr: Attr,
    /// Its layout, or what is inherited from it.
    pub layout: Layout,
    /// The content (or link target) stands in the inode.
    pub inline: bool,
    /// Pending zero range of a file.
    pub zero: Option<(u64, u64)>,
    /// Leases below this epoch are over.
    pub lease_floor: LeaseEpoch,
}

/// Sums over the state, all kept up to date by every command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Inodes of all kinds.
    pub inodes: u64,
    /// Of these, directories.
    pub dirs: u64,
    /// Of these, regular files.
    pub files: u64,
    /// Bytes of all regular files; holes count.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Chunks with as many members as they want.
    pub healthy: u64,
    /// Chunks with fewer members than they want.
    pub degraded: u64,
    /// Chunks with one member.
    pub single: u64,
    /// Chunks with a joiner.
    pub joining: u64,
    /// Sessions that live.
    pub sessions: u64,
    /// Rows of all tables.
    pub rows: u64,
}

impl<K: Kv> State<K> {
    /// The metadata servers, by id.
    pub fn members(&self) -> impl Iterator<Item = (MdsId, Member)> + use<'_, K> {
        members::all(&self.kv)
    }
    /// One of them.
    pub fn member(&self, id: MdsId) -> Option<Member> {
        members::get(&self.kv, id)
    }
    /// Was it one once, and is none any more? Ids are never given again.
    pub fn member_left(&self, id: MdsId) -> bool {
        id < members::next(&self.kv) && members::get(&self.kv, id).is_none()
    }
    /// Answers an operation that changes nothing. One that does is Invalid here.
    pub fn query(&self, op: &MetaOp) -> Result<MetaOutcome, MetaError> {
        if let Some(answer) = self.locks.query(op) {
            return answer;
        }
        let mut outcome = namespace::query(&self.kv, op)?;
        if let MetaOutcome::Info { attr, chunks, .. } = &mut outcome {
            *chunks = self.file_chunks(attr.ino, 0, INFO_CHUNKS_MAX).map(|(i, c, r)| (i, c, r.view)).collect();
        }
        Ok(outcome)
    }
    /// Locks of programs.
    pub fn locks(&self) -> &LockTable {
        self.locks.table()
    }
    /// Could anything change by this word about where a file ends? Its own generation may not have been applied here yet.
    pub fn end_says_more(&self, end: &FileEnd, source: EndSource) -> bool {
        namespace::live(&self.kv, end.ino).is_none_or(|before: Inode| {
            let mut after = before.clone();
            let unzeroed = after.take_end(end, source);
            unzeroed || after != before || end.truncate_gen != before.truncate_gen
        })
    }
    /// An inode; O(log n).
    pub fn inode(&self, ino: InodeId) -> Option<InodeView> {
        let i: Inode = namespace::live(&self.kv, ino)?;
        Some(InodeView {
            attr: i.attr(ino),
            layout: i.layout,
            inline: i.body.is_some(),
            zero: i.zero,
            lease_floor: i.lease_floor,
        })
    }
    /// A chunk's record; O(log n).
    pub fn chunk(&self, chunk: ChunkId) -> Option<ChunkRecord> {
        chunks::get(&self.kv, chunk)
    }
    /// The chunk at place `index` of a file.
    pub fn chunk_at(&self, ino: InodeId, index: u32) -> Option<ChunkId> {
        chunks::mapped(&self.kv, ino, index)
    }
    /// At most `count` chunks of a file from place `first` on, in order; places without a chunk are left out.
    pub fn file_chunks(
        &self,
        ino: InodeId,
        first: u32,
        count: usize,
    ) -> impl Iterator<Item = (u32, ChunkId, ChunkRecord)> {
        chunks::file_chunks(&self.kv, ino, first)
            .take(count)
            .filter_map(|(i, c)| chunks::get(&self.kv, c).map(|r| (i, c, r)))
    }
    /// Chunks at places `first` to `first + count`, exclusively, in order; places without a chunk are left out.
    pub fn chunks_between(
        &self,
        ino: InodeId,
        first: u32,
        count: u32,
    ) -> impl Iterator<Item = (u32, ChunkId, ChunkRecord)> {
        self.file_chunks(ino, first, count as usize).take_while(move |(i, _, _)| i - first < count)
    }
    /// All chunks of a file, in order.
    pub fn all_chunks(&self, ino: InodeId) -> impl Iterator<Item = (u32, ChunkId, ChunkRecord)> {
        self.file_chunks(ino, 0, usize::MAX)
    }
    /// Chunks with a member or a joiner on a server, by id, from `from` on.
    pub fn chunks_on(&self, cs: CsId, from: ChunkId) -> impl Iterator<Item = ChunkId> {
        self.chunks.on_server(cs, from)
    }
    /// Members and joiners on a server; O(log n).
    pub fn copies_on(&self, cs: CsId) -> u64 {
        self.chunks.copies_on(cs)
    }
    /// The copy, member or joiner, that stands on a server by the group's records.
    pub fn copy_on(&self, cs: CsId, chunk: ChunkId) -> Option<CopyId> {
        self.chunk(chunk)?.copies().find(|m| m.cs == cs).map(|m| m.copy)
    }
    /// Chunks with fewer members than they want: those that are at their smallest first, then by id.
    pub fn degraded(&self) -> impl ExactSizeIterator<Item = ChunkId> {
        self.chunks.degraded()
    }
    /// The same with the members that each has beyond those it needs, from behind `after` on.
    pub fn degraded_after(&self, after: (usize, ChunkId)) -> impl Iterator<Item = (usize, ChunkId)> {
        self.chunks.degraded_after(after)
    }
    /// Chunks that are at their smallest and want more copies.
    pub fn urgent(&self) -> usize {
        self.chunks.urgent()
    }
    /// Chunks with more members than they want, by id.
    pub fn surplus(&self) -> impl ExactSizeIterator<Item = ChunkId> {
        self.chunks.surplus()
    }
    /// The same from behind `after` on.
    pub fn surplus_after(&self, after: ChunkId) -> impl Iterator<Item = ChunkId> {
        self.chunks.surplus_after(after)
    }
    /// All chunks by id, from behind `after` on.
    pub fn chunks_after(&self, after: ChunkId) -> impl Iterator<Item = ChunkId> {
        chunks::all_after(&self.kv, after)
    }
    /// Chunks with a joiner, by id.
    pub fn joining(&self) -> impl ExactSizeIterator<Item = ChunkId> {
        self.chunks.joining()
    }
    /// Copies a server is to delete: (chunk, copy, index of the log at which it ceased to be needed). A copy that stands
    /// behind a joiner of the same chunk on that server waits.
    pub fn tombstones(&self, cs: CsId) -> impl Iterator<Item = (ChunkId, CopyId, u64)> {
        chunks::tombstones(&self.kv, cs)
    }
    /// Is there a copy on that server that has left the view, from which a new one could start?
    pub fn remnant(&self, cs: CsId, chunk: ChunkId) -> bool {
        chunks::remnant(&self.kv, cs, chunk)
    }
    /// Losses of a file by chunk.
    pub fn losses(&self, ino: InodeId) -> impl Iterator<Item = Loss> {
        chunks::losses(&self.kv, ino)
    }
    /// Why a new chunk under `layout` may not stand on these servers.
    pub fn place_fits(&self, layout: &Layout, place: &[CsId]) -> Result<(), crate::AllocError> {
        chunks::place_fits(&self.kv, layout, place)
    }
    /// A chunk server.
    pub fn server(&self, cs: CsId) -> Option<Server> {
        chunks::server(&self.kv, cs)
    }
    /// All chunk servers by id.
    pub fn servers(&self) -> impl Iterator<Item = (CsId, Server)> {
        chunks::servers(&self.kv)
    }
    /// What is wanted of a chunk server.
    pub fn duty(&self, cs: CsId) -> Duty {
        self.chunks.duty(cs)
    }
    /// Chunk servers that are to give up their copies.
    pub fn releasing(&self) -> impl Iterator<Item = CsId> + '_ {
        self.chunks.releasing()
    }
    /// Since when something else is wanted of it than to serve, in nanoseconds since 1970.
    pub fn duty_since(&self, cs: CsId) -> Option<i64> {
        chunks::since(&self.kv, cs)
    }
    /// The chunk that was made last; NONE = there never was one.
    pub fn newest_chunk(&self) -> ChunkId {
        ChunkId(table::counter(&self.kv, table::system::NEXT_CHUNK, 1) - 1)
    }
    /// A session, living or blocked.
    pub fn session(&self, session: SessionId) -> Option<Session> {
        sessions::get(&self.kv, session)
    }
    /// May this session's client keep what it is told? False for one that is unknown.
    pub fn may_cache(&self, session: SessionId) -> bool {
        self.session(session).is_some_and(|s| s.may_cache)
    }
    /// The living session of a client's life.
    pub fn session_of(&self, incarnation: Incarnation) -> Option<SessionId> {
        self.sessions.of(incarnation)
    }
    /// All sessions, living or blocked, by id.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, Session)> {
        sessions::all(&self.kv)
    }
    /// Blocked sessions at or above the low-water mark, by id.
    pub fn blocked(&self) -> impl Iterator<Item = (SessionId, Block)> {
        self.sessions.blocked()
    }
    /// Sessions below are refused.
    pub fn low_water(&self) -> SessionId {
        sessions::low_water(&self.kv)
    }
    /// Inodes kept without a name for a session; of no session, those being removed.
    pub fn orphans(&self, session: SessionId) -> Vec<InodeId> {
        namespace::orphans(&self.kv, session).collect()
    }
    /// Was this very operation applied? Then proposing it again is answered from memory.
    pub fn answered(&self, id: OpId) -> bool {
        matches!(sessions::admit(&self.kv, id), Admission::Replay(_))
    }
    /// Id, name and first metadata servers of the cluster; None before Init.
    pub fn cluster(&self) -> Option<Cluster> {
        settings::cluster(&self.kv)
    }
    /// The feature level; 0 before Init. Above [`crate::FEATURE_LEVEL`] this program is too old to serve.
    pub fn feature_level(&self) -> u16 {
        settings::level(&self.kv)
    }
    /// A setting.
    pub fn setting(&self, key: &str) -> Option<String> {
        settings::get(&self.kv, key)
    }
    /// All settings by key.
    pub fn settings(&self) -> impl Iterator<Item = (String, String)> {
        settings::all(&self.kv)
    }
    /// The newest `count` events, oldest first.
    pub fn events(&self, count: usize) -> Vec<Event> {
        events::newest(&self.kv, count)
    }
    /// Sums over the state; O(1).
    pub fn counts(&self) -> Counts {
        let t = self.names.totals();
        let (chunks, degraded) = (self.chunks.total(), self.chunks.degraded().len() as u64);
        Counts {
            inodes: t.inodes,
            dirs: t.dirs,
            files: t.files,
            bytes: t.bytes.try_into().unwrap_or(u64::MAX),
            chunks,
            healthy: chunks - degraded,
            degraded,
            single: self.chunks.single(),
            joining: self.chunks.joining().len() as u64,
            sessions: self.sessions.living(),
            rows: self.kv.rows(),
        }
    }
    /// A digest of the whole state: the same on every member that has applied the same log.
    pub fn digest(&self) -> u64 {
        self.kv.digest()
    }
    /// The rows themselves, for tools that print or compare states.
    pub fn kv(&self) -> &K {
        &self.kv
    }
}
