//! Story: blocks that processes on three hosts write and read at once are registers, whatever happens to hosts and servers.
//!
//! On each of three hosts with a mount three processes, two of them by O_DIRECT, write stamps over whole blocks of a few shared
//! files, read blocks and make files durable. Most files are everybody's, and change hands all the time; one of each host is seldom
//! touched by others, so that buffers and pages of it are full when something happens. Three other hosts have a metadata server
//! and a chunk server each, with two copies of three enough to go on. Hosts, chunk servers and leaders are killed, frozen and
//! cut off meanwhile, one after the other, half of them for longer than a session lasts. In the end all hosts read all blocks,
//! through the kernel's pages and past them. What everybody asked and was answered has to be explained by one order for each
//! block (`rules` says how), so nothing read is stale or torn, and whatever an fsync covers is there.
//!
//! Power is not cut: what that takes along is the story `forget`'s.
//!
//! A staircase: `stamp` is the content of a block, `record` the lines of a history, `history` all of them with what was done to
//! whom; `order`, `syncs` and `rules` judge it, `report` tells; `player` is a process that plays, `ground` has all of them,
//! `faults` does harm.

mod faults;
mod ground;
mod history;
#[cfg(test)]
mod model_tests;
mod order;
pub mod player;
mod record;
mod report;
mod rules;
#[cfg(test)]
mod rules_tests;
mod stamp;
mod syncs;

use crate::arguments::Arguments;
use crate::stage::Stage;
use anyhow::{Result, bail};
use faults::Deck;
use ground::Ground;
use std::time::{Duration, Instant};

const SECONDS: u64 = 600;
/// Nobody whose host is well waits longer for an answer.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Runs it; the line to print. `--seconds` says for how long faults begin, `--only` of which kind; `--options` are those of the mounts.
pub fn run(a: &Arguments) -> Result<String> {
    let mut deck = Deck::of(a)?;
    let stage = Stage::set(a)?;
    let mut ground = Ground::set(&stage, a)?;
    let begun = Instant::now();
    let lasts = Duration::from_secs(a.seconds.unwrap_or(SECONDS));
    ground.rest(3..=3)?;
    let mut played = Ok(());
    while played.is_ok() && begun.elapsed() < lasts {
        let at = begun.elapsed().as_secs();
        played = deck.play(&mut ground).map(|line| println!("{at:>4} s  {line}"));
    }
    // What was written down until then is judged in any case.
    let ended = played.and_then(|()| ground.finish());
    let h = ground.history()?;
    let v = rules::judge(&h);
    let line = report::line(&h, &v, syncs::Syncs::of(&h).losses());
    if !v.violations.is_empty() {
        print!("{}", report::violations(&h, &v));
    }
    if let Err(e) = ended {
        bail!("{e:#}; until then {line}");
    }
    let longest = report::longest(&h, false).map_or(0, |o| o.end - o.start);
    if !v.violations.is_empty() || Duration::from_nanos(longest) > WAIT_MAX {
        bail!("{line}; a wait may last {} s", WAIT_MAX.as_secs());
    }
    ground.clear()?;
    stage.clear()?;
    Ok(line)
}
