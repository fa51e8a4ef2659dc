//! Messages about damage: who else has a chunk, content by its checksum, digests of copies, and what a chunk server has
//! found and mended.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{ChunkId, CopyId, CsId, Incarnation, LeaseEpoch, Member, Seq};

/// What a chunk server has found since it started, and how far it has looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Integrity {
    /// Blocks read and compared.
    pub checked: u64,
    /// Blocks of the data area and the journal that were not what they should be.
    pub found: u64,
    /// Of these, put right with content from another server.
    pub mended: u64,
    /// Of these, overwritten by clients or dropped with their copy before that.
    pub overtaken: u64,
    /// Blocks that no server has any more, at the moment.
    pub lost: u64,
    /// Blocks that are being looked for, at the moment.
    pub pending: u64,
    /// Blocks and structures (leaves, superblocks, headers, journal batches) written again from memory.
    pub rewritten: u64,
    /// Blocks that were right when they were read once more.
    pub transient: u64,
    /// Copies that call themselves unclean because of what was found.
    pub given_up: u64,
    /// Chunks whose copies were compared by digest.
    pub compared: u64,
    /// Of these, chunks whose copies differed.
    pub differing: u64,
    /// Complete looks at the whole disk since its folder was made.
    pub passes: u64,
    /// How much of the look under way is done, in thousandths.
    pub done: u16,
    /// The look under way was asked for by this number; 0 = it is a usual one.
    pub asked: u64,
    /// The last look that was asked for and is complete.
    pub run: u64,
}

/// Where a copy stands, as far as comparing content needs it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Which copy.
    pub copy: CopyId,
    /// Epoch of its newest record.
    pub written: LeaseEpoch,
    /// Its newest record.
    pub last: Seq,
}

/// What a look at the copy of one chunk that a client asked for has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChunkLook {
    /// Life of the server. The next one begins the look anew.
    pub life: Incarnation,
    /// Which copy stands here; NONE = none.
    pub copy: CopyId,
    /// The server looks at many already: ask again.
    pub queued: bool,
    /// Everything was read, and it is known what becomes of all that was found.
    pub ended: bool,
    /// The copy does not count (unclean, damaged, being filled), or is gone.
    pub given_up: bool,
    /// Blocks read and compared.
    pub checked: u64,
    /// Damaged blocks of the data area and the journal.
    pub found: u64,
    /// Of these, put right with content from another server.
    pub mended: u64,
    /// Of these, overwritten or dropped before that.
    pub overtaken: u64,
    /// Of these, had by nobody.
    pub lost: u64,
    /// Of these, being looked for.
    pub pending: u64,
    /// Compared with the other members by digest.
    pub compared: Compared,
}
/// Whether copies of one chunk hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Compared {
    /// Not yet known.
    #[default]
    Open,
    /// They do.
    Same,
    /// They do not; what follows is an event.
    Differ,
    /// Another member compares, or there is none.
    Elsewhere,
    /// Somebody writes, or a member did not answer.
    NotNow,
}

/// About damage, without bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Care {
    /// CS → MDS: what was found, and news for the event log. Answer: Heard.
    Report {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// Counts and progress.
        integrity: Integrity,
        /// (number, text), ascending; sent again until they are heard.
        news: Vec<(u64, String)>,
    },
    /// MDS → CS.
    Heard {
        /// For this life.
        incarnation: Incarnation,
        /// News up to here stand in the event log.
        news: u64,
        /// The newest look at everything that somebody asked for; 0 = none.
        run: u64,
    },
    /// CS → MDS: who are the members of these chunks? Answer: Members.
    Whereabouts {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// MDS → CS: by committed views. Chunks that exist no more are left out.
    Members {
        /// For this life.
        incarnation: Incarnation,
        /// (chunk, its members).
        chunks: Vec<(ChunkId, Vec<Member>)>,
    },
    /// Client → CS: bytes of this range came with checksums that they do not match. A hint.
    Doubt {
        /// Which chunk.
        chunk: ChunkId,
        /// Byte offset.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// CS → CS: content for blocks with these checksums. Answer: [`MendMsg`].
    Mend {
        /// Which chunk.
        chunk: ChunkId,
        /// Echoed.
        id: u64,
        /// (block within the chunk, CRC32C of the content wanted), ascending.
        blocks: Vec<(u32, u32)>,
    },
    /// CS → CS: what do you hold of this chunk? Answer: Digests.
    Digest {
        /// Which chunk.
        chunk: ChunkId,
        /// Echoed.
        id: u64,
    },
    /// CS → CS.
    Digests {
        /// Which chunk.
        chunk: ChunkId,
        /// The request's.
        id: u64,
        /// Where the copy stands; None = it is not plain at the moment (absent, unclean, being filled, a tail).
        stands: Option<Standing>,
        /// Digest of the checksums of all its blocks.
        digest: u64,
    },
    /// MDS → MDS, to the leader: after entry `index` the whole state has this digest.
    State {
        /// Entry of the log.
        index: u64,
        /// Digest of all rows.
        digest: u64,
    },
    /// Leader → MDS: a majority has another digest there than you.
    Differs {
        /// Entry of the log.
        index: u64,
        /// The majority's.
        digest: u64,
    },
    /// MDS → MDS, to the leader: news for the event log.
    News {
        /// What happened.
        text: String,
    },
    /// CS → CS: your copy, as it stood with this digest, differs from the others, which agree.
    Outvoted {
        /// Which chunk.
        chunk: ChunkId,
        /// As the copy stood.
        stands: Standing,
        /// Its digest then.
        digest: u64,
    },
    /// Client → CS: look at the copy of this chunk now, mend what is damaged, compare it with the others. The same again
    /// begins nothing; a look that nobody asks for any more ends after a while. Answer: Inspected.
    Inspect {
        /// Which chunk.
        chunk: ChunkId,
        /// Echoed; the client's own for each look.
        id: u64,
    },
    /// CS → client: how far it is.
    Inspected {
        /// Which chunk.
        chunk: ChunkId,
        /// The request's.
        id: u64,
        /// What it has come to.
        look: ChunkLook,
    },
    /// MDS → MDS: you are no member of the group any more.
    Left,
}

/// Answer to [`Care::Mend`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MendMsg {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The request's.
    pub id: u64,
    /// Where the copy stands here; None = absent, unclean or being filled.
    pub stands: Option<Standing>,
    /// Blocks that are here with the checksum asked for, ascending, in the order of the payload.
    pub given: Vec<u32>,
    /// Blocks whose stored checksum is the one asked for, but which are damaged here too.
    pub damaged: Vec<u32>,
    /// The blocks given.
    #[serde(skip)]
    pub payload: Bytes,
}
