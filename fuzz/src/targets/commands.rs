//! The metadata group's commands and snapshots: any bytes give a value or an error, and applying any command gives an
//! outcome and a state that is consistent.

use super::Target;
use meta_state::{Command, MemoryKv, State};
use types::{ClusterId, Incarnation, InodeId, Layout, OpId, SessionId};
use wire::names::{MetaOp, NewInode};

pub fn all() -> Vec<Target> {
    vec![
        Target { name: "command", seeds: commands, mend: None, run: command },
        Target { name: "snapshot", seeds: snapshots, mend: None, run: snapshot },
    ]
}

const SNAPSHOT: &[u8] = include_bytes!("../../../crates/core/meta-state/tests/golden/snapshot-v1.bin");

fn commands() -> Vec<Vec<u8>> {
    let id = |seq| OpId { session: SessionId(1), slot: 0, seq };
    let new = || NewInode { mode: 0o755, uid: 0, gid: 0, mtime: None, exact: true };
    let op = |seq, op| Command::Op { id: id(seq), time: 1, op, place: None, keepers: vec![] };
    let (parent, name) = (InodeId(1), b"a".to_vec());
    let layout = Layout::default();
    let all = [
        Command::Init { cluster: ClusterId(1), name: "x".into(), layout, mds: Vec::new(), time: 1 },
        Command::OpenSession { incarnation: Incarnation(1), may_cache: false, time: 1 },
        op(1, MetaOp::Mkdir { parent, name: name.clone(), new: new() }),
        op(2, MetaOp::Unlink { parent, name: name.clone(), keep: true }),
        op(3, MetaOp::Symlink { parent, name, new: new(), target: b"to".to_vec() }),
        Command::CloseSession { session: SessionId(1), time: 2 },
        Command::MintCopies { chunk: types::ChunkId(1), count: 2 },
        Command::SetSetting { key: "k".into(), value: "v".into() },
        Command::Batch(vec![Command::Event { time: 1, text: "t".into() }]),
    ];
    all.iter().map(Command::encode).collect()
}

fn command(b: &[u8]) -> Result<(), String> {
    let Ok(c) = Command::decode(b) else { return Ok(()) };
    match Command::decode(&c.encode()) {
        Ok(again) if again == c => {}
        other => return Err(format!("{c:?} is read back as {other:?}")),
    }
    let mut state = State::<MemoryKv>::load(SNAPSHOT).map_err(|e| format!("the golden snapshot: {e}"))?;
    let index = state.position().index + 1;
    state.apply(index, &c);
    state.check().map_err(|e| format!("after {c:?}: {e}"))
}

fn snapshots() -> Vec<Vec<u8>> {
    vec![SNAPSHOT.to_vec()]
}

fn snapshot(b: &[u8]) -> Result<(), String> {
    let Ok(state) = State::<MemoryKv>::load(b) else { return Ok(()) };
    // It may be inconsistent, which only bytes with a right checksum can be; looking must not end the process.
    let _ = state.check();
    let bytes = state.snapshot();
    match State::<MemoryKv>::load(&bytes) {
        Ok(again) if again.hash() == state.hash() => Ok(()),
        Ok(_) => Err("a snapshot is read back as another state".into()),
        Err(e) => Err(format!("a snapshot that was read cannot be read back: {e}")),
    }
}
