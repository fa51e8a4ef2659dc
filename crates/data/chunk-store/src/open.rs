//! Making a folder and opening it: superblocks, files, leaves; then replay, then a checkpoint, then the new life begins.

use crate::alloc::Alloc;
use crate::cache::Cache;
use crate::checkpoint::{Checkpoint, StateItem, decode_state, leaf_count, super_at};
use crate::config::{Geometry, OpenOptions, StoreConfig, map_name, segment_name};
use crate::error::StoreError;
use crate::leaf::{self, Key, Leaves, UNIT_PARTS};
use crate::store::{ChunkStore, Done, Effects, Files, Growth, Ticket};
use crate::superblock::{BadSuper, FileKind, SLOT, ScrubMark, Superblock, file_header};
use crate::table::{Copy, OverIndex};
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskError, DiskOp, FileId, Folder, Ring};
use journal::{JOURNAL_DATA_START, RingEntry, SharedLog, Space, Start};
use replica::copy::{CopyState, ServerState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{BLOCK, BootVerifier, ChunkId, CopyId, UNIT};

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenReport {
    /// Copies here.
    pub copies: usize,
    /// Records replayed from journal and ring.
    pub replayed: u64,
    /// Of these: only in the ring.
    pub from_ring: u64,
    /// Copies found damaged; marked unclean.
    pub damaged: Vec<ChunkId>,
    /// Copies that ended at an earlier record than the journal names, as a torn tail does.
    pub cut: Vec<ChunkId>,
    /// Unclean copies in all.
    pub unclean: usize,
    /// Memory that answers relied on is gone: every copy was marked unclean.
    pub memory_lost: bool,
    /// Copies may have vanished without a name (a leaf or a stretch of journal that was durable is unreadable): register
    /// as after a loss of memory.
    pub copies_lost: bool,
    /// How many times the store was opened.
    pub life: u32,
    /// What happened, in words.
    pub events: Vec<String>,
}

/// Makes a store in an empty folder. Errors: NotEmpty, Config, Disk.
pub fn format(folder: &mut dyn Folder, config: &StoreConfig) -> Result<(), StoreError> {
    let geometry = Geometry::new(config)?;
    let there: Vec<String> = folder.list()?.into_iter().map(|f| f.0).collect();
    if !there.is_empty() {
        return Err(StoreError::NotEmpty(there));
    }
    let head = |k, n| file_header(k, n, config.cluster, config.cs);
    let files = [
        ("journal".to_string(), JOURNAL_DATA_START + geometry.journal_bytes, head(FileKind::Journal, 0)),
        (map_name(0), geometry.map_bytes(0), head(FileKind::Map, 0)),
        (segment_name(0), geometry.segment_bytes(), head(FileKind::Segment, 0)),
    ];
    for (name, size, head) in files {
        let f = folder.create(&name, size)?;
        folder.write(f, 0, &head)?;
        folder.flush(f)?;
    }
    let bitmap = vec![0; geometry.bitmap_used(1)];
    let sb = Superblock {
        cluster: config.cluster,
        cs: config.cs,
        generation: 1,
        covered: 0,
        replay: Start { pos: 0, seq: 1, record: 1, life: 0 },
        boot: BootVerifier::NONE,
        ring: 0,
        clean: true,
        life: 0,
        segments: 1,
        bitmap_slot: 0,
        bitmap_len: bitmap.len() as u32,
        bitmap_crc: checksum::crc32c(&bitmap),
        scrub: ScrubMark::default(),
        geometry,
    };
    // The superblock last: a folder without it is not a store.
    let f = folder.create("super", 2 * SLOT as u64)?;
    folder.write(f, super_at(1), &sb.encode())?;
    folder.flush(f)?;
    Ok(())
}

pub(crate) fn read_super(folder: &mut dyn Folder) -> Result<(FileId, Superblock, Vec<String>), StoreError> {
    let f = folder.open("super").map_err(|e| StoreError::Missing(e.detail))?;
    if folder.size(f)? < 2 * SLOT as u64 {
        return Err(StoreError::Damaged("`super` is shorter than two slots".into()));
    }
    let mut events = Vec::new();
    let mut best: Option<Superblock> = None;
    let mut foreign = None;
    for slot in 0..2u64 {
        let b = folder.read(f, slot * SLOT as u64, SLOT)?;
        match Superblock::decode(&b) {
            Ok(s) if s.generation % 2 == slot => {
                if best.is_none_or(|x| x.generation < s.generation) {
                    best = Some(s);
                }
            }
            Err(BadSuper::Incompatible(bits)) => foreign = Some(bits),
            _ if b.iter().all(|x| *x == 0) => {}
            _ => events.push(format!("superblock slot {slot} is damaged; the other one is used")),
        }
    }
    if let Some(bits) = foreign {
        return Err(StoreError::Incompatible { bits });
    }
    let best = best.ok_or_else(|| StoreError::Damaged("both superblocks are unreadable".into()))?;
    Ok((f, best, events))
}

/// Opens file `name` and checks its size and header.
fn open_file(
    folder: &mut dyn Folder,
    name: &str,
    size: u64,
    kind: FileKind,
    n: u32,
    sb: &Superblock,
    events: &mut Vec<String>,
) -> Result<FileId, StoreError> {
    let f = folder.open(name).map_err(|e| StoreError::Missing(e.detail))?;
    let found = folder.size(f)?;
    if found != size {
        return Err(StoreError::Missing(format!("`{name}` has {found} bytes, the superblock says {size}")));
    }
    let want = file_header(kind, n, sb.cluster, sb.cs);
    let b = folder.read(f, 0, SLOT)?;
    if b[..] != want[..] {
        let c = checksum::around(&b, 4);
        if c.to_le_bytes() == b[4..8] {
            return Err(StoreError::Damaged(format!("`{name}` belongs to another store")));
        }
        events.push(format!("header of `{name}` was damaged or unwritten; written anew"));
        folder.write(f, 0, &want)?;
        folder.flush(f)?;
    }
    Ok(f)
}

/// Refuses what could not be read again, so that whatever opens does so at the next start too.
fn write_super(folder: &mut dyn Folder, file: FileId, sb: &Superblock) -> Result<(), StoreError> {
    let data = sb.encode();
    if Superblock::decode(&data) != Ok(*sb) {
        return Err(StoreError::Damaged("the numbers in the superblock make no sense".into()));
    }
    folder.write(file, super_at(sb.generation), &data)?;
    Ok(folder.flush(file)?)
}

/// Opens the store. `ring` is the host's shared memory for it, with whatever it holds. Rules: `docs/formats/
/// chunk-store.md`, section on starting. Errors: Missing, Damaged, WrongCluster, WrongServer, Incompatible, NoSpace, Disk.
pub fn open(
    folder: &mut dyn Folder,
    ring: Option<Box<dyn Ring>>,
    options: OpenOptions,
) -> Result<(ChunkStore, OpenReport), StoreError> {
    let (super_file, found, events) = read_super(folder)?;
    let mut report = OpenReport { events, ..OpenReport::default() };
    if let Some(expected) = options.cluster.filter(|c| *c != found.cluster) {
        return Err(StoreError::WrongCluster { found: found.cluster, expected });
    }
    if let Some(expected) = options.cs.filter(|c| *c != found.cs) {
        return Err(StoreError::WrongServer { found: found.cs, expected });
    }
    let geo = found.geometry;
    let events = &mut report.events;
    let size = JOURNAL_DATA_START + geo.journal_bytes;
    let journal_file = open_file(folder, "journal", size, FileKind::Journal, 0, &found, events)?;
    let (mut maps, mut segs) = (Vec::new(), Vec::new());
    let listed: BTreeMap<String, u64> = folder.list()?.into_iter().collect();
    for n in 0..geo.max_segments {
        let (m, s) = (map_name(n), segment_name(n));
        let whole = listed.get(&m) == Some(&geo.map_bytes(n)) && listed.get(&s) == Some(&geo.segment_bytes());
        if n >= found.segments && !whole {
            // Growth that the last life did not finish.
            for name in [m, s] {
                if listed.contains_key(&name) {
                    folder.remove(&name)?;
                }
            }
            break;
        }
        maps.push(open_file(folder, &m, geo.map_bytes(n), FileKind::Map, n, &found, events)?);
        segs.push(open_file(folder, &s, geo.segment_bytes(), FileKind::Segment, n, &found, events)?);
    }
    // A life of its own from the first write on: what it leaves in the journal is told from what is there now.
    let sb = Superblock { generation: found.generation + 1, life: found.life + 1, ..found };
    write_super(folder, super_file, &sb)?;
    report.life = sb.life;

    // The ring counts if it is the one that the last life wrote, in the same uninterrupted memory.
    let (mut spare, mut log, mut entries, mut written) = (None, None, Vec::<RingEntry>::new(), 0);
    if let Some(r) = ring {
        let ours = sb.ring != 0 && SharedLog::id_of(&*r) == Some(sb.ring) && sb.boot == options.boot;
        match ours {
            true => match SharedLog::open(r) {
                Ok((l, e)) => {
                    written = l.written();
                    (log, entries) = (Some(l), e);
                }
                Err(e) => report.events.push(format!("shared ring is unusable ({e})")),
            },
            false => spare = Some(r),
        }
    }
    report.memory_lost = !sb.clean && (sb.boot != options.boot || (sb.ring != 0 && log.is_none()));
    if report.memory_lost {
        let why = if sb.boot != options.boot { "the host has lost its memory" } else { "the shared ring is gone" };
        report.events.push(format!("{why} since the last start without a stop: every copy is unclean"));
    }

    let segments = segs.len() as u32;
    let mut store = ChunkStore {
        options,
        geo,
        superblock: sb,
        files: Files { superblock: super_file, journal: journal_file, maps, segs },
        copies: BTreeMap::new(),
        server: ServerState::default(),
        alloc: Alloc::default(),
        leaves: Leaves::default(),
        over: OverIndex::default(),
        cache: Cache::new(options.cache_bytes),
        zeros: AlignedBuf::zeroed(UNIT as usize).freeze(),
        zero_crc: checksum::crc32c(&[0; BLOCK as usize]),
        ring: None,
        space: Space { size: geo.journal_bytes, tail: sb.replay.pos, head: sb.replay.pos },
        next_seq: sb.replay.seq,
        born: sb.replay.pos,
        next_idx: sb.covered + 1,
        batches: VecDeque::new(),
        queue: VecDeque::new(),
        promised: 0,
        writing: 0,
        journaled: sb.covered,
        flight: BTreeMap::new(),
        flight_idx: BTreeSet::new(),
        durable: sb.covered,
        claim: u64::MAX,
        dirty_segs: BTreeSet::new(),
        round_left: 0,
        round_target: 0,
        rounds_started: 0,
        rounds_done: 0,
        round_forced: false,
        durable_wanted: 0,
        hard: BTreeMap::new(),
        soft: BTreeMap::new(),
        lagging: VecDeque::new(),
        gathers: BTreeMap::new(),
        next_gather: 1,
        jobs: BTreeMap::new(),
        next_job: 1,
        dirty_states: BTreeSet::new(),
        dirty_parts: BTreeSet::new(),
        checkpoint: Checkpoint::new(),
        checkpoint_wanted: false,
        checkpoint_tickets: Vec::new(),
        stopping: None,
        stopped: false,
        quarantine: Vec::new(),
        committing: Vec::new(),
        quarantined: 0,
        starved: false,
        limbo: VecDeque::new(),
        growth: Growth::Idle,
        spare_map: None,
        moved_away: BTreeSet::new(),
        unread: BTreeSet::new(),
        scrub: sb.scrub,
        pending: BTreeMap::new(),
        next_tag: 1,
        failed: None,
    };
    store.leaves.grow(0..leaf_count(&geo, segments));
    for n in 0..segments {
        store.alloc.give(n * geo.segment_blocks + 1, geo.data_blocks());
    }
    store.load_leaves(folder, &mut report)?;
    store.replay(folder, entries, written, &mut report)?;
    if report.memory_lost || report.copies_lost {
        let all: Vec<ChunkId> = store.copies.keys().copied().collect();
        for c in all {
            store.mark_unclean(c, report.copies_lost);
        }
    }
    if !options.rules.marks_before_memory {
        let generation = store.superblock.generation + 1;
        let sb = Superblock { generation, boot: options.boot, ring: 0, ..store.superblock };
        write_super(folder, super_file, &sb)?;
        store.superblock = sb;
    }
    store.settle_start(folder, &mut report)?;
    store.claim = u64::MAX;

    // Marks, cuts and replayed records stand on disk now; only then the new life's memory is named.
    let (next, life) = (store.next_idx, sb.life);
    store.ring = match (log, spare) {
        (Some(mut l), _) => {
            l.reset(next, life);
            Some(l)
        }
        (None, Some(r)) => {
            let id = ring_id(&store.superblock, options.boot);
            match SharedLog::create(r, id, next, life) {
                Ok(l) => Some(l),
                Err(_) => return Err(StoreError::Config("the shared ring needs at least 8 KiB")),
            }
        }
        (None, None) => None,
    };
    // Both slots: an older one that says "clean" must not come back if the newest is damaged later.
    // What earlier lives left in front of the journal's head must not count any more: a torn batch of theirs may become
    // whole again when a torn batch of this life happens to supply the missing sectors.
    let mut replay = store.superblock.replay;
    if replay.pos == store.space.head {
        replay.life = life;
    }
    for _ in 0..2 {
        let sb = Superblock {
            replay,
            generation: store.superblock.generation + 1,
            boot: options.boot,
            ring: store.ring.as_ref().map_or(0, SharedLog::id),
            clean: false,
            ..store.superblock
        };
        write_super(folder, super_file, &sb)?;
        store.superblock = sb;
    }
    report.copies = store.copies.len();
    report.unclean = store.copies.values().filter(|c| c.state.unclean).count();
    Ok((store, report))
}

/// A ring's id: differs between stores, boots and lives without any randomness.
fn ring_id(sb: &Superblock, boot: BootVerifier) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let words = [sb.cluster.0 as u64, (sb.cluster.0 >> 64) as u64, u64::from(sb.cs.0), boot.0, u64::from(sb.life)];
    for w in words {
        h = (h ^ w).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    h | 1
}

impl ChunkStore {
    /// Not to be trusted from now on; `damaged`: not even what it says of itself.
    pub(crate) fn mark_unclean(&mut self, chunk: ChunkId, damaged: bool) {
        let Some(c) = self.copies.get_mut(&chunk) else { return };
        if !c.state.unclean || damaged && !c.state.damaged {
            c.state.unclean = true;
            c.state.damaged |= damaged;
            self.dirty_states.insert(chunk);
        }
    }
    /// Marks a copy damaged.
    pub(crate) fn damage(&mut self, chunk: ChunkId, why: String, report: &mut OpenReport) {
        report.events.push(format!("chunk {chunk}: {why}; the copy is unclean"));
        if !report.damaged.contains(&chunk) {
            report.damaged.push(chunk);
        }
        self.mark_unclean(chunk, true);
    }

    fn load_leaves(&mut self, folder: &mut dyn Folder, report: &mut OpenReport) -> Result<(), StoreError> {
        let sb = self.superblock;
        let bitmap = folder.read(self.files.maps[0], self.geo.bitmap_at(sb.bitmap_slot), sb.bitmap_len as usize)?;
        if checksum::crc32c(&bitmap) != sb.bitmap_crc {
            return Err(StoreError::Damaged("the bitmap of live leaves does not match its checksum".into()));
        }
        let count = leaf_count(&self.geo, self.files.segs.len() as u32);
        let live = |n: u32| bitmap.get(n as usize / 8).is_some_and(|b| b >> (n % 8) & 1 == 1);
        let mut items: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for n in (0..count).filter(|n| live(*n)) {
            let (map, offset) = self.geo.leaf_at(n);
            let read = folder.read(self.files.maps[map], offset, BLOCK as usize);
            let decoded = match &read {
                Ok(b) => leaf::decode(n, b).map_err(str::to_string),
                Err(e) => Err(e.to_string()),
            };
            match decoded {
                Ok((generation, found)) if generation <= sb.generation => {
                    self.leaves.loaded(n, found.iter().map(|(k, v)| (*k, v.len() as u16)).collect());
                    items.extend(found);
                }
                other => {
                    let why = other.err().unwrap_or_else(|| "it is newer than the superblock".into());
                    report.events.push(format!("map leaf {n} is damaged ({why}): copies in it are unclean or gone"));
                    report.copies_lost = true;
                    self.leaves.lost(n);
                }
            }
        }
        let mut chunks: BTreeMap<ChunkId, BTreeMap<u16, Vec<u8>>> = BTreeMap::new();
        for ((c, p), v) in items {
            chunks.entry(c).or_default().insert(p, v);
        }
        for (chunk, mut parts) in chunks {
            let units = parts.split_off(&UNIT_PARTS);
            let state = leaf::join(&parts);
            if !chunk.is_some() {
                match state.and_then(|b| postcard::from_bytes(&b).ok()) {
                    Some(s) => self.server = s,
                    None => {
                        report.events.push("the server's own state is damaged".into());
                        report.copies_lost = true;
                    }
                }
                continue;
            }
            let item: Option<StateItem> = state.and_then(|b| decode_state(&b));
            let item = item.filter(|i| i.state.chunk == chunk);
            let mut bad = None;
            let expected = match item {
                Some(i) => {
                    self.copies.insert(chunk, Copy::new(i.state));
                    i.parts
                }
                None => {
                    bad = Some("its state is lost");
                    self.copies.insert(chunk, Copy::new(CopyState::new(chunk, CopyId::NONE)));
                    Vec::new()
                }
            };
            if bad.is_none() && !expected.iter().eq(units.keys()) {
                bad = Some("part of its map is lost");
            }
            for (part, v) in &units {
                match leaf::decode_units(*part, v) {
                    Some(list) => {
                        for (n, u) in list {
                            let ok = self.geo.valid(u.loc, u.len(), self.files.segs.len() as u32);
                            if !ok || !self.alloc.take(u.loc, u.len()) {
                                bad = Some("its map names impossible places");
                                continue;
                            }
                            let c = self.copies.get_mut(&chunk).expect("inserted above");
                            c.units.insert(n, u);
                        }
                    }
                    None => bad = Some("part of its map is damaged"),
                }
            }
            if let Some(why) = bad {
                self.damage(chunk, why.into(), report);
                self.dirty_states.insert(chunk);
                self.dirty_parts.extend(units.keys().map(|p| (chunk, *p)));
            }
        }
        Ok(())
    }

    /// Brings everything replayed into the data area and commits it; blocking.
    fn settle_start(&mut self, folder: &mut dyn Folder, report: &mut OpenReport) -> Result<(), StoreError> {
        let files = [&self.files.maps[..], &self.files.segs[..], &[self.files.journal]].concat();
        for f in files {
            folder.flush(f)?;
        }
        for grown in 0..2 {
            let stuck = self.reserve_replayed();
            if stuck == 0 {
                break;
            }
            let n = self.files.segs.len() as u32;
            if grown == 1 || n >= self.geo.max_segments {
                // Blocks without a run of free space stay in the journal, to be tried again by later checkpoints. That
                // is not safe beside a cut: the next replay would take dropped records for good ones.
                if report.cut.is_empty() {
                    report.events.push(format!("no run of {stuck} free blocks: some blocks stay in the journal"));
                    break;
                }
                return Err(StoreError::NoSpace { need: u64::from(stuck), free: self.alloc.free(), coming: 0 });
            }
            let map = folder.create(&map_name(n), self.geo.map_bytes(n))?;
            let seg = folder.create(&segment_name(n), self.geo.segment_bytes())?;
            for (f, kind) in [(map, FileKind::Map), (seg, FileKind::Segment)] {
                folder.write(f, 0, &file_header(kind, n, self.superblock.cluster, self.superblock.cs))?;
                folder.flush(f)?;
            }
            self.adopt(map, seg);
        }
        let idle = self.batches.is_empty() && self.queue.is_empty();
        if idle && self.dirty_states.is_empty() && self.dirty_parts.is_empty() && !self.leaves.damaged() {
            return Ok(());
        }
        // Growth waits until the store serves: a full disk must not stand in the way of opening.
        let growth = std::mem::replace(&mut self.growth, Growth::Blocked);
        let mut fx = Effects::default();
        self.checkpoint_tickets.push(Ticket(0));
        self.pump(&mut fx);
        while !fx.ops.is_empty() {
            for (tag, op) in std::mem::take(&mut fx.ops) {
                let done = run(folder, op);
                self.complete(tag, done, &mut fx);
            }
        }
        self.growth = growth;
        match fx.done.first() {
            Some((_, Done::Ok)) => Ok(()),
            _ => Err(StoreError::Disk(DiskError {
                kind: host::disk::DiskErrorKind::Io,
                detail: format!("recovery did not end: {}", self.failed.as_deref().unwrap_or("no reason known")),
            })),
        }
    }

    /// Sets space aside for replayed blocks that grow their units, longest first. Returns the blocks of a run that could
    /// not be had, 0 if all could.
    fn reserve_replayed(&mut self) -> u32 {
        let mut wants: Vec<(u32, ChunkId, u32)> = Vec::new();
        for (chunk, unit) in &self.over.units {
            let Some(c) = self.copies.get(chunk) else { continue };
            let want = c.wanted(*unit);
            if want != c.base(*unit) && !c.reserved.contains_key(unit) {
                wants.push((want.count_ones(), *chunk, *unit));
            }
        }
        wants.sort_unstable_by(|a, b| b.cmp(a));
        for (len, chunk, unit) in wants {
            let Some(loc) = self.alloc.get(len) else { return len };
            if let Some(c) = self.copies.get_mut(&chunk) {
                c.reserved.insert(unit, (loc, len));
            }
        }
        0
    }
}

/// Carries out one operation, blocking.
fn run(folder: &mut dyn Folder, op: DiskOp) -> DiskDone {
    let done = match op {
        DiskOp::Read { file, offset, len } => folder.read(file, offset, len as usize).map(DiskDone::Data),
        DiskOp::Write { file, mut offset, data } => data
            .iter()
            .try_for_each(|p| {
                folder.write(file, offset, p)?;
                offset += p.len() as u64;
                Ok(())
            })
            .map(|()| DiskDone::Ok),
        DiskOp::Flush { file } => folder.flush(file).map(|()| DiskDone::Ok),
        DiskOp::Create { name, size } => folder.create(&name, size).map(DiskDone::Created),
        DiskOp::Remove { name } => folder.remove(&name).map(|()| DiskDone::Ok),
    };
    done.unwrap_or_else(DiskDone::Failed)
}
