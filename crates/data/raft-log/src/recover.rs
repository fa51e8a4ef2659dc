//! Formatting a folder, and recovering a log from one: what is valid, what a power cut tore, what is damaged.

use crate::LogConfig;
use crate::block::{
    BLOCK, Bad, Identity, SUPER, SUPER_BYTES, SegmentHead, SuperBlock, check_segment_bytes, padded, segment_name,
    segment_number,
};
use crate::error::{Damage, LogError};
use crate::log::{Log, Seg};
use crate::record::{BadBatch, Base, BatchHead, HardState, LogEntry, Record, decode_batch, write_buffer};
use crate::replay::Replay;
use crate::rules::LogRules;
use crate::sector::{SECTOR, any_blank};
use crate::snapshot::{self, Snapshot};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{FileId, Folder};
use types::{ClusterId, MdsId};

/// What the caller expects of the folder.
#[derive(Clone, Copy, Default, Debug)]
pub struct OpenOptions {
    /// Refuse the log of another cluster.
    pub cluster: Option<ClusterId>,
    /// Refuse the log of another MDS.
    pub owner: Option<MdsId>,
    /// Orders kept; all, but for a test.
    pub rules: LogRules,
}

/// A batch that a power cut left incomplete. Nothing of it was ever reported as durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Segment.
    pub file: String,
    /// Byte offset of the batch.
    pub offset: u64,
}

/// What a log held when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub id: Identity,
    /// Newest durable hard state; its commit is at least the snapshot's index.
    pub hard: HardState,
    /// Where the log begins.
    pub base: Base,
    /// The snapshot at `base.index`.
    pub snapshot: Snapshot,
    /// Entries from `base.first` on, without gaps.
    pub entries: Vec<LogEntry>,
    /// Set when the end of the log was torn and left out.
    pub cut: Option<Cut>,
    /// The log was stopped in order.
    pub clean: bool,
}

/// Creates a log in an empty folder. It begins with `snapshot`; members of one group start with the same one.
///
/// Errors: the folder holds anything, a parameter is out of range, the disk refuses. A folder in which this failed half
/// way opens as [`LogError::NotFormatted`], because the superblock is written last.
pub fn format(
    folder: &mut dyn Folder,
    config: &LogConfig,
    hard: HardState,
    snapshot: &Snapshot,
) -> Result<(), LogError> {
    check_segment_bytes(config.segment_bytes)?;
    snapshot.check()?;
    if hard.term < snapshot.term || hard.commit > snapshot.index {
        return Err(LogError::Config(format!(
            "hard state {hard:?} does not fit a log that begins at {}",
            snapshot.index
        )));
    }
    if let Some((found, _)) = folder.list()?.into_iter().next() {
        return Err(LogError::NotEmpty { found });
    }
    let id = config.id;
    snapshot.write(folder, id)?;
    let (index, term) = (snapshot.index, snapshot.term);
    let base = Base { index, term, first: index + 1, prev_term: term };
    let file = folder.create(&segment_name(1), config.segment_bytes)?;
    let head = SegmentHead { id, number: 1, first_seq: 1, next_index: index + 1 };
    let records = [Record::Base { base, restart: true }, Record::Hard(hard)];
    folder.write(file, 0, &write_buffer(Some(head.encode()), id, 1, 1, 0, &records))?;
    folder.flush(file)?;
    let file = folder.create(SUPER, SUPER_BYTES)?;
    let sup = SuperBlock { id, generation: 1, segment_bytes: config.segment_bytes, floor_seq: 1, clean: true };
    folder.write(file, sup.offset(), &sup.encode())?;
    folder.flush(file)?;
    Ok(())
}

fn read_super(folder: &mut dyn Folder, files: &[(String, u64)]) -> Result<(FileId, SuperBlock), LogError> {
    let Some((_, size)) = files.iter().find(|(n, _)| n == SUPER) else {
        return Err(LogError::NotFormatted("`super` is missing".into()));
    };
    let damage =
        |what: &str| Damage { file: SUPER.into(), offset: 0, from_index: 0, what: format!("superblock: {what}") };
    if *size < SUPER_BYTES {
        return Err(LogError::Damaged(damage("the file is too short")));
    }
    let file = folder.open(SUPER)?;
    let bytes = folder.read(file, 0, SUPER_BYTES as usize)?;
    let both = [SuperBlock::decode(&bytes[..BLOCK]), SuperBlock::decode(&bytes[BLOCK..])];
    // A newer program's block is never passed over for an older one beside it.
    for b in &both {
        if let Err(Bad::Newer(what)) = b {
            return Err(LogError::Unsupported { file: SUPER.into(), what: what.clone() });
        }
    }
    let newest = both.iter().filter_map(|b| b.as_ref().ok()).max_by_key(|s| s.generation);
    match newest {
        Some(s) => Ok((file, *s)),
        None if both.iter().all(|b| *b == Err(Bad::Blank)) => {
            Err(LogError::NotFormatted("`super` was created and never written".into()))
        }
        None => Err(LogError::Damaged(damage("neither of the two blocks is valid"))),
    }
}

struct SegFile {
    number: u64,
    file: FileId,
    bytes: Bytes,
    head: Result<SegmentHead, Bad>,
}

fn read_segments(folder: &mut dyn Folder, files: &[(String, u64)], id: Identity) -> Result<Vec<SegFile>, LogError> {
    let mut segs = Vec::new();
    let mut numbers: Vec<(u64, &str, u64)> =
        files.iter().filter_map(|(n, size)| segment_number(n).map(|x| (x, n.as_str(), *size))).collect();
    numbers.sort();
    for (number, name, size) in numbers {
        let file = folder.open(name)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX) / BLOCK * BLOCK;
        let bytes = if size == 0 { Bytes::new() } else { folder.read(file, 0, size)? };
        let head = match SegmentHead::decode(&bytes) {
            Ok(h) if h.id != id || h.number != number => Err(Bad::Invalid("belongs to another segment")),
            Err(Bad::Newer(what)) => return Err(LogError::Unsupported { file: name.into(), what }),
            other => other,
        };
        segs.push(SegFile { number, file, bytes, head });
    }
    Ok(segs)
}

/// The first sign, at or behind (`seg`, `offset`), that anything after batch `seq` was ever written.
fn evidence_after(segs: &[SegFile], id: Identity, seg: usize, offset: usize, seq: u64) -> Option<String> {
    for (i, s) in segs.iter().enumerate().skip(seg) {
        if i > seg
            && let Ok(h) = &s.head
            && h.first_seq > seq
        {
            return Some(format!("`{}` begins with batch {}", segment_name(s.number), h.first_seq));
        }
        let from = if i == seg { offset } else { 0 };
        for at in (from..s.bytes.len()).step_by(BLOCK) {
            if let Some(h) = BatchHead::decode(id, s.number, at as u64, &s.bytes[at..])
                && h.seq > seq
            {
                return Some(format!("batch {} stands in `{}` at byte {at}", h.seq, segment_name(s.number)));
            }
        }
    }
    None
}

fn rotten(seq: u64) -> String {
    format!("batch {seq} is not what was written, and no part of it is missing, so it is not torn")
}
/// Does something stand at `at` that was written as a whole and whose header is not valid now?
fn headless(s: &SegFile, id: Identity, at: usize) -> bool {
    let rest = s.bytes.get(at..).unwrap_or(&[]);
    let first = &rest[..rest.len().min(BLOCK)];
    BatchHead::decode(id, s.number, at as u64, rest).is_none() && !any_blank(first)
}
/// Had all of the first block been written that is not valid now? Its first and its last sector are never blank.
fn head_written(s: &SegFile) -> bool {
    let blank = |from: usize| any_blank(s.bytes.get(from..from + SECTOR).unwrap_or(&[]));
    matches!(s.head, Err(Bad::Invalid(_))) && !blank(0) && !blank(BLOCK - SECTOR)
}

struct Walk {
    replay: Replay,
    /// Next sequence number.
    seq: u64,
    /// Index of the segment with the last valid batch, and the offset behind that batch.
    active: usize,
    at: usize,
    /// Highest entry index of each segment.
    max_index: Vec<u64>,
    /// Bytes behind the last valid batch of each segment; 0 = it has none.
    ends: Vec<usize>,
    /// Where something stands that is no valid batch.
    torn: Option<Cut>,
}

fn walk(segs: &[SegFile], id: Identity, rules: LogRules) -> Result<Walk, LogError> {
    let damaged = |seg: usize, at: usize, from_index: u64, what: String| {
        LogError::Damaged(Damage { file: segment_name(segs[seg].number), offset: at as u64, from_index, what })
    };
    // Segments that were created ahead and never begun may be the oldest that are left.
    let begun = segs.iter().find(|s| !matches!(s.head, Err(Bad::Blank))).or(segs.first());
    let Some(first) = begun else {
        return Err(LogError::Damaged(Damage {
            file: segment_name(1),
            offset: 0,
            from_index: 0,
            what: "there is no segment at all".into(),
        }));
    };
    let start = match &first.head {
        Ok(h) => h.first_seq,
        Err(Bad::Invalid(what)) => return Err(damaged(0, 0, 0, format!("first block of the log: {what}"))),
        Err(_) => return Err(damaged(0, 0, 0, "first block of the log is empty".into())),
    };
    let mut w = Walk {
        replay: Replay::default(),
        seq: start,
        active: 0,
        at: BLOCK,
        max_index: vec![0; segs.len()],
        ends: vec![0; segs.len()],
        torn: None,
    };
    for (i, s) in segs.iter().enumerate() {
        let mut at = BLOCK;
        match &s.head {
            Ok(h) if h.first_seq == w.seq => {}
            // Created ahead and never begun: numbers may be skipped, batches may not.
            Err(Bad::Blank) => continue,
            // Torn while it began, or worse; the search for evidence below tells.
            _ => break,
        }
        // What was torn before this segment began is explained: the log went on here.
        while let Some(head) = s.bytes.get(at..).and_then(|b| BatchHead::decode(id, s.number, at as u64, b)) {
            if head.seq != w.seq {
                break;
            }
            let records = match decode_batch(&head, &s.bytes.slice(at..), rules.torn_batch_left_out) {
                Ok(r) => r,
                Err(BadBatch::Torn) => break,
                Err(BadBatch::Rotten) => return Err(damaged(i, at, w.replay.next_index(), rotten(w.seq))),
                Err(BadBatch::Nonsense(what)) => return Err(damaged(i, at, w.replay.next_index(), what.into())),
            };
            for r in records {
                if let Record::Entry(e) = &r {
                    w.max_index[i] = w.max_index[i].max(e.index);
                }
                w.replay.apply(r).map_err(|what| damaged(i, at, w.replay.next_index(), what))?;
            }
            at += head.span();
            w.seq += 1;
            (w.active, w.at) = (i, at);
            w.ends[i] = at;
        }
        if at == BLOCK && headless(s, id, at) {
            return Err(damaged(i, at, w.replay.next_index(), rotten(w.seq)));
        }
    }
    if w.seq == start {
        return Err(damaged(0, BLOCK, 0, "the first batch of the log is not valid".into()));
    }
    if let Some(proof) = evidence_after(segs, id, w.active, w.at, w.seq) {
        let what = format!("batch {} is not valid, but {proof}, so it was durable once", w.seq);
        return Err(damaged(w.active, w.at, w.replay.next_index(), what));
    }
    // Nothing follows: is it torn, or had all of it been written? What follows a torn first block is part of its write.
    if headless(&segs[w.active], id, w.at) {
        return Err(damaged(w.active, w.at, w.replay.next_index(), rotten(w.seq)));
    }
    if let Some(i) = (w.active + 1..segs.len()).find(|i| head_written(&segs[*i])) {
        let what = format!("the first block was written as a whole and is not valid; batch {} stood behind it", w.seq);
        return Err(damaged(i, 0, w.replay.next_index(), what));
    }
    let torn = |i: usize, from: usize| segs[i].bytes.get(from..).is_some_and(|b| b.iter().any(|x| *x != 0));
    if torn(w.active, w.at) {
        w.torn = Some(Cut { file: segment_name(segs[w.active].number), offset: w.at as u64 });
    } else if let Some(i) = (w.active + 1..segs.len()).find(|i| torn(*i, 0)) {
        w.torn = Some(Cut { file: segment_name(segs[i].number), offset: 0 });
    }
    Ok(w)
}

/// Opens the log of a folder: replays it, leaves out a torn last batch, removes what nothing refers to, and marks the log
/// as in use.
///
/// Errors: [`LogError::Damaged`] when anything is bad that a power cut cannot explain (the folder is then left exactly as
/// it was), another cluster or owner, a newer format, the disk.
pub fn open(folder: &mut dyn Folder, options: &OpenOptions) -> Result<(Log, Recovered), LogError> {
    let files = folder.list()?;
    let (super_file, mut sup) = read_super(folder, &files)?;
    let id = sup.id;
    if let Some(expected) = options.cluster.filter(|c| *c != id.cluster) {
        return Err(LogError::WrongCluster { found: id.cluster, expected });
    }
    if let Some(expected) = options.owner.filter(|o| *o != id.owner) {
        return Err(LogError::WrongOwner { found: id.owner, expected });
    }
    let segs = read_segments(folder, &files, id)?;
    let Walk { replay, seq, active, at, max_index, ends, torn } = walk(&segs, id, options.rules)?;
    let from_index = replay.next_index();
    // A segment has its whole size from its creation on, so no crash cuts one: what is missing may have been durable.
    if let Some(s) = segs.iter().find(|s| (s.bytes.len() as u64) < sup.segment_bytes) {
        let what = format!("the segment was cut: segments of this log have {} bytes", sup.segment_bytes);
        let (file, offset) = (segment_name(s.number), s.bytes.len() as u64);
        return Err(LogError::Damaged(Damage { file, offset, from_index, what }));
    }
    let place = |what: String| {
        LogError::Damaged(Damage { file: segment_name(segs[active].number), offset: at as u64, from_index, what })
    };
    let last_seq = seq - 1;
    if last_seq < sup.floor_seq {
        return Err(place(format!("the log ends with batch {last_seq}, but batch {} was durable", sup.floor_seq)));
    }
    if sup.clean && last_seq != sup.floor_seq {
        return Err(place(format!("the log was stopped in order after batch {} and has changed since", sup.floor_seq)));
    }
    let oldest = segment_name(segs[0].number);
    let (hard, base, entries) =
        replay.finish().map_err(|what| LogError::Damaged(Damage { file: oldest, offset: 0, from_index: 0, what }))?;
    let snapshot = snapshot::read(folder, id, base.index, base.term)?;

    // From here on the folder is changed. A process that was killed may have left its last batch unflushed: make it
    // durable before anybody relies on it.
    let tail = &segs[active].bytes[at..];
    let dirty = tail.iter().rposition(|x| *x != 0).map_or(0, |n| padded(n + 1));
    if dirty > 0 && options.rules.torn_is_wiped {
        // What was torn is wiped, so that the next batches do not stand in front of old bytes.
        folder.write(segs[active].file, at as u64, &AlignedBuf::zeroed(dirty))?;
    }
    folder.flush(segs[active].file)?;
    for s in &segs[active + 1..] {
        folder.remove(&segment_name(s.number))?;
    }
    for (name, _) in files.iter().filter(|(n, _)| n.starts_with("snap-") && *n != snapshot.name()) {
        folder.remove(name)?;
    }
    let clean = sup.clean;
    sup.generation += 1;
    sup.floor_seq = last_seq;
    sup.clean = false;
    folder.write(super_file, sup.offset(), &sup.encode())?;
    folder.flush(super_file)?;

    let live: Vec<Seg> = segs[..=active]
        .iter()
        .zip(&max_index)
        .zip(&ends)
        .map(|((s, m), end)| Seg {
            number: s.number,
            file: s.file,
            first_seq: s.head.as_ref().map_or(0, |h| h.first_seq),
            end: *end as u64,
            max_index: *m,
        })
        .collect();
    let kept = (snapshot.index, snapshot.term, folder.open(&snapshot.name())?, snapshot.file_bytes());
    let log = Log::opened(
        sup,
        super_file,
        live,
        (segs[active].file, segs[active].bytes.len() as u64, at as u64),
        seq,
        (hard, base, base.first + entries.len() as u64),
        options.rules,
        kept,
    );
    Ok((log, Recovered { id, hard, base, snapshot, entries, cut: torn, clean }))
}
