//! `locks`: which programs hold locks on files, and who waits for them.

use crate::cluster::At;
use crate::link::Link;
use anyhow::Result;
use std::time::Duration;
use wire::locks::{Family, LockKind, TO_END};
use wire::status::LockReport;

/// Locks that programs hold on files, and who waits.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c mycl locks                         those that are waited for first
  find /mnt/mycl -inum 1234                      the file with that number, on a mount

A lock ends with its program, at the latest with the session of its mount: 0.5 s after a mount died for which somebody waits,
34 s after its host was cut off.")]
pub struct Locks {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn locks(at: &At, a: &Locks) -> Result<()> {
    let mut link = Link::open(at, Duration::from_secs(5))?;
    let r = link.status()?;
    link.close()?;
    if a.json {
        let out = serde_json::json!({"held": r.locks_held, "waited": r.locks_waited, "locks": r.locks});
        println!("{out}");
        return Ok(());
    }
    println!("{} locks are held, {} are waited for", r.locks_held, r.locks_waited);
    if !r.locks.is_empty() {
        println!("\n  file       lock    for    bytes                      session   process   ");
    }
    for l in &r.locks {
        println!("  {}", row(l));
    }
    let left = (r.locks_held + r.locks_waited).saturating_sub(r.locks.len() as u64);
    if left > 0 {
        println!("  and {left} more");
    }
    Ok(())
}

fn row(l: &LockReport) -> String {
    let family = match l.family {
        Family::Bytes => "fcntl",
        Family::Whole => "flock",
    };
    let kind = match l.lock.kind {
        LockKind::Read => "read",
        LockKind::Write => "write",
    };
    let bytes = match (l.lock.start, l.lock.end) {
        (0, TO_END) => "all".into(),
        (a, TO_END) => format!("{a} to the end"),
        (a, b) => format!("{a} to {}", b - 1),
    };
    let waits = if l.waits { "waits" } else { "" };
    let (session, pid) = (l.lock.owner.session.0, l.lock.pid);
    let line = format!("{:<10} {family:<7} {kind:<6} {bytes:<26} {session:<9} {pid:<9} {waits}", l.ino.0);
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{InodeId, SessionId};
    use wire::locks::{Lock, LockOwner};

    #[test]
    fn a_row_says_who_holds_what() {
        let owner = LockOwner { session: SessionId(3), key: 9 };
        let lock = Lock { owner, kind: LockKind::Write, start: 10, end: 20, pid: 77 };
        let mut l = LockReport { ino: InodeId(5), family: Family::Bytes, lock, waits: true };
        let words = |l: &LockReport| row(l).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&l), ["5", "fcntl", "write", "10", "to", "19", "3", "77", "waits"]);
        (l.lock.start, l.lock.end, l.waits) = (0, TO_END, false);
        assert_eq!(words(&l)[3..], ["all", "3", "77"]);
    }
}
