//! Creating a member's folder, and starting a member from one.

use crate::convert;
use crate::drive::Consensus;
use crate::effects::{ConsensusError, StateSnapshot};
use crate::ram::{Kept, RamLog};
use bytes::Bytes;
use host::disk::Folder;
use raft_log::{Cut, HardState, Identity, LogConfig, Snapshot};
use serde::{Deserialize, Serialize};
use types::{ClusterId, MdsId};
use wire::raft::RaftConf;

/// Index and term of the snapshot that every member of a new group begins with.
const BIRTH: (u64, u64) = (1, 1);
/// Most voters of a group: each one more costs a flush more on the way to a commit.
pub(crate) const VOTERS_MAX: usize = 7;

/// What a new member is made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member.
    pub me: MdsId,
    /// The voters with which the group was born: the same list at every member, also at those that come later.
    pub voters: Vec<MdsId>,
    /// Bytes of a log segment; see [`raft_log::SEGMENT_DEFAULT`].
    pub segment_bytes: u64,
}

/// How a member runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// Refuse the folder of another cluster.
    pub cluster: Option<ClusterId>,
    /// Refuse the folder of another member.
    pub owner: Option<MdsId>,
    /// Decides about election timeouts, with the member's id and the term.
    pub seed: u64,
    /// Ticks without a leader until an election; the real timeout lies between once and twice this. Above
    /// `heartbeat_ticks`.
    pub election_ticks: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Entries kept below a snapshot, so that a member that was away shortly needs no snapshot.
    pub keep_entries: u64,
}
impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { cluster: None, owner: None, seed: 0, election_ticks: 10, heartbeat_ticks: 2, keep_entries: 4096 }
    }
}

/// What a member began with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Whose folder it is.
    pub id: Identity,
    /// The state to load before the first [`crate::Apply`]; None = the empty state of a new group.
    pub snapshot: Option<StateSnapshot>,
    /// Index of the first entry that will be handed out.
    pub next: u64,
    /// The voters at the snapshot.
    pub voters: Vec<MdsId>,
    /// Set when the end of the log was torn by a power cut and left out.
    pub cut: Option<Cut>,
    /// The member was stopped in order.
    pub clean: bool,
}

/// What a snapshot file says about itself.
#[derive(Serialize, Deserialize)]
struct Meta {
    version: u8,
    /// The snapshot that `format` wrote.
    birth: bool,
    conf: RaftConf,
}

/// The file form of a snapshot.
pub(crate) fn to_file(k: &Kept, birth: bool) -> Snapshot {
    let meta = postcard::to_extend(&Meta { version: 1, birth, conf: k.conf.clone() }, Vec::new());
    let meta: Bytes = meta.expect("a growing vector takes everything").into();
    Snapshot { index: k.index, term: k.term, meta, data: k.data.clone() }
}
fn from_file(s: &Snapshot) -> Result<(Kept, bool), &'static str> {
    let (m, rest) =
        postcard::take_from_bytes::<Meta>(&s.meta).map_err(|_| "the description of the snapshot is malformed")?;
    if m.version != 1 || !rest.is_empty() {
        return Err("the description of the snapshot has an unknown version");
    }
    convert::check_conf(&m.conf)?;
    Ok((Kept { index: s.index, term: s.term, conf: m.conf, data: s.data.clone() }, m.birth))
}

/// Makes the folder of a new member. All members of a group begin with the same snapshot: index 1, empty, the voters of its
/// birth. One that is not among these learns from the leader, by the log or a snapshot, and decides nothing before the group
/// made it a voter.
///
/// Errors: the list of voters is impossible, the folder is not empty, the disk refuses.
pub fn format(folder: &mut dyn Folder, config: &Config) -> Result<(), ConsensusError> {
    let mut voters: Vec<u64> = config.voters.iter().map(|v| convert::id(*v)).collect();
    voters.sort_unstable();
    let conf = RaftConf { voters, ..RaftConf::default() };
    convert::check_conf(&conf).map_err(|what| ConsensusError::Config(what.into()))?;
    if conf.voters.len() > VOTERS_MAX || convert::id(config.me) == 0 {
        return Err(ConsensusError::Config(format!("a group has at most {VOTERS_MAX} voters, and none is called 0")));
    }
    let (index, term) = BIRTH;
    let hard = HardState { term, vote: 0, commit: index };
    let log =
        LogConfig { id: Identity { cluster: config.cluster, owner: config.me }, segment_bytes: config.segment_bytes };
    let birth = Kept { index, term, conf, data: Bytes::new() };
    raft_log::format(folder, &log, hard, &to_file(&birth, true))?;
    Ok(())
}

/// Starts a member. Committed entries behind the snapshot are handed out again by the first polls.
///
/// Errors: see [`ConsensusError`]; a damaged log refuses and leaves the folder as it is.
pub fn open(folder: &mut dyn Folder, options: &OpenOptions) -> Result<(Consensus, Recovered), ConsensusError> {
    if options.heartbeat_ticks == 0 || options.election_ticks <= options.heartbeat_ticks {
        return Err(ConsensusError::Config(format!(
            "election after {} ticks with a heartbeat every {}; the first must be larger and both above 0",
            options.election_ticks, options.heartbeat_ticks
        )));
    }
    let whose =
        raft_log::OpenOptions { cluster: options.cluster, owner: options.owner, ..raft_log::OpenOptions::default() };
    let (log, rec) = raft_log::open(folder, &whose)?;
    let content = |index| move |what| ConsensusError::Content { index, what };
    let (kept, birth) = from_file(&rec.snapshot).map_err(content(rec.snapshot.index))?;
    let mut ram = RamLog {
        hard: Default::default(),
        conf: convert::conf_state(&kept.conf),
        first: rec.base.first,
        prev_term: rec.base.prev_term,
        entries: Default::default(),
        bytes: 0,
        snapshot: kept.clone(),
        wanted: Default::default(),
    };
    (ram.hard.term, ram.hard.vote, ram.hard.commit) = (rec.hard.term, rec.hard.vote, rec.hard.commit);
    let entries: Result<Vec<_>, _> =
        rec.entries.iter().map(|e| convert::from_log(e).map_err(content(e.index))).collect();
    ram.append(&entries?);
    let consensus = Consensus::start(rec.id.owner, ram, log, options)?;
    let state = StateSnapshot { index: kept.index, term: kept.term, data: kept.data };
    let recovered = Recovered {
        id: rec.id,
        snapshot: (!birth).then_some(state),
        next: kept.index + 1,
        voters: kept.conf.voters.iter().map(|v| convert::mds(*v)).collect(),
        cut: rec.cut,
        clean: rec.clean,
    };
    Ok((consensus, recovered))
}
