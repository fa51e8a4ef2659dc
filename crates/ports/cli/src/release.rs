//! `rm-cs`: chunk servers give up their copies to others and leave, or stay after all.

use crate::cluster::At;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use types::CsId;
use wire::names::{MetaError, MetaOp};
use wire::status::{ClusterReport, CsReport, CsState};

/// Take chunk servers out of the cluster: their copies are made anew on others, then they are dropped for ever.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c mycl rm-cs --wait 1026 1027   release two chunk servers and wait until they hold nothing
  pstorage -c mycl rm-cs -U 1026            let it stay after all; what has gone elsewhere stays there

Ids are shown by `pstorage -c mycl status`. Everything stays readable and writable meanwhile. When the last copy has gone, the
server is dropped and its daemon ends; its folder can be removed, and its id is never given again. Without --wait, or when
this command is broken off, the work goes on by itself.")]
pub struct RmCs {
    /// Wait until they hold nothing any more.
    #[arg(long, conflicts_with = "undo")]
    wait: bool,
    /// Undo a release that is not complete.
    #[arg(short = 'U', long)]
    undo: bool,
    /// Also where the others have no room for everything, or are too few for all the copies that files want. What finds no
    /// other place stays, and the server with it, until there is one.
    #[arg(short, long, conflicts_with = "undo")]
    force: bool,
    /// Their ids.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u32>,
}

pub fn rm_cs(at: &At, a: &RmCs) -> Result<()> {
    let name = at.name()?;
    let mut link = Link::open(at, Duration::from_secs(10))?;
    let ids: Vec<CsId> = a.ids.iter().map(|id| CsId(*id)).collect();
    for (i, cs) in ids.iter().enumerate() {
        let op = if a.undo { MetaOp::KeepCs { cs: *cs } } else { MetaOp::ReleaseCs { cs: *cs, force: a.force } };
        if let Err(e) = link.meta(op)? {
            let error = refused(name, *cs, a.undo, e, &*link.status()?);
            return match &ids[..i] {
                [] => Err(error),
                before if a.undo => Err(error.context(format!("{} stay, and no other", list(before)))),
                before => Err(error.context(format!(
                    "of the chunk servers named, {} give up their copies now (`pstorage -c {name} rm-cs -U {}` lets them stay), and \
                     no other",
                    list(before),
                    before.iter().map(|cs| cs.0.to_string()).collect::<Vec<_>>().join(" ")
                ))),
            };
        }
    }
    if a.undo {
        link.close()?;
        println!("Chunk servers that stay: {}. They take copies again.", list(&ids));
        return Ok(());
    }
    if a.wait {
        follow(name, &mut link, &ids)?;
        link.close()?;
        println!("Chunk servers that were dropped: {}. Their folders can be removed.", list(&ids));
        return Ok(());
    }
    link.close()?;
    println!("Chunk servers that give up their copies: {}.", list(&ids));
    println!("How far they are is shown by `pstorage -c {name} status`; with --wait this command waits for the end.");
    Ok(())
}

fn list(ids: &[CsId]) -> String {
    ids.iter().map(|cs| cs.0.to_string()).collect::<Vec<_>>().join(", ")
}

fn refused(name: &str, cs: CsId, undo: bool, e: MetaError, r: &ClusterReport) -> anyhow::Error {
    let stays = |c: &&CsReport| c.id != cs && c.state == CsState::Active;
    let run = r.cs.iter().filter(stays).count();
    match e {
        MetaError::NoCs => anyhow::anyhow!(
            "cluster `{name}` has no chunk server {}; see `pstorage -c {name} status` for those it has",
            cs.0
        ),
        MetaError::TooFewCs => anyhow::anyhow!(
            "chunk server {} cannot leave: files want {} copies on hosts of their own, and {run} other chunk servers run. Add one \
             first with `pstorage -c {name} make-cs -r DIR`, or release it with -f: copies that find no other place stay on it until there is one",
            cs.0,
            r.norm
        ),
        MetaError::CsFull => {
            let holds = r.cs.iter().find(|c| c.id == cs).map_or(0, |c| c.allocated);
            let free: u64 = r.cs.iter().filter(stays).map(|c| c.capacity.saturating_sub(c.allocated)).sum();
            anyhow::anyhow!(
                "chunk server {} cannot leave: it holds {}, and the others have {} free, of which a twentieth of each disk is kept. \
                 Add one first with `pstorage -c {name} make-cs -r DIR`, or remove files",
                cs.0,
                units::bytes(holds),
                units::bytes(free)
            )
        }
        e if undo => anyhow::anyhow!("chunk server {} cannot stay: {e}", cs.0),
        e => anyhow::anyhow!("chunk server {} cannot leave: {e}", cs.0),
    }
}

/// Work that a copy costs beside its bytes, as bytes.
const EACH: u64 = 256 << 10;
/// Between looks.
const STEP: Duration = Duration::from_millis(300);
/// Between lines where nobody looks at a terminal.
const LINE: Duration = Duration::from_secs(10);

/// Copies and bytes that servers hold.
type Holds = BTreeMap<CsId, (u64, u64)>;

/// What these servers still hold, by what they held at `first`. None = they are gone.
fn left(r: &ClusterReport, ids: &[CsId], first: &Holds) -> Option<Holds> {
    let those = r.cs.iter().filter(|c| ids.contains(&c.id));
    let holds = |c: &CsReport| match first.get(&c.id) {
        // What one that does not answer said last gets no less; its copies do.
        Some((copies, bytes)) if !c.alive => (c.copies, bytes / (*copies).max(1) * c.copies),
        _ => (c.copies, c.allocated),
    };
    let left: Holds = those.map(|c| (c.id, holds(c))).collect();
    (!left.is_empty()).then_some(left)
}

/// Time that the rest takes if it goes on as since the beginning.
fn rest(begun: u64, left: u64, since: Duration) -> Option<Duration> {
    let done = begun.checked_sub(left).filter(|d| *d > begun / 50)?;
    Some(since.mul_f64(left as f64 / done as f64))
}

fn follow(name: &str, link: &mut Link, ids: &[CsId]) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let hint = || format!("the release goes on without this command; `pstorage -c {name} status` shows how far it is");
    let mut first = Holds::new();
    let mut begun: Option<(Instant, u64)> = None;
    let mut told: Option<Instant> = None;
    loop {
        let r = link.status().with_context(hint)?;
        if r.current {
            let states: BTreeMap<CsId, CsState> = r.cs.iter().map(|c| (c.id, c.state)).collect();
            if let Some(cs) = ids.iter().find(|cs| states.get(cs).is_some_and(|s| *s != CsState::Releasing)) {
                bail!("chunk server {} stays: somebody undid its release", cs.0);
            }
            let Some(holds) = left(&r, ids, &first) else { break };
            let (copies, bytes) = holds.values().fold((0, 0), |(c, b), x| (c + x.0, b + x.1));
            let work = bytes + copies * EACH;
            if first.is_empty() {
                first = holds;
            }
            let (since, all) = *begun.get_or_insert((Instant::now(), work));
            let time = match rest(all, work, since.elapsed()) {
                Some(t) => format!("about {} to go", units::duration(t)),
                None => "how long it takes is not known yet".into(),
            };
            let done = 100.0 * all.saturating_sub(work) as f64 / all.max(1) as f64;
            let line = format!("{done:.1} % done; {copies} copies, {} left; {time}", units::bytes(bytes));
            if terminal {
                eprint!("\r{line}\x1b[K");
                std::io::stderr().flush()?;
            } else if told.is_none_or(|t| t.elapsed() >= LINE) {
                eprintln!("{line}");
                told = Some(Instant::now());
            }
        }
        let turn = Instant::now();
        while turn.elapsed() < STEP {
            link.turn(STEP.saturating_sub(turn.elapsed())).with_context(hint)?;
        }
    }
    if terminal {
        eprintln!();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_follows_from_what_is_done() {
        assert_eq!(rest(1000, 995, Duration::from_secs(1)), None, "too early to tell");
        assert_eq!(rest(1000, 900, Duration::from_secs(10)), Some(Duration::from_secs(90)));
        assert_eq!(rest(1000, 1100, Duration::from_secs(10)), None, "it has grown");
    }
}
