//! The edge between our messages and those of the Raft library: the only place where both are seen.

use bytes::Bytes;
use protobuf::{Message as _, ProtobufEnum as _};
use raft::eraftpb::{self as pb, ConfChangeTransition, ConfChangeType, EntryType, MessageType};
use raft_log::LogEntry;
use types::MdsId;
use wire::raft::{RaftConf, RaftConfChange, RaftEntry, RaftMessage, RaftSnapshot, SNAPSHOT_MAX};

/// Terms that lease epochs can carry; a message beyond comes from a broken peer.
const TERM_END: u64 = 1 << 24;
/// Indexes beyond are as broken, and would overflow when counted on.
const INDEX_END: u64 = 1 << 62;

pub(crate) fn id(x: MdsId) -> u64 {
    u64::from(x.0)
}
/// 0 is nobody, for the library as for us.
pub(crate) fn mds(x: u64) -> MdsId {
    MdsId(u32::try_from(x).expect("ids are checked to fit 32 bits before the library sees them"))
}

fn sorted(list: &[u64]) -> Vec<u64> {
    let mut v = list.to_vec();
    v.sort_unstable();
    v
}

/// The library's form of a group.
pub(crate) fn conf_state(m: &RaftConf) -> pb::ConfState {
    pb::ConfState {
        voters: m.voters.clone(),
        learners: m.learners.clone(),
        voters_outgoing: m.voters_outgoing.clone(),
        learners_next: m.learners_next.clone(),
        auto_leave: m.auto_leave,
        ..Default::default()
    }
}
/// Our form of a group, sorted: the library keeps its members in no order.
pub(crate) fn conf(c: &pb::ConfState) -> RaftConf {
    RaftConf {
        voters: sorted(&c.voters),
        learners: sorted(&c.learners),
        voters_outgoing: sorted(&c.voters_outgoing),
        learners_next: sorted(&c.learners_next),
        auto_leave: c.auto_leave,
    }
}
/// Refuses groups that the library could not restore.
pub(crate) fn check_conf(m: &RaftConf) -> Result<(), &'static str> {
    for list in [&m.voters, &m.learners, &m.voters_outgoing, &m.learners_next] {
        if list.iter().any(|x| !is_id(*x)) || list.windows(2).any(|w| w[0] >= w[1]) {
            return Err("ids of the group are not rising");
        }
    }
    if m.voters.is_empty() {
        return Err("the group has no voter");
    }
    if m.voters_outgoing.is_empty() && (m.auto_leave || !m.learners_next.is_empty()) {
        return Err("the group is leaving a joint configuration that it is not in");
    }
    if m.learners.iter().any(|x| m.voters.contains(x) || m.voters_outgoing.contains(x)) {
        return Err("a learner of the group is a voter too");
    }
    if m.learners_next.iter().any(|x| m.voters.contains(x) || !m.voters_outgoing.contains(x)) {
        return Err("a future learner of the group is not an outgoing voter");
    }
    Ok(())
}
fn is_id(x: u64) -> bool {
    x != 0 && u32::try_from(x).is_ok()
}

pub(crate) fn change_to_pb(c: &RaftConfChange) -> Result<pb::ConfChangeV2, &'static str> {
    let transition = match c.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        _ => return Err("a change of membership has an unknown transition"),
    };
    let mut v2 = pb::ConfChangeV2 { transition, context: c.context.clone().into(), ..Default::default() };
    for (kind, node) in &c.changes {
        let change_type = match kind {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return Err("a change of membership is of an unknown kind"),
        };
        if !is_id(*node) {
            return Err("a change of membership names nobody");
        }
        v2.changes.push(pb::ConfChangeSingle { change_type, node_id: *node, ..Default::default() });
    }
    Ok(v2)
}
fn change_from_pb(v2: &pb::ConfChangeV2) -> RaftConfChange {
    RaftConfChange {
        transition: match v2.transition {
            ConfChangeTransition::Auto => 0,
            ConfChangeTransition::Implicit => 1,
            ConfChangeTransition::Explicit => 2,
        },
        changes: v2
            .changes
            .iter()
            .map(|s| {
                let kind = match s.change_type {
                    ConfChangeType::AddNode => 0,
                    ConfChangeType::RemoveNode => 1,
                    ConfChangeType::AddLearnerNode => 2,
                };
                (kind, s.node_id)
            })
            .collect(),
        context: v2.context.to_vec(),
    }
}

/// The change that an entry of the library holds; None = it is a command.
pub(crate) fn change_of(e: &pb::Entry) -> Option<pb::ConfChangeV2> {
    const OURS: &str = "bytes of a change in memory were written by the library";
    match e.entry_type {
        EntryType::EntryNormal => None,
        EntryType::EntryConfChangeV2 => Some(pb::ConfChangeV2::parse_from_bytes(&e.data).expect(OURS)),
        // The library's older form of a single change; read for completeness, never proposed.
        EntryType::EntryConfChange => {
            let v1 = pb::ConfChange::parse_from_bytes(&e.data).expect(OURS);
            let one = pb::ConfChangeSingle { change_type: v1.change_type, node_id: v1.node_id, ..Default::default() };
            Some(pb::ConfChangeV2 { changes: vec![one].into(), context: v1.context, ..Default::default() })
        }
    }
}

const COMMAND: u8 = 0;
const MEMBERSHIP: u8 = 1;
fn parts(e: &pb::Entry) -> (u8, Bytes) {
    match change_of(e) {
        None => (COMMAND, e.data.clone()),
        Some(v2) => {
            let bytes = postcard::to_extend(&change_from_pb(&v2), Vec::new());
            (MEMBERSHIP, bytes.expect("a growing vector takes everything").into())
        }
    }
}
fn entry(kind: u8, index: u64, term: u64, data: Bytes) -> Result<pb::Entry, &'static str> {
    let (entry_type, data) = match kind {
        COMMAND => (EntryType::EntryNormal, data),
        MEMBERSHIP => {
            let (c, rest) = postcard::take_from_bytes::<RaftConfChange>(&data)
                .map_err(|_| "a change of membership is malformed")?;
            if !rest.is_empty() {
                return Err("a change of membership is followed by more bytes");
            }
            let bytes = change_to_pb(&c)?.write_to_bytes();
            (EntryType::EntryConfChangeV2, bytes.map_err(|_| "a change of membership cannot be encoded")?.into())
        }
        _ => return Err("an entry has an unknown kind"),
    };
    Ok(pb::Entry { entry_type, index, term, data, ..Default::default() })
}

/// For the log on disk.
pub(crate) fn to_log(e: &pb::Entry) -> LogEntry {
    let (kind, data) = parts(e);
    LogEntry { index: e.index, term: e.term, kind, data }
}
/// From the log on disk.
pub(crate) fn from_log(e: &LogEntry) -> Result<pb::Entry, &'static str> {
    entry(e.kind, e.index, e.term, e.data.clone())
}

/// Kinds that cross the network, numbered as the library numbers them. Proposals and reads are never forwarded, and the
/// rest is the library talking to itself.
fn travels(kind: MessageType) -> bool {
    match kind {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => false,
    }
}

/// For the wire; None for what does not travel.
pub(crate) fn to_wire(mut m: pb::Message) -> Option<RaftMessage> {
    if !travels(m.msg_type) {
        return None;
    }
    let snapshot = m.snapshot.take().filter(|_| m.msg_type == MessageType::MsgSnapshot).map(|s| {
        let meta = s.get_metadata();
        let (index, term, conf) = (meta.index, meta.term, conf(meta.get_conf_state()));
        RaftSnapshot { index, term, conf, data: s.data.to_vec() }
    });
    let entries = m
        .entries
        .iter()
        .map(|e| {
            let (kind, data) = parts(e);
            RaftEntry { kind, term: e.term, index: e.index, data: data.to_vec(), context: Vec::new() }
        })
        .collect();
    Some(RaftMessage {
        kind: m.msg_type as u8,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries,
        commit: m.commit,
        commit_term: m.commit_term,
        snapshot,
        request_snapshot: m.request_snapshot,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: m.context.to_vec(),
        deprecated_priority: m.deprecated_priority,
        priority: m.priority,
    })
}

/// From the wire; refuses what no correct member sends, because the library would panic on some of it.
pub(crate) fn from_wire(w: RaftMessage) -> Result<pb::Message, &'static str> {
    let msg_type =
        MessageType::from_i32(i32::from(w.kind)).filter(|k| travels(*k)).ok_or("it is of an unknown kind")?;
    if !is_id(w.from) || !is_id(w.to) {
        return Err("its sender or receiver is nobody");
    }
    if w.term == 0 || w.term > TERM_END || [w.log_term, w.commit_term].iter().any(|t| *t >= TERM_END) {
        return Err("a term is out of range");
    }
    if [w.index, w.commit, w.reject_hint, w.request_snapshot].iter().any(|i| *i >= INDEX_END) {
        return Err("an index is out of range");
    }
    if (msg_type == MessageType::MsgSnapshot) != w.snapshot.is_some()
        || (msg_type != MessageType::MsgAppend && !w.entries.is_empty())
    {
        return Err("it carries what its kind does not");
    }
    // The library takes term 0 for the term of what it does not have, and such an append would match beyond the end.
    if msg_type == MessageType::MsgAppend && (w.index == 0 || w.log_term == 0) {
        return Err("it begins before the birth of the group");
    }
    let mut m = pb::Message { msg_type, ..Default::default() };
    let (mut index, mut term) = (w.index, w.log_term);
    for e in w.entries {
        index += 1;
        if e.index != index || e.term < term || e.term > w.term || e.term == 0 {
            return Err("its entries are not in order");
        }
        if e.data.len() > raft_log::ENTRY_MAX || !e.context.is_empty() {
            return Err("an entry is too large or has a context");
        }
        term = e.term;
        m.entries.push(entry(e.kind, e.index, e.term, e.data.into())?);
    }
    if let Some(s) = w.snapshot {
        if s.index == 0 || s.index >= INDEX_END || s.term == 0 || s.term > w.term {
            return Err("its snapshot stands at an impossible place");
        }
        if s.data.len() > SNAPSHOT_MAX {
            return Err("its snapshot is too large");
        }
        check_conf(&s.conf)?;
        m.snapshot = Some(snapshot(s.index, s.term, &s.conf, s.data.into())).into();
    }
    (m.to, m.from, m.term) = (w.to, w.from, w.term);
    (m.log_term, m.index, m.commit, m.commit_term) = (w.log_term, w.index, w.commit, w.commit_term);
    (m.request_snapshot, m.reject, m.reject_hint) = (w.request_snapshot, w.reject, w.reject_hint);
    (m.context, m.priority) = (w.context.into(), w.priority);
    m.deprecated_priority = w.deprecated_priority;
    Ok(m)
}

/// The library's form of a snapshot.
pub(crate) fn snapshot(index: u64, term: u64, conf: &RaftConf, data: Bytes) -> pb::Snapshot {
    let mut x = pb::Snapshot { data, ..Default::default() };
    let meta = x.mut_metadata();
    (meta.index, meta.term) = (index, term);
    meta.set_conf_state(conf_state(conf));
    x
}
