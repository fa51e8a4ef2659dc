//! The first exchange: what is wished for, what the kernel offers, what is agreed on.

use crate::abi;
use crate::flags::init as bit;
use crate::queue::{Queue, QueueError};
use crate::reply::Reply;
use crate::request::{Dialect, Init, Op};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const PAGE: u32 = 4096;
/// Bytes of a request without MAX_PAGES.
const OLD_MAX: u32 = 32 * PAGE;
/// Taken whenever it is offered: it costs nothing, or the rest of this crate counts on it.
const ALWAYS: u64 = bit::ASYNC_READ
    | bit::BIG_WRITES
    | bit::MAX_PAGES
    | bit::PARALLEL_DIROPS
    | bit::DO_READDIRPLUS
    | bit::ATOMIC_O_TRUNC
    | bit::HANDLE_KILLPRIV_V2
    | bit::EXPLICIT_INVAL_DATA
    | bit::EXPORT_SUPPORT
    | bit::ASYNC_DIO
    | bit::DIRECT_IO_ALLOW_MMAP
    | bit::SETXATTR_EXT
    | bit::HAS_EXPIRE_ONLY
    | bit::INIT_EXT
    | bit::CREATE_SUPP_GROUP;

/// What a file system would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Longest read or write in bytes, a multiple of 4096; the kernel's own limit is 1 MiB unless its administrator
    /// changed it (`fs.fuse.max_pages_limit`).
    pub max_write: u32,
    /// Bytes to read ahead at most.
    pub max_readahead: u32,
    /// Requests that nobody waits for (read ahead, write back, direct I/O in the background) at once; above three
    /// quarters of it the kernel calls the mount congested.
    pub max_background: u16,
    /// Answers of READLINK may be cached; whoever changes a link must invalidate it.
    pub cache_symlinks: bool,
    /// Locks of fcntl(2) come here. Otherwise the kernel keeps them within this host.
    pub posix_locks: bool,
    /// Locks of flock(2) come here. Otherwise the kernel keeps them within this host.
    pub flock_locks: bool,
    /// OPEN and OPENDIR may be answered ENOSYS, and then never come again.
    pub no_open: bool,
}
impl Default for Wishes {
    fn default() -> Wishes {
        Wishes {
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 128,
            cache_symlinks: true,
            posix_locks: false,
            flock_locks: false,
            no_open: false,
        }
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Minor version that both sides speak.
    pub minor: u32,
    /// Bits of [`crate::flags::init`] in force.
    pub flags: u64,
    /// Longest read or write in bytes.
    pub max_write: u32,
    /// Bytes to read ahead at most.
    pub max_readahead: u32,
}
impl Features {
    /// Is this in force?
    pub fn has(&self, bits: u64) -> bool {
        self.flags & bits == bits
    }
    /// How requests are read from now on.
    pub fn dialect(&self) -> Dialect {
        Dialect { setxattr_ext: self.has(bit::SETXATTR_EXT) }
    }
    /// Does the kernel understand [`crate::notify::Notice::IncEpoch`]?
    pub fn has_epochs(&self) -> bool {
        self.minor >= 44
    }
    /// Does the kernel understand [`crate::notify::Notice::Prune`]?
    pub fn has_prune(&self) -> bool {
        self.minor >= 45
    }
}

/// Why a mount cannot begin.
#[derive(Debug)]
pub enum InitError {
    /// The kernel speaks only this version.
    Version {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// The kernel said nothing for this long.
    Silent(Duration),
    /// Something else came first.
    Unexpected(String),
    /// The queue failed.
    Queue(QueueError),
    /// The system refused to wait.
    System(Errno),
}
impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitError::Version { major, minor } => write!(
                f,
                "the kernel's file system protocol is {major}.{minor}, and {}.{} is the oldest that works: use Linux 3.15 \
                 or newer",
                abi::MAJOR,
                abi::MINOR_MIN
            ),
            InitError::Silent(time) => write!(
                f,
                "the kernel did not begin to talk to the mount within {} s: unmount it and try again",
                time.as_secs()
            ),
            InitError::Unexpected(what) => write!(f, "the kernel began with {what} instead of its version"),
            InitError::Queue(e) => e.fmt(f),
            InitError::System(e) => write!(f, "waiting for the kernel: {e}"),
        }
    }
}
impl std::error::Error for InitError {}
impl From<QueueError> for InitError {
    fn from(e: QueueError) -> InitError {
        InitError::Queue(e)
    }
}

/// What follows from an INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The kernel asks again in our version.
    Again,
    Agreed(Features),
    TooOld,
}

fn negotiate(offer: &Init, wishes: &Wishes) -> Answer {
    if offer.major > abi::MAJOR {
        return Answer::Again;
    }
    if offer.major < abi::MAJOR || offer.minor < abi::MINOR_MIN {
        return Answer::TooOld;
    }
    let flags = offer.flags & wanted(wishes);
    let room = if flags & bit::MAX_PAGES == 0 { OLD_MAX } else { u32::from(u16::MAX) * PAGE };
    Answer::Agreed(Features {
        minor: offer.minor.min(abi::MINOR),
        flags,
        max_write: (wishes.max_write / PAGE * PAGE).clamp(PAGE, room),
        max_readahead: wishes.max_readahead.min(offer.max_readahead),
    })
}

fn wanted(wishes: &Wishes) -> u64 {
    let wish = |yes: bool, bits: u64| if yes { bits } else { 0 };
    ALWAYS
        | wish(wishes.cache_symlinks, bit::CACHE_SYMLINKS)
        | wish(wishes.posix_locks, bit::POSIX_LOCKS)
        | wish(wishes.flock_locks, bit::FLOCK_LOCKS)
        | wish(wishes.no_open, bit::NO_OPEN_SUPPORT | bit::NO_OPENDIR_SUPPORT)
}

fn answer(features: &Features, wishes: &Wishes) -> abi::InitOut {
    abi::InitOut {
        major: abi::MAJOR,
        minor: features.minor,
        max_readahead: features.max_readahead,
        // The kernel looks at the upper half only if INIT_EXT stands in the lower one.
        flags: features.flags as u32,
        flags2: (features.flags >> 32) as u32,
        max_background: wishes.max_background,
        congestion_threshold: wishes.max_background - wishes.max_background / 4,
        max_write: features.max_write,
        time_gran: 1,
        max_pages: u16::try_from(features.max_write / PAGE).unwrap_or(u16::MAX),
        ..abi::InitOut::default()
    }
}

/// Waits up to `limit` for the kernel's INIT on a queue that was just mounted, and answers it. Nothing else comes before.
pub fn handshake<Q: Queue>(queue: &mut Q, wishes: &Wishes, limit: Duration) -> Result<Features, InitError> {
    let end = Instant::now() + limit;
    loop {
        let Some(incoming) = queue.receive()? else {
            queue.commit()?;
            wait(queue, end.saturating_duration_since(Instant::now()), limit)?;
            continue;
        };
        let offer = match incoming.request().map(|r| r.op) {
            Ok(Op::Init(offer)) => offer,
            Ok(op) => return Err(InitError::Unexpected(format!("{op:?}"))),
            Err(e) => return Err(InitError::Unexpected(e.to_string())),
        };
        let (ticket, _) = incoming.split();
        match negotiate(&offer, wishes) {
            Answer::Again => {
                let only = abi::InitOut { major: abi::MAJOR, minor: abi::MINOR, ..Default::default() };
                queue.reply(ticket, &Reply::init(&only))?;
            }
            Answer::TooOld => {
                queue.reply(ticket, &Reply::error(Errno::PROTO))?;
                return Err(InitError::Version { major: offer.major, minor: offer.minor });
            }
            Answer::Agreed(features) => {
                queue.agreed(&features);
                queue.reply(ticket, &Reply::init(&answer(&features, wishes)))?;
                return Ok(features);
            }
        }
    }
}

fn wait<Q: AsFd>(queue: &Q, left: Duration, limit: Duration) -> Result<(), InitError> {
    let time = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    match poll(&mut [PollFd::new(queue, PollFlags::IN)], Some(&time)) {
        Ok(0) => Err(InitError::Silent(limit)),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(InitError::System(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: u64) -> Init {
        Init { major: 7, minor, max_readahead: 128 << 10, flags }
    }
    fn agreed(offer: &Init, wishes: &Wishes) -> Features {
        match negotiate(offer, wishes) {
            Answer::Agreed(f) => f,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn takes_what_is_offered_and_wished() {
        let f = agreed(&offer(45, u64::MAX), &Wishes::default());
        assert_eq!((f.minor, f.max_write, f.max_readahead), (45, 1 << 20, 128 << 10));
        assert!(f.has(ALWAYS | bit::CACHE_SYMLINKS) && f.has_epochs() && f.dialect().setxattr_ext);
        let never = bit::WRITEBACK_CACHE
            | bit::AUTO_INVAL_DATA
            | bit::DONT_MASK
            | bit::SPLICE_READ
            | bit::SPLICE_WRITE
            | bit::SPLICE_MOVE
            | bit::POSIX_LOCKS
            | bit::FLOCK_LOCKS
            | bit::ALLOW_IDMAP
            | bit::OVER_IO_URING
            | bit::HAS_RESEND
            | bit::HANDLE_KILLPRIV;
        assert_eq!(f.flags & never, 0);
        let all = Wishes { posix_locks: true, flock_locks: true, no_open: true, ..Wishes::default() };
        assert!(agreed(&offer(45, u64::MAX), &all).has(bit::POSIX_LOCKS | bit::FLOCK_LOCKS | bit::NO_OPEN_SUPPORT));
    }

    #[test]
    fn old_kernels_get_less() {
        let f = agreed(&offer(23, bit::ASYNC_READ | bit::BIG_WRITES), &Wishes::default());
        assert_eq!((f.minor, f.flags, f.max_write), (23, bit::ASYNC_READ | bit::BIG_WRITES, 128 << 10));
        assert!(!f.has_epochs() && !f.dialect().setxattr_ext);
        assert_eq!(agreed(&offer(99, 0), &Wishes::default()).minor, abi::MINOR);
        assert_eq!(negotiate(&offer(22, 0), &Wishes::default()), Answer::TooOld);
        assert_eq!(negotiate(&Init { major: 6, ..offer(40, 0) }, &Wishes::default()), Answer::TooOld);
        assert_eq!(negotiate(&Init { major: 8, ..offer(0, 0) }, &Wishes::default()), Answer::Again);
    }

    #[test]
    fn the_answer_splits_its_flags() {
        let f = agreed(&offer(45, u64::MAX), &Wishes { max_write: 10_000, ..Wishes::default() });
        let a = answer(&f, &Wishes::default());
        assert_eq!(u64::from(a.flags) | u64::from(a.flags2) << 32, f.flags);
        assert_eq!((a.max_write, a.max_pages, a.congestion_threshold), (8192, 2, 96));
    }
}
