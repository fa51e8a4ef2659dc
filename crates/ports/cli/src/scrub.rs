//! `scrub`: look at everything that is stored, now, and say what was found.

use crate::cluster::At;
use crate::link::Link;
use anyhow::{Result, bail};
use client::{ClientAnswer, ClientOp};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use wire::integrity::Integrity;
use wire::status::ClusterReport;

/// Look at everything that is stored, now, beside the look that goes on all the time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c mycl scrub                what the looks have found so far
  pstorage -c mycl scrub --now --wait   look at everything, mend what can be mended, wait for the end
  pstorage -c mycl scrub /share /vm.img look at these now, all copies, and wait for the end

Every chunk server reads all its blocks and structures and compares them with their checksums, and compares its copies with
those of other servers. What is damaged is replaced from another copy. With paths, the figures are those
of this look alone, and a server that does not answer is named. Exit code 3: something is lost, or waits, or was not
looked at.")]
pub struct Scrub {
    /// Begin a look at everything.
    #[arg(long)]
    now: bool,
    /// Wait until it is complete.
    #[arg(long, requires = "now")]
    wait: bool,
    /// As JSON; a line for each path.
    #[arg(long)]
    json: bool,
    /// Files and folders of the cluster: these alone are looked at, at once, with everything below them.
    paths: Vec<String>,
}

/// Between looks at how far it is.
const STEP: Duration = Duration::from_millis(300);

/// Has every living server that has anything to look at completed the look `run`?
fn complete(r: &ClusterReport, run: u64) -> bool {
    r.current && r.cs.iter().filter(|c| c.alive).all(|c| c.integrity.run >= run)
}
/// How much is done, in thousandths, over all living servers.
fn done(r: &ClusterReport, run: u64) -> u64 {
    let parts = r.cs.iter().filter(|c| c.alive).map(|c| match (c.integrity.run >= run, c.integrity.asked == run) {
        (true, _) => 1000,
        (false, true) => u64::from(c.integrity.done),
        (false, false) => 0,
    });
    let (n, sum) = parts.fold((0, 0), |(n, s), p| (n + 1, s + p));
    u64::checked_div(sum, n).unwrap_or(0)
}
/// All servers together.
fn sum(r: &ClusterReport) -> Integrity {
    let mut all = Integrity::default();
    for i in r.cs.iter().map(|c| &c.integrity) {
        all.checked += i.checked;
        all.found += i.found;
        all.mended += i.mended;
        all.overtaken += i.overtaken;
        all.lost += i.lost;
        all.pending += i.pending;
        all.rewritten += i.rewritten;
        all.transient += i.transient;
        all.given_up += i.given_up;
        all.compared += i.compared;
        all.differing += i.differing;
    }
    all
}

pub fn scrub(at: &At, a: &Scrub) -> Result<ExitCode> {
    let mut link = Link::open(at, Duration::from_secs(5))?;
    if !a.paths.is_empty() {
        let done = paths(&mut link, a);
        let closed = link.close();
        return done.and_then(|code| closed.map(|()| code));
    }
    let mut report = link.status()?;
    let mut run = report.scrub;
    if a.now {
        let ClientAnswer::Scrubbing(n) = link.run(ClientOp::Scrub)?? else { bail!("the cluster gives no number") };
        run = n;
        if a.wait {
            report = follow(&mut link, run, std::io::stderr().is_terminal() && !a.json)?;
        }
    }
    link.close()?;
    let all = sum(&report);
    let well = all.lost == 0 && all.pending == 0;
    let whole = complete(&report, run);
    if a.json {
        let cs: Vec<_> = report.cs.iter().map(|c| json!({ "id": c.id.0, "integrity": c.integrity })).collect();
        println!("{}", json!({ "run": run, "complete": whole, "well": well, "all": all, "cs": cs }));
    } else {
        print(run, whole, &all);
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
fn paths(link: &mut Link, a: &Scrub) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for p in &a.paths {
        let one = crate::inspect::inspect(link, p, a.json)?;
        if one != ExitCode::SUCCESS {
            code = one;
        }
    }
    Ok(code)
}
/// Waits until the look `run` is complete; `bar` = shows how far it is.
fn follow(link: &mut Link, run: u64, bar: bool) -> Result<Box<ClusterReport>> {
    loop {
        let report = link.status()?;
        let whole = complete(&report, run);
        if bar {
            let share = if whole { 1000 } else { done(&report, run) };
            eprint!("\rlooking: {:>3}.{} %{}", share / 10, share % 10, if whole { "\n" } else { "" });
            std::io::stderr().flush()?;
        }
        if whole {
            return Ok(report);
        }
        link.rest(STEP)?;
    }
}
fn print(run: u64, whole: bool, i: &Integrity) {
    match (run, whole) {
        (0, _) => println!("no look at everything was asked for yet; the usual one goes on all the time"),
        (n, true) => println!("look {n} is complete"),
        (n, false) => println!("look {n} goes on; `pstorage status` shows how far it is"),
    }
    println!("since the servers started:");
    print_blocks([i.checked, i.found, i.mended, i.overtaken, i.pending, i.lost]);
    println!("  rewritten from memory      {}", i.rewritten);
    println!("  chunks compared            {} ({} differed)", i.compared, i.differing);
    println!("  copies given up            {}", i.given_up);
}
/// What looks at blocks came to.
pub fn print_blocks([checked, found, mended, overtaken, pending, lost]: [u64; 6]) {
    println!("  blocks read and compared   {checked}");
    println!("  damaged blocks found       {found}");
    println!("    whole again              {mended}");
    println!("    overwritten or dropped   {overtaken}");
    println!("    being looked for         {pending}");
    println!("    LOST                     {lost}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::CsId;
    use wire::status::CsReport;

    fn cs(alive: bool, integrity: Integrity) -> CsReport {
        CsReport {
            id: CsId(1025),
            addr: String::new(),
            host: String::new(),
            alive,
            state: if alive { wire::status::CsState::Active } else { wire::status::CsState::Inactive },
            capacity: 0,
            allocated: 0,
            overhead: 0,
            copies: 0,
            unclean: 0,
            fetched: 0,
            trouble: String::new(),
            integrity,
        }
    }

    #[test]
    fn complete_when_all_living_servers_say_so() {
        let at = |run, asked, done| Integrity { run, asked, done, found: 1, ..Integrity::default() };
        let mut r = ClusterReport { current: true, ..ClusterReport::default() };
        r.cs = vec![cs(true, at(3, 0, 0)), cs(true, at(2, 3, 500)), cs(false, at(0, 0, 0))];
        assert!(!complete(&r, 3) && complete(&r, 2));
        assert_eq!(done(&r, 3), 750);
        r.cs[1].integrity = at(3, 0, 0);
        assert!(complete(&r, 3));
        r.current = false;
        assert!(!complete(&r, 3), "an old answer proves nothing");
        assert_eq!(sum(&r).found, 3);
    }
}
