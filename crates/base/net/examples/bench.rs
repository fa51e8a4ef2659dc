//! Prints the CPU time that a server spends per 4 KiB request: echo over loopback, and random reads of a real disk.
//!
//! `cargo run --release -p net --example bench [FOLDER]`; FOLDER holds the file that is read, by default one beside the
//! build.

#[path = "../tests/loops/mod.rs"]
mod loops;
use host::clock;
use host::disk::{DiskDone, DiskOp, FileId, Folder, Tag};
use host::node::{Effects, Input, Node};
use host::real::{Options, RealDisk, Use};
use loops::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use types::{Nanos, NodeId};
use wire::{DataCtl, Msg};

const BLOCKS: u64 = 64 << 10;

/// Answers a Read by a read of the disk.
struct Reader {
    file: FileId,
    waiting: BTreeMap<Tag, (NodeId, u64)>,
    next: u64,
}
impl Node for Reader {
    fn id(&self) -> NodeId {
        cs(1025)
    }
    fn input(&mut self, _: Nanos, input: Input, fx: &mut Effects) {
        match input {
            Input::Message(from, Msg::Data(DataCtl::Read { id, length, .. })) => {
                self.next += 1;
                let block = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (BLOCKS - 256);
                self.waiting.insert(Tag(self.next), (from, id));
                let op = DiskOp::Read { file: self.file, offset: block * 4096, len: length };
                fx.disk.push((Tag(self.next), op));
            }
            Input::Disk(tag, DiskDone::Data(payload)) => {
                let (to, id) = self.waiting.remove(&tag).expect("every read was asked for");
                let Msg::Copy(m) = big(id, 0) else { unreachable!("big makes a Copy") };
                let crcs = vec![0; payload.len() / 4096];
                fx.send.push((to, Msg::Copy(wire::DataMsg { payload, crcs, ..m })));
            }
            Input::Disk(_, other) => fx.fatal = Some(format!("{other:?}")),
            _ => {}
        }
    }
    fn settle(&mut self, _: Nanos, _: &mut Effects) {}
    fn deadline(&self) -> Nanos {
        Nanos::NEVER
    }
}

/// Runs `window` requests at a time against `server` for a while and prints what each cost it.
fn measure<N: Node + Send + 'static>(what: &str, server: Server<N>, window: u64, make: impl Fn(u64) -> Msg) {
    let (mut it, _) = client_of(1, cs(1025), server.addr);
    // Everything but this thread is the server: its loop, its disk threads, the kernel's workers.
    let cpu = || clock::process_cpu().since(clock::thread_cpu());
    let before = cpu();
    let start = Instant::now();
    let (mut sent, mut got) = (0, 0);
    while start.elapsed() < Duration::from_secs(2) {
        let mut fx = Effects::default();
        while sent < got + window {
            fx.send.push((cs(1025), make(sent)));
            sent += 1;
        }
        it.apply(fx);
        it.turn(Some(Duration::from_millis(100))).expect("the loop runs");
        got += it.node_mut().got.drain(..).filter(|i| matches!(i, Input::Message(..))).count() as u64;
    }
    let took = start.elapsed().as_secs_f64();
    let cpu = cpu().since(before);
    drop(it);
    let (_, stats, _) = server.stop();
    println!(
        "{what:<28} {window:>3} at once: {:>7.0} /s, server CPU {:>6.2} us each, {:>5.1} frames a turn",
        got as f64 / took,
        cpu.0 as f64 / 1000.0 / got as f64,
        stats.frames_in as f64 / stats.turns as f64,
    );
}

fn main() {
    host::allocator::keep_freed_memory();
    let folder = std::env::args_os().nth(1).map_or_else(
        || std::env::current_exe().expect("the system knows this program").with_extension("folder"),
        PathBuf::from,
    );
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    for window in [1, 16, 64] {
        let echo = Echo { id: cs(1025), aligned: false };
        measure("4 KiB there and back", Server::start(echo, hello(cs(1025), 1), |_| {}), window, |n| big(n, 1));
    }
    for window in [1, 16, 64] {
        let echo = Echo { id: cs(1025), aligned: false };
        measure("4 KiB answer from memory", Server::start(echo, hello(cs(1025), 1), |_| {}), window, |n| read(n, 1));
    }
    for (what, direct, uring) in [
        ("4 KiB direct, io_uring", Use::Auto, Use::Auto),
        ("4 KiB direct, threads", Use::Auto, Use::Never),
        ("4 KiB page cache, io_uring", Use::Never, Use::Auto),
    ] {
        for window in [1, 16, 64] {
            let disk = RealDisk::open(&folder, Options { direct, uring, ..Options::default() }).expect("disk");
            let mut f = disk.folder();
            let file = f.open("data").or_else(|_| f.create("data", BLOCKS * 4096)).expect("file");
            let node = Reader { file, waiting: BTreeMap::new(), next: 0 };
            let server = Server::start(node, hello(cs(1025), 1), |c| c.disk = Some(disk));
            measure(what, server, window, |n| read(n, 1));
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}
