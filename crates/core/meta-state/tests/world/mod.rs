//! A founded cluster with servers and sessions, and a generator of numbers, for the tests of the whole state.
#![allow(dead_code, reason = "every test takes what it needs")]

use meta_state::{Command, Outcome, RegisterResult, State};
use types::{BootVerifier, ClusterId, CsId, Incarnation, InodeId, Layout, MdsId, OpId, SessionId};
use wire::names::{MetaError, MetaOp, MetaOutcome, NewInode};

/// Numbers from a seed (splitmix64).
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

pub const LAYOUT_2: Layout = Layout {
    kind: types::LayoutKind::Replicated,
    chunk_log2: 20,
    stripe_log2: 20,
    stripe_width: 1,
    norm: 3,
    min: 2,
    ec: [0; 3],
    tier: 0,
    domain: 1,
    durability: types::Durability::Flush,
    flags: 0,
};

/// A state and the index of its log.
pub struct World {
    pub state: State,
    pub index: u64,
    pub session: SessionId,
    pub seq: u32,
    pub cs: Vec<CsId>,
}

impl World {
    pub fn new() -> World {
        let mut w = World { state: State::new(), index: 0, session: SessionId::NONE, seq: 0, cs: Vec::new() };
        assert_eq!(w.apply(init()), Outcome::Done);
        w.session = w.open(1);
        for n in 0..5 {
            let Ok(MetaOutcome::Cs(cs, cluster)) = w.op(MetaOp::NewCs { nonce: 70 + n }) else { panic!() };
            assert_eq!(cluster, ClusterId(0xC1));
            assert!(matches!(w.apply(register(cs, n + 1, n + 1)), Outcome::Registered(RegisterResult::Ok { .. })));
            w.cs.push(cs);
        }
        w
    }
    pub fn apply(&mut self, c: Command) -> Outcome {
        self.index += 1;
        let bytes = c.encode();
        let c = Command::decode(&bytes).expect("what was encoded can be decoded");
        let o = self.state.apply(self.index, &c);
        self.state.check().unwrap_or_else(|e| panic!("{e}\nafter {c:?}"));
        assert_eq!(self.state.position().index, self.index);
        o
    }
    pub fn open(&mut self, incarnation: u64) -> SessionId {
        let c = Command::OpenSession { incarnation: Incarnation(incarnation), may_cache: false, time: 1 };
        let Outcome::Session(Ok(s)) = self.apply(c) else { panic!() };
        s
    }
    pub fn id(&mut self) -> OpId {
        self.seq += 1;
        OpId { session: self.session, slot: (self.seq % 64) as u16, seq: self.seq }
    }
    pub fn command(&mut self, op: MetaOp) -> Command {
        let id = self.id();
        Command::Op { id, time: i64::from(self.seq) * 10, op, place: None, keepers: vec![] }
    }
    pub fn op(&mut self, op: MetaOp) -> Result<MetaOutcome, MetaError> {
        let c = self.command(op);
        let Outcome::Op { result, replayed: false, .. } = self.apply(c) else { panic!() };
        result
    }
    pub fn file(&mut self, name: &str, body: Option<&[u8]>) -> InodeId {
        let Ok(MetaOutcome::Attr { attr, .. }) = self.op(create(name, body)) else { panic!() };
        attr.ino
    }
}

pub fn init() -> Command {
    Command::Init {
        cluster: ClusterId(0xC1),
        name: "c".into(),
        layout: LAYOUT_2,
        mds: vec![(MdsId(1), "127.0.0.1:2510".into())],
        time: 1,
    }
}

pub fn register(cs: CsId, incarnation: u64, boot: u64) -> Command {
    Command::RegisterCs {
        cs,
        incarnation: Incarnation(incarnation),
        boot: BootVerifier(boot),
        lost_memory: false,
        addr: format!("127.0.0.1:{}", 3000 + cs.0),
        host: format!("host{}", cs.0),
        capacity: 1 << 40,
        time: 2,
    }
}

pub fn new() -> NewInode {
    NewInode { mode: 0o644, uid: 0, gid: 0, mtime: None, exact: false }
}

pub fn create(name: &str, body: Option<&[u8]>) -> MetaOp {
    MetaOp::Create {
        parent: meta_state::ROOT,
        name: name.into(),
        new: new(),
        body: body.map(<[u8]>::to_vec),
        layout: None,
        exclusive: true,
    }
}

pub fn unlink(name: &str) -> MetaOp {
    MetaOp::Unlink { parent: meta_state::ROOT, name: name.into(), keep: false }
}
