//! What the group orders: the commands, and their bytes in the log.

use serde::de::Error as _;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use types::{
    BootVerifier, ChunkId, ClusterId, CopyId, CsId, Incarnation, InodeId, Layout, LeaseEpoch, MdsId, Member, OpId, Seq,
    SessionId, ViewVer,
};
use wire::meta::FileEnd;
use wire::names::MetaOp;

/// First byte of an encoded command.
pub const COMMAND_VERSION: u8 = 1;

/// A change of a chunk's view. Every one raises the version by one; none leaves fewer than `min` members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ViewChange {
    /// Take this member out.
    Drop(Member),
    /// Begin a join on this server, under a fresh copy id that the outcome names.
    JoinBegin(CsId),
    /// The joiner has become a member.
    JoinCommit(Member),
    /// The joiner is given up.
    JoinCancel(Member),
    /// Swap members for copies minted by [`Command::MintCopies`], which are there and flushed. A new copy may stand on the
    /// server of a dropped one, which it supersedes.
    Replace {
        /// Members that leave.
        drop: Vec<Member>,
        /// Members that come.
        add: Vec<Member>,
    },
    /// Every member lost its memory: the whole view, joiner included, gives way to these minted copies, at least one of
    /// them on a server of the old view.
    Crown {
        /// The new members.
        survivors: Vec<Member>,
    },
}

/// Who says where a file ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EndSource {
    /// The holder of its W lease.
    Holder,
    /// One whose lease was taken away before it had told; others may have written since.
    Former,
    /// Copies, when they were fenced.
    Fence,
}

/// A command of the log. Only ever appended to: the order of the variants is the format. Times are nanoseconds since 1970,
/// stamped by the leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Found the cluster. The first one counts. Outcome: Done.
    Init {
        /// Hidden id.
        cluster: ClusterId,
        /// Name, 1 to 255 bytes.
        name: String,
        /// Layout of the root directory, inherited by everything.
        layout: Layout,
        /// The first metadata servers and where their peers find them.
        mds: Vec<(MdsId, String)>,
        /// When.
        time: i64,
    },
    /// A namespace operation of a client, exactly once per `id`. Outcome: Op or Stale.
    Op {
        /// Who asks, and its number.
        id: OpId,
        /// When.
        time: i64,
        /// What.
        op: MetaOp,
        /// Servers for chunk 0 of a file that the operation creates without a body; a wish, ignored when it does not fit.
        place: Option<Vec<CsId>>,
        /// Who else may have the inode open that the operation takes a name from: without any name it is kept for them.
        keepers: Vec<(InodeId, SessionId)>,
    },
    /// Open a session; the same life gets the same session while it lives. Outcome: Session.
    OpenSession {
        /// Life of the client.
        incarnation: Incarnation,
        /// Its kernel may keep pages.
        may_cache: bool,
        /// When.
        time: i64,
    },
    /// Go on with a session. Outcome: Session.
    ResumeSession {
        /// Which.
        session: SessionId,
        /// Life of the client.
        incarnation: Incarnation,
        /// When.
        time: i64,
    },
    /// Refuse a session for ever. What was kept for it goes by [`Command::Reap`]. Outcome: Done or Refused.
    BlockSession {
        /// Which.
        session: SessionId,
        /// Epoch of the fence.
        epoch: LeaseEpoch,
        /// When.
        time: i64,
    },
    /// The takeovers of a blocked session are done. Outcome: Done.
    SettleSession {
        /// Which.
        session: SessionId,
    },
    /// A session ends in order. What was kept for it goes by [`Command::Reap`]. Outcome: Done or Refused.
    CloseSession {
        /// Which.
        session: SessionId,
        /// When.
        time: i64,
    },
    /// A life of a chunk server begins. Outcome: Registered.
    RegisterCs {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// This memory.
        boot: BootVerifier,
        /// Memory was lost without a clean stop.
        lost_memory: bool,
        /// Where it listens, at most 255 bytes.
        addr: String,
        /// Host it stands on, at most 255 bytes.
        host: String,
        /// Bytes that data may take.
        capacity: u64,
        /// When.
        time: i64,
    },
    /// Chunks of a file, made where they do not exist. All or nothing. Outcome: Chunks.
    AllocChunks {
        /// Which file.
        ino: InodeId,
        /// (index, servers for a new one).
        chunks: Vec<(u32, Vec<CsId>)>,
    },
    /// Change a view. Outcome: View.
    ChangeView {
        /// Which chunk.
        chunk: ChunkId,
        /// The version this is about.
        ver: ViewVer,
        /// What.
        change: ViewChange,
    },
    /// Fresh copy ids, before any message names them. Outcome: Copies.
    MintCopies {
        /// Which chunk.
        chunk: ChunkId,
        /// How many, at most [`crate::MINT_MAX`].
        count: u32,
    },
    /// Where files end. Outcome: Ends.
    SetEnds {
        /// What they say.
        ends: Vec<FileEnd>,
        /// Who says it.
        source: EndSource,
        /// When.
        time: i64,
    },
    /// Go on removing: inodes without a name that were kept only for sessions that are over, and chunks of those that
    /// nobody can reach any more. Outcome: Ended.
    Reap {
        /// Most rows and chunks to remove.
        steps: u32,
    },
    /// After every member lost its memory, this is where a chunk goes on. Outcome: Done or Refused.
    Loss {
        /// Which chunk.
        chunk: ChunkId,
        /// Epoch of the takeover that found it.
        epoch: LeaseEpoch,
        /// Epoch of the newest record left.
        written: LeaseEpoch,
        /// The newest record left.
        last: Seq,
        /// When.
        time: i64,
    },
    /// A copy is gone from its server: forget its tombstone. Outcome: Done.
    Deleted {
        /// Which server.
        cs: CsId,
        /// Which chunk.
        chunk: ChunkId,
        /// Which copy.
        copy: CopyId,
    },
    /// Something an operator should know; cut at [`crate::EVENT_TEXT_MAX`] bytes. Outcome: Done.
    Event {
        /// When.
        time: i64,
        /// What.
        text: String,
    },
    /// Set a setting; an empty value removes it. Outcome: Done or Refused.
    SetSetting {
        /// Key, 1 to 255 bytes.
        key: String,
        /// Value, at most [`crate::SETTING_MAX`] bytes.
        value: String,
    },
    /// All metadata servers understand this level; it never falls. Outcome: Done.
    FeatureLevel {
        /// Level.
        level: u16,
    },
    /// Forget settled sessions below this id; stops at the first one that lives or is not settled. Outcome: LowWater.
    LowWater {
        /// Up to here, exclusively.
        session: SessionId,
    },
    /// Several at once, under one index; not nested. Outcome: Batch.
    #[serde(with = "flat")]
    Batch(Vec<Command>),
    /// Leases on a file below this epoch are over: one was taken from a holder that does not answer, and may be declared to
    /// a later leader that knows nothing of it. Outcome: Done.
    LeaseFloor {
        /// Which file.
        ino: InodeId,
        /// One more than the lease that was taken.
        epoch: LeaseEpoch,
    },
    /// A metadata server that is to leave is no member of the log's group any more. Outcome: Done.
    MdsLeft {
        /// Which.
        mds: MdsId,
        /// When.
        time: i64,
    },
    /// A chunk server that is being released has no copy any more that counts: it is dropped. Outcome: Done.
    DropCs {
        /// Which.
        cs: CsId,
        /// When.
        time: i64,
    },
}

/// Number of [`Command::Batch`] in the format.
const BATCH_TAG: u32 = 19;

impl Command {
    /// The bytes for the log: version, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(COMMAND_VERSION);
        postcard::to_extend(self, bytes).expect("commands hold nothing that postcard cannot encode")
    }

    /// Reads a command; total. A batch within a batch is refused.
    pub fn decode(bytes: &[u8]) -> Result<Command, CommandError> {
        match bytes.split_first() {
            None => Err(CommandError::Empty),
            Some((&COMMAND_VERSION, body)) => match postcard::take_from_bytes(body) {
                Ok((c, [])) => Ok(c),
                Ok(_) => Err(CommandError::Rest),
                Err(_) => Err(CommandError::Body),
            },
            Some((v, _)) => Err(CommandError::Version(*v)),
        }
    }

    /// The time stamped into it, if it has one.
    pub fn time(&self) -> Option<i64> {
        match self {
            Command::Init { time, .. }
            | Command::Op { time, .. }
            | Command::OpenSession { time, .. }
            | Command::ResumeSession { time, .. }
            | Command::BlockSession { time, .. }
            | Command::CloseSession { time, .. }
            | Command::RegisterCs { time, .. }
            | Command::Loss { time, .. }
            | Command::SetEnds { time, .. }
            | Command::MdsLeft { time, .. }
            | Command::DropCs { time, .. }
            | Command::Event { time, .. } => Some(*time),
            Command::Batch(list) => {
                list.iter().filter_map(|c| if matches!(c, Command::Batch(_)) { None } else { c.time() }).max()
            }
            _ => None,
        }
    }
}

/// Why bytes are no command. An entry of the log that says so was written by another version or is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// No bytes.
    Empty,
    /// Of a version this program does not know.
    Version(u8),
    /// The fields cannot be read.
    Body,
    /// Bytes behind the last field.
    Rest,
}
impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Empty => write!(f, "metadata command: no bytes"),
            CommandError::Version(v) => write!(
                f,
                "metadata command of version {v}, this program reads {COMMAND_VERSION}: run the version that wrote it"
            ),
            CommandError::Body => {
                write!(f, "metadata command: fields not readable; it is newer than this program or damaged")
            }
            CommandError::Rest => {
                write!(f, "metadata command: bytes behind the last field; it is newer than this program or damaged")
            }
        }
    }
}
impl std::error::Error for CommandError {}

/// Each command of a batch is a byte string of its own, so that its kind is seen before it is read: bytes that nest
/// batches would otherwise take the decoder as deep as they are long.
mod flat {
    use super::*;
    use crate::table::Blob;

    pub fn serialize<S: Serializer>(list: &[Command], s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(list.len()))?;
        for c in list {
            let bytes = postcard::to_extend(c, Vec::new()).map_err(serde::ser::Error::custom)?;
            seq.serialize_element(&Blob(bytes))?;
        }
        seq.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Command>, D::Error> {
        let parts = Vec::<Blob>::deserialize(d)?;
        let mut list = Vec::with_capacity(parts.len());
        for Blob(bytes) in parts {
            match postcard::take_from_bytes::<u32>(&bytes) {
                Ok((tag, _)) if tag != BATCH_TAG => {}
                _ => return Err(D::Error::custom("batch within a batch")),
            }
            match postcard::take_from_bytes(&bytes) {
                Ok((c, [])) => list.push(c),
                _ => return Err(D::Error::custom("command of a batch")),
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_and_a_nested_one_is_refused() {
        let event = Command::Event { time: 5, text: "x".into() };
        let batch = Command::Batch(vec![event.clone(), Command::LowWater { session: SessionId(3) }]);
        assert_eq!(Command::decode(&batch.encode()), Ok(batch.clone()));
        assert_eq!(batch.time(), Some(5));
        assert_eq!(batch.encode()[1], BATCH_TAG as u8, "the tag is the variant's place");
        let nested = Command::Batch(vec![batch]);
        assert_eq!(Command::decode(&nested.encode()), Err(CommandError::Body));
    }

    #[test]
    fn deep_nesting_does_not_take_the_decoder_down() {
        // As canonical as a batch may be written, and with a tag that takes two bytes where one would do.
        for tag in [&[BATCH_TAG as u8][..], &[0x80 | BATCH_TAG as u8, 0]] {
            let mut inner = vec![BATCH_TAG as u8, 0];
            for _ in 0..5_000 {
                let mut next = tag.to_vec();
                next.push(1);
                next.extend(postcard::to_extend(&(inner.len() as u32), Vec::new()).unwrap());
                next.extend(&inner);
                inner = next;
            }
            inner.insert(0, COMMAND_VERSION);
            assert_eq!(Command::decode(&inner), Err(CommandError::Body));
        }
    }

    #[test]
    fn versions_rests_and_cuts_are_refused() {
        let bytes = Command::Event { time: 5, text: "hello".into() }.encode();
        for n in 0..bytes.len() {
            assert!(Command::decode(&bytes[..n]).is_err());
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(Command::decode(&long), Err(CommandError::Rest));
        let mut newer = bytes;
        newer[0] = 2;
        assert_eq!(Command::decode(&newer), Err(CommandError::Version(2)));
    }
}
