//! The loop around the file system: one thread with the client, its sockets and the kernel's queue.

use crate::system::{After, FileSystem, Settings, Shell};
use bytes::Bytes;
use client::{Client, ClientOp, Event, FileView};
use fuse::device::{DeviceQueue, QueueConfig};
use fuse::init::{InitError, Wishes, handshake};
use fuse::mount::{Mount, mount};
use fuse::notify::{Notice, Notifier};
use fuse::options::Options;
use fuse::queue::{Incoming, Queue, QueueError, Ticket};
use fuse::reply::Reply;
use fuse::request::{Op, Request};
use host::node::Effects;
use net::{Loop, LoopError};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::configure_io_flusher_behavior;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use types::{InodeId, Nanos, SessionId};

/// Requests taken in one turn, so that answers of the cluster are not kept waiting.
const TURN: usize = 64;
/// Longest sleep: the stop flag is looked at so often.
const NAP: Duration = Duration::from_millis(200);
/// Writes up to this length are copied out of the kernel's buffer, of which there are few.
const COPIED: usize = 64 << 10;
/// Invalidations that may wait.
const NOTICES: usize = 1 << 16;
/// How long the kernel has to begin.
const GREETING: Duration = Duration::from_secs(10);
/// After an unmount: how long what is in memory may take to reach the servers before the process says what is the matter.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a mount ended, or never began.
#[derive(Debug)]
pub enum ServeError {
    /// It could not be mounted.
    Mount(fuse::mount::MountError),
    /// The kernel and this program did not agree.
    Init(InitError),
    /// The kernel's queue failed.
    Queue(QueueError),
    /// The client's loop failed.
    Loop(LoopError),
    /// The system refused something.
    System(std::io::Error),
    /// The last writes could not be made durable.
    Unwritten(client::ClientError),
}
impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Mount(e) => e.fmt(f),
            ServeError::Init(e) => e.fmt(f),
            ServeError::Queue(e) => e.fmt(f),
            ServeError::Loop(e) => e.fmt(f),
            ServeError::System(e) => e.fmt(f),
            ServeError::Unwritten(e) => {
                write!(
                    f,
                    "unmounted, but writes that nobody had made durable with fsync did not reach the cluster: {e}"
                )
            }
        }
    }
}
impl std::error::Error for ServeError {}
impl From<QueueError> for ServeError {
    fn from(e: QueueError) -> Self {
        ServeError::Queue(e)
    }
}
impl From<LoopError> for ServeError {
    fn from(e: LoopError) -> Self {
        ServeError::Loop(e)
    }
}
impl From<std::io::Error> for ServeError {
    fn from(e: std::io::Error) -> Self {
        ServeError::System(e)
    }
}

/// What is mounted where.
pub struct Plan<'a> {
    /// Mount point.
    pub point: &'a Path,
    /// Mount options.
    pub options: &'a Options,
    /// How the file system behaves.
    pub settings: Settings,
    /// Shall the mount end?
    pub stop: &'a dyn Fn() -> bool,
    /// Takes lines for the log.
    pub log: &'a mut dyn FnMut(&str),
}

/// Mounts, serves until somebody unmounts or `stop` says so, writes out what is in memory and ends the session.
/// `ready` is called once the mount can be used.
pub fn serve(client: Loop<Client>, plan: Plan<'_>, ready: impl FnOnce()) -> Result<(), ServeError> {
    let (mounted, device) = mount(plan.point, plan.options, plan.log).map_err(ServeError::Mount)?;
    let mut queue = DeviceQueue::new(device.clone(), &QueueConfig::default())?;
    let wishes = Wishes { max_readahead: 4 << 20, posix_locks: true, flock_locks: true, ..Wishes::default() };
    let features = handshake(&mut queue, &wishes, GREETING).map_err(ServeError::Init)?;
    protect_memory(plan.log);
    let notifier = Notifier::new(device, NOTICES)?;
    client.watch(queue.as_fd())?;
    client.watch(notifier.bell().as_fd())?;
    let mut server = Server {
        files: FileSystem::new(plan.settings),
        kernel: Kernel {
            client,
            queue,
            epochs: features.has_epochs(),
            tickets: HashMap::new(),
            notifier,
            after: BTreeMap::new(),
            next: 1,
        },
    };
    ready();
    let ended = server.run(plan.stop, mounted);
    let finished = server.finish(plan.log);
    ended.and(finished)
}

/// Dirty pages of other programs are cleaned through this process when memory is short: it must not wait for memory
/// itself.
fn protect_memory(log: &mut dyn FnMut(&str)) {
    let locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    if let Err(e) = locked.and_then(|()| configure_io_flusher_behavior(true)) {
        log(&format!("memory is not protected ({e}): under memory pressure this mount may be slow; run it as root"));
    }
}

struct Server {
    files: FileSystem,
    kernel: Kernel,
}

/// Both sides of the file system: the kernel above and the client below.
struct Kernel {
    client: Loop<Client>,
    queue: DeviceQueue,
    /// The kernel can be told that all names are old.
    epochs: bool,
    /// Rights to answer, by request.
    tickets: HashMap<u64, Ticket>,
    notifier: Notifier,
    /// What follows a notification.
    after: BTreeMap<u64, After>,
    next: u64,
}

impl Shell for Kernel {
    fn reply(&mut self, unique: u64, reply: Reply<'_>) {
        let Some(ticket) = self.tickets.remove(&unique) else { return };
        // Whether the mount still stands comes out with the next request.
        let _ = self.queue.reply(ticket, &reply);
    }
    fn submit(&mut self, ticket: u64, op: ClientOp) {
        let now = self.client.now();
        let mut fx = Effects::default();
        self.client.node_mut().submit(now, ticket, op, &mut fx);
        self.client.apply(fx);
    }
    fn view(&self, ino: InodeId) -> Option<FileView> {
        self.client.node().view_of(ino)
    }
    fn kept(&self, ino: InodeId, now: Nanos) -> Duration {
        // Without epochs the kernel could not be told that names are old.
        let kept = if self.epochs { self.client.node().kept(ino, now) } else { Nanos::ZERO };
        Duration::from_nanos(kept.0)
    }
    fn session(&self) -> SessionId {
        self.client.node().session()
    }
    fn in_contact(&self) -> bool {
        let client = self.client.node();
        client.in_contact(host::clock::now())
    }
    fn seek_contact(&mut self) {
        self.client.node_mut().seek_contact();
    }
    fn spell(&self) -> u64 {
        self.client.node().spell()
    }
    fn notify(&mut self, notice: Notice, after: After) {
        let tag = self.next;
        self.next += 1;
        let sent = self.notifier.send(tag, notice).is_ok();
        if sent && after != After::Nothing {
            self.after.insert(tag, after);
        }
    }
}

impl Server {
    fn run(&mut self, stop: &dyn Fn() -> bool, mounted: Mount) -> Result<(), ServeError> {
        let mut mounted = Some(mounted);
        loop {
            self.turn(NAP)?;
            if stop()
                && let Some(mut m) = mounted.take()
            {
                // The kernel asks for more while it unmounts, so another thread has to wait for it.
                std::thread::Builder::new().name("unmount".into()).spawn(move || {
                    let _ = m.unmount();
                })?;
            }
            // First what the kernel has dropped: what it asks for from then on waits for the next lease.
            self.notified();
            if self.requests()? || self.files.ended() {
                return Ok(());
            }
        }
    }
    /// One turn of the client, and what comes of it.
    fn turn(&mut self, limit: Duration) -> Result<(), ServeError> {
        let now = self.kernel.client.now();
        let wait = Duration::from_nanos(self.files.deadline().since(now).0).min(limit);
        self.kernel.client.turn(Some(wait))?;
        self.answers();
        for event in self.kernel.client.node_mut().events() {
            self.event(event);
        }
        let now = self.kernel.client.now();
        self.files.tick(now, &mut self.kernel);
        Ok(())
    }
    fn event(&mut self, event: Event) {
        let now = self.kernel.client.now();
        self.files.event(now, event, &mut self.kernel);
    }
    /// Hands on answers of the client until there are none.
    fn answers(&mut self) {
        loop {
            let answers = self.kernel.client.node_mut().finished();
            if answers.is_empty() {
                return;
            }
            let now = self.kernel.client.now();
            for (ticket, answer) in answers {
                self.files.finished(now, ticket, answer, &mut self.kernel);
            }
        }
    }
    /// Takes requests. True: there is no mount any more.
    fn requests(&mut self) -> Result<bool, ServeError> {
        for _ in 0..TURN {
            match self.kernel.queue.receive() {
                Ok(Some(incoming)) => self.request(incoming),
                Ok(None) => break,
                Err(QueueError::Unmounted) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
            self.answers();
        }
        self.kernel.queue.commit()?;
        Ok(false)
    }
    fn request(&mut self, incoming: Incoming) {
        let now = self.kernel.client.now();
        let request = match incoming.request() {
            Ok(r) => r,
            Err(bad) => {
                let ticket = incoming.ticket();
                self.kernel.tickets.insert(ticket.unique(), ticket);
                return bad.head.iter().for_each(|head| self.kernel.reply(head.0, Reply::error(bad.errno())));
            }
        };
        if let Op::Write(w, _) = request.op {
            let head = without_data(&request, w);
            let (ticket, payload) = incoming.split();
            let short = payload.data.len() <= COPIED;
            let data = if short { Bytes::copy_from_slice(&payload.data) } else { payload.data };
            self.kernel.tickets.insert(ticket.unique(), ticket);
            return self.files.request(now, &head, data, &mut self.kernel);
        }
        let interrupt = matches!(request.op, Op::Interrupt { .. });
        if interrupt || request.op.is_answered() {
            let ticket = incoming.ticket();
            self.kernel.tickets.insert(ticket.unique(), ticket);
        }
        self.files.request(now, &request, Bytes::new(), &mut self.kernel);
        if interrupt {
            // Only one that comes too late or too early is answered.
            self.kernel.tickets.remove(&request.unique);
        }
    }
    /// Notifications that are done.
    fn notified(&mut self) {
        let mut done = Vec::new();
        self.kernel.notifier.reap(&mut done);
        for (tag, _) in done {
            if let Some(after) = self.kernel.after.remove(&tag) {
                let now = self.kernel.client.now();
                self.files.dropped(now, after, &mut self.kernel);
            }
        }
    }

    /// After the unmount: what is in memory goes to the servers and becomes durable, then the session ends.
    fn finish(&mut self, log: &mut dyn FnMut(&str)) -> Result<(), ServeError> {
        let flushed = self.wait(ClientOp::Flush { ino: None }, PATIENCE, log)?;
        self.wait(ClientOp::Detach, Duration::from_secs(3), log)?;
        self.kernel.client.turn(Some(Duration::ZERO))?;
        match flushed {
            Some(Err(e)) => Err(ServeError::Unwritten(e)),
            _ => Ok(()),
        }
    }
    /// Carries out one operation; None if it has no answer in time.
    fn wait(
        &mut self,
        op: ClientOp,
        limit: Duration,
        log: &mut dyn FnMut(&str),
    ) -> Result<Option<Result<client::ClientAnswer, client::ClientError>>, ServeError> {
        let ticket = u64::MAX >> 1;
        let patient = matches!(op, ClientOp::Flush { .. });
        self.kernel.submit(ticket, op);
        let mut begun = Instant::now();
        loop {
            self.kernel.client.turn(Some(Duration::from_millis(50)))?;
            let answers = self.kernel.client.node_mut().finished();
            if let Some((_, answer)) = answers.into_iter().find(|(t, _)| *t == ticket) {
                return Ok(Some(answer));
            }
            if begun.elapsed() > limit {
                if !patient {
                    return Ok(None);
                }
                log(
                    "unmounted; waiting for the cluster to take the last writes (too few servers answer; ended twice by a signal they are lost)",
                );
                begun = Instant::now();
            }
        }
    }
}

/// The request of a write without its bytes, which leave the kernel's buffer by themselves.
fn without_data(r: &Request<'_>, w: fuse::request::Write) -> Request<'static> {
    let Request { unique, nodeid, uid, gid, pid, supp_group, .. } = *r;
    Request { unique, nodeid, uid, gid, pid, supp_group, op: Op::Write(w, &[]) }
}
