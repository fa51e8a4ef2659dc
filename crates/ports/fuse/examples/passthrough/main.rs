//! Serves a directory tree one to one: a yardstick for what the kernel's protocol and this queue cost by themselves.
//!
//! `passthrough SOURCE MOUNTPOINT [-o OPTIONS]`; one thread, helpers by load; ends when it is unmounted.

mod handles;
mod tree;

use fuse::device::{DeviceQueue, QueueConfig};
use fuse::init::{Wishes, handshake};
use fuse::mount::mount;
use fuse::options::Options;
use fuse::queue::{Incoming, Queue, QueueError};
use fuse::reply::Reply;
use fuse::request::Op;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use tree::Tree;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (source, point, text) = match &args[..] {
        [source, point] => (source, point, ""),
        [source, point, o, text] if o == "-o" => (source, point, text.as_str()),
        _ => return Err("usage: passthrough SOURCE MOUNTPOINT [-o OPTIONS]".into()),
    };
    let mut options = Options { fsname: source.clone(), subtype: "passthrough".into(), ..Options::default() };
    options.parse(text)?;
    raise_open_files();
    let mut tree = Tree::new(Path::new(source))?;
    // Modes are passed as asked for; the kernel has applied the umask already.
    rustix::process::umask(rustix::fs::Mode::empty());
    let (_mount, device) = mount(Path::new(point), &options, &mut |line| eprintln!("{line}"))?;
    let mut queue = DeviceQueue::new(device, &QueueConfig::default())?;
    let features = handshake(&mut queue, &Wishes::default(), Duration::from_secs(10))?;
    eprintln!("{source} on {point}, protocol 7.{}, up to {} KiB", features.minor, features.max_write >> 10);
    loop {
        match turn(&mut tree, &mut queue) {
            Ok(()) => {}
            Err(QueueError::Unmounted) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        poll(&mut [PollFd::new(&queue, PollFlags::IN)], None)?;
    }
}

/// Every node that the kernel knows of is an open file here; a wide folder has more than a process usually may.
fn raise_open_files() {
    let most = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    if setrlimit(Resource::Nofile, most).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

fn turn(tree: &mut Tree, queue: &mut DeviceQueue) -> Result<(), QueueError> {
    while let Some(incoming) = queue.receive()? {
        serve(tree, queue, incoming)?;
    }
    queue.commit()
}

fn serve(tree: &mut Tree, queue: &mut DeviceQueue, incoming: Incoming) -> Result<(), QueueError> {
    let request = match incoming.request() {
        Ok(request) => request,
        Err(e) => {
            eprintln!("{e}");
            let (ticket, _) = incoming.split();
            return queue.reply(ticket, &Reply::error(e.errno())).map(|_| ());
        }
    };
    let answered = request.op.is_answered();
    let node = request.nodeid;
    if let Op::Write(w, data) = request.op {
        let reply = tree.handles.write(&w, data).map_or_else(Reply::error, Reply::written);
        let (ticket, _) = incoming.split();
        return queue.reply(ticket, &reply).map(|_| ());
    }
    let result = match request.op {
        Op::Read(r) => tree.handles.read(&r),
        Op::ReadDir(r) => tree.read_dir(node, &r, false),
        Op::ReadDirPlus(r) => tree.read_dir(node, &r, true),
        Op::ReadLink => tree.read_link(node),
        Op::GetXattr { name, size } => tree.get_xattr(node, name, size),
        Op::ListXattr { size } => tree.list_xattr(node, size),
        _ => tree.answer(&request),
    };
    let (ticket, _) = incoming.split();
    if answered {
        queue.reply(ticket, &result.unwrap_or_else(Reply::error))?;
    }
    Ok(())
}
