//! Measurements that take long: a table of commands, run unattended, each recorded with commit and figure.

use crate::ledger::{self, Record};
use crate::setup;
use crate::step::{Outcome, Report, Step, cargo, execute};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// How the figure is found in what the command says.
#[derive(Debug, Clone, Copy)]
enum Figure {
    /// Its last line that says something.
    LastLine,
    /// What follows this text on the last line that begins with it.
    After(&'static str),
}

/// A measurement. It holds when the command ends well within its minutes and says its figure.
struct Line {
    id: &'static str,
    what: &'static str,
    /// Arguments of cargo.
    cargo: &'static [&'static str],
    figure: Figure,
    minutes: f64,
}

/// Tables by name. The limits that a line promises are kept by its command: it fails when they are missed.
const TABLES: &[(&str, &[Line])] =
    &[("bytes", BYTES), ("mount", MOUNT), ("survive", SURVIVE), ("hosts", HOSTS), ("members", MEMBERS)];

const HOSTS: &[Line] = &[
    Line {
        id: "shared",
        what: "three hosts, one file system: what a call on one has changed is seen by the next call on another, 1,000 times each; names and 100,000 appended records of all at once, each exactly once",
        cargo: &["run", "--release", "-p", "stories", "--", "shared"],
        figure: Figure::After("shared:"),
        minutes: 60.0,
    },
    Line {
        id: "sharers",
        what: "the same three hosts without kernel pages: cells and appended records of all at once go through one client beside a server",
        cargo: &[
            "run",
            "--release",
            "-p",
            "stories",
            "--",
            "shared",
            "--options",
            "cache=none",
            "--only",
            "cells",
            "--only",
            "records",
        ],
        figure: Figure::After("shared:"),
        minutes: 30.0,
    },
    Line {
        id: "apart",
        what: "a host that holds and has locked 1,000 files is killed, frozen, cut off: others go on in time, it writes nothing, is told once, and is back without a mount",
        cargo: &["run", "--release", "-p", "stories", "--", "apart"],
        figure: Figure::After("apart:"),
        minutes: 30.0,
    },
    Line {
        id: "registers",
        what: "processes on three hosts write and read shared blocks, two thirds by O_DIRECT, for 10 minutes while hosts, chunk servers and leaders are killed, frozen and cut off: linearizable, every fsynced stamp present",
        cargo: &["run", "--release", "-p", "stories", "--", "registers"],
        figure: Figure::After("registers:"),
        minutes: 30.0,
    },
];

const MOUNT: &[Line] = &[
    Line {
        id: "mounted",
        what: "`dev --mount` is ready within 5 s; /usr/share copied, kept in step, cloned into, built in, packed; after restart and kill -9",
        cargo: &["run", "--release", "-p", "stories", "--", "mounted"],
        figure: Figure::After("mounted:"),
        minutes: 90.0,
    },
    Line {
        id: "usr",
        what: "all of /usr copied into a mount: owners, modes, times, extended attributes and hard links are equal",
        cargo: &["run", "--release", "-p", "stories", "--", "mounted", "--only", "/usr"],
        figure: Figure::After("mounted:"),
        minutes: 120.0,
    },
    Line {
        id: "pjdfstest",
        what: "98 % of the cases of pjdfstest that pass on the local disk pass on a mount; the misses are those listed",
        cargo: &["run", "--release", "-p", "stories", "--", "posix", "--only", "pjdfstest"],
        figure: Figure::After("posix:"),
        minutes: 30.0,
    },
    Line {
        id: "fsx",
        what: "fsx, 200,000 operations each: cached, with mmap, uncached, without a difference",
        cargo: &["run", "--release", "-p", "stories", "--", "posix", "--only", "fsx"],
        figure: Figure::After("posix:"),
        minutes: 90.0,
    },
    Line {
        id: "direct",
        what: "200,000 operations with O_DIRECT without a difference",
        cargo: &["run", "--release", "-p", "stories", "--", "posix", "--only", "direct"],
        figure: Figure::After("posix:"),
        minutes: 30.0,
    },
    Line {
        id: "fio",
        what: "5 minutes of random writes and reads of 4 KiB to 1 MiB with checksums, clean",
        cargo: &["run", "--release", "-p", "stories", "--", "posix", "--only", "fio"],
        figure: Figure::After("posix:"),
        minutes: 15.0,
    },
    Line {
        id: "small",
        what: "many small files beside the local disk, in turns; df says the free space for all copies",
        cargo: &["run", "--release", "-p", "stories", "--", "small"],
        figure: Figure::After("small:"),
        minutes: 30.0,
    },
    Line {
        id: "memory",
        what: "servers, mount and a writer of mapped files in 512 MiB: nobody stuck, nobody killed",
        cargo: &["run", "--release", "-p", "stories", "--", "memory", "--only", "pressure"],
        figure: Figure::After("memory:"),
        minutes: 30.0,
    },
    Line {
        id: "folder",
        what: "a folder of 100,000 entries: listed with stat within 2 s, `ls -l` within 1.3 times a plain loop, removed",
        cargo: &["run", "--release", "-p", "stories", "--", "memory", "--only", "folder"],
        figure: Figure::After("memory:"),
        minutes: 30.0,
    },
    Line {
        id: "pgbench",
        what: "PostgreSQL on a mount: no error while a chunk server and the leader are killed under load; speed beside the local disk",
        cargo: &["run", "--release", "-p", "stories", "--", "databases", "--only", "pgbench"],
        figure: Figure::After("databases:"),
        minutes: 30.0,
    },
    Line {
        id: "postgres",
        what: "all power cut at once 10 times: PostgreSQL has every commit it acknowledged, pg_amcheck finds nothing",
        cargo: &["run", "--release", "-p", "stories", "--", "databases", "--only", "postgres"],
        figure: Figure::After("databases:"),
        minutes: 60.0,
    },
    Line {
        id: "sqlite",
        what: "all power cut at once 30 times: SQLite has every commit it acknowledged, integrity_check finds nothing",
        cargo: &["run", "--release", "-p", "stories", "--", "databases", "--only", "sqlite"],
        figure: Figure::After("databases:"),
        minutes: 60.0,
    },
];

const SURVIVE: &[Line] = &[
    Line {
        id: "sim",
        what: "10,000 seeds of the simulator without a violation; operations flow again within 5 s where enough clean copies are left",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--count", "10000"],
        figure: Figure::LastLine,
        minutes: 480.0,
    },
    Line {
        id: "damage",
        what: "1000 seeds with disks that change what they hold, and lose and misplace writes: nothing wrong is served, all is mended",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--damage", "--count", "1000"],
        figure: Figure::LastLine,
        minutes: 120.0,
    },
    Line {
        id: "clocks",
        what: "1000 seeds with clock rates off by up to 10 %: reads may be stale, no write is lost or torn",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--clocks", "10", "--count", "1000"],
        figure: Figure::LastLine,
        minutes: 120.0,
    },
    Line {
        id: "cases",
        what: "the known dangers of the replication protocol, played one by one",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "scenarios"],
        figure: Figure::LastLine,
        minutes: 30.0,
    },
    Line {
        id: "mutants",
        what: "each rule of the protocol and each order of the stores switched off is noticed",
        cargo: &[
            "run",
            "--release",
            "-p",
            "sim",
            "--all-features",
            "--",
            "mutants",
            "--limit",
            "2000",
            "--images",
            "50000",
        ],
        figure: Figure::LastLine,
        minutes: 480.0,
    },
    Line {
        id: "images",
        what: "50,000 crash images each of chunk store and log recover to what was promised",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "images", "--count", "50000"],
        figure: Figure::LastLine,
        minutes: 120.0,
    },
    Line {
        id: "fuzz",
        what: "10 minutes for each decoder without a finding",
        cargo: &["xtask", "fuzz", "--minutes", "10", "--jobs", "2"],
        figure: Figure::After("fuzz:"),
        minutes: 180.0,
    },
    Line {
        id: "forget",
        what: "what each kind of durability promises, 30 times, on disks that forget at a power cut",
        cargo: &["run", "--release", "-p", "stories", "--", "forget", "--rounds", "30"],
        figure: Figure::After("forget:"),
        minutes: 240.0,
    },
    Line {
        id: "rot",
        what: "bytes that change on a disk are found, repaired from another copy, and served to nobody",
        cargo: &["run", "--release", "-p", "stories", "--", "rot"],
        figure: Figure::After("rot:"),
        minutes: 120.0,
    },
    Line {
        id: "scrub",
        what: "a usual look for damage costs clients at most 5 % of the 99th percentile, single blocks at depth 32, in turns with none",
        cargo: &["run", "--release", "-p", "stories", "--", "scrubcost"],
        figure: Figure::After("scrubcost:"),
        minutes: 30.0,
    },
    Line {
        id: "back",
        what: "servers and hosts that come back are members again in time",
        cargo: &["run", "--release", "-p", "stories", "--", "back"],
        figure: Figure::After("back:"),
        minutes: 120.0,
    },
    Line {
        id: "resume",
        what: "puts and gets that are killed, interrupted or cut off go on; at most 1.15 times the bytes are moved",
        cargo: &["run", "--release", "-p", "stories", "--", "resume"],
        figure: Figure::After("resume:"),
        minutes: 60.0,
    },
    Line {
        id: "bench",
        what: "throughput and latency on this machine",
        cargo: &["run", "--release", "-p", "stories", "--", "bench"],
        figure: Figure::After("bench:"),
        minutes: 120.0,
    },
    Line {
        id: "idle",
        what: "what a cluster that nobody uses costs",
        cargo: &["run", "--release", "-p", "stories", "--", "idle"],
        figure: Figure::After("idle:"),
        minutes: 60.0,
    },
];

/// Members come and go.
const MEMBERS: &[Line] = &[
    Line {
        id: "metadata",
        what: "one, three, five and three metadata servers under load, two of five killed and replaced ten times: no error, names \
               wait at most 2 s for each change",
        cargo: &["run", "--release", "-p", "stories", "--", "members", "--rounds", "10"],
        figure: Figure::After("members:"),
        minutes: 60.0,
    },
    Line {
        id: "drains",
        what: "chunk servers come, leave, stay after all and leave two at once under load: no error, seen within 10 s, at most 1.1 \
               times what has to move is moved",
        cargo: &["run", "--release", "-p", "stories", "--", "drains"],
        figure: Figure::After("drains:"),
        minutes: 30.0,
    },
];

const BYTES: &[Line] = &[
    Line {
        id: "ready",
        what: "`dev` is ready in a fresh folder within 5 s, in an existing one within 3 s",
        cargo: &["run", "--release", "-p", "stories", "--", "ready"],
        figure: Figure::After("ready:"),
        minutes: 30.0,
    },
    Line {
        id: "share",
        what: "/usr/share put, got back and compared, no difference",
        cargo: &["run", "--release", "-p", "stories", "--", "share"],
        figure: Figure::After("share:"),
        minutes: 120.0,
    },
    Line {
        id: "kills",
        what: "1 GiB written 20 times while servers are killed with kill -9: every answered byte is there",
        cargo: &["run", "--release", "-p", "stories", "--", "kills"],
        figure: Figure::After("kills:"),
        minutes: 240.0,
    },
    Line {
        id: "forget",
        what: "what each kind of durability promises, on disks that forget at a power cut",
        cargo: &["run", "--release", "-p", "stories", "--", "forget"],
        figure: Figure::After("forget:"),
        minutes: 240.0,
    },
    Line {
        id: "sim",
        what: "3000 seeds of the simulator without a violation",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--count", "3000"],
        figure: Figure::LastLine,
        minutes: 240.0,
    },
    Line {
        id: "mutants",
        what: "each rule of the protocol switched off is found by the simulator",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "mutants"],
        figure: Figure::LastLine,
        minutes: 480.0,
    },
    Line {
        id: "images",
        what: "5000 crash images of chunk store and log recover to what was promised",
        cargo: &["run", "--release", "-p", "sim", "--all-features", "--", "images", "--count", "5000"],
        figure: Figure::LastLine,
        minutes: 60.0,
    },
    Line {
        id: "bench",
        what: "throughput and latency on this machine",
        cargo: &["run", "--release", "-p", "stories", "--", "bench"],
        figure: Figure::After("bench:"),
        minutes: 120.0,
    },
];

/// Runs the table that the first argument names.
pub fn run(root: &Path, args: &[String]) -> Result<Report, String> {
    let mut args = args.iter();
    let names: Vec<&str> = TABLES.iter().map(|(n, _)| *n).collect();
    let name = args.next().ok_or_else(|| format!("evidence of what? one of: {}", names.join(", ")))?;
    let (_, table) = TABLES
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no evidence is called `{name}`; one of: {}", names.join(", ")))?;
    let (mut again, mut only) = (false, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--again" => again = true,
            "--only" => {
                let ids: Vec<&str> = table.iter().map(|l| l.id).collect();
                let id = args.next().filter(|id| ids.contains(&id.as_str()));
                only = Some(id.ok_or_else(|| format!("--only takes one of: {}", ids.join(", ")))?.as_str());
            }
            other => return Err(format!("unexpected argument `{other}`")),
        }
    }
    let commit = git(root, &["rev-parse", "HEAD"])?;
    // What is recorded while running must not make the next line unclean.
    let clean = git(root, &["status", "--porcelain", "--", ".", ":(exclude)docs/evidence"])?.is_empty();
    if !clean {
        println!("the tree differs from {commit}: results are recorded but prove nothing");
    }
    let file = ledger::path(root, name);
    let mut report = Report::default();
    report.check("setup", None, setup::evidence);
    for line in table.iter().filter(|l| only.is_none_or(|id| id == l.id)) {
        if !again && clean && ledger::proven(&file, line.id, &commit)? {
            println!("== {}: proven at {commit}", line.id);
            continue;
        }
        let mut failed = None;
        report.check(line.id, None, || match measure(root, line, &commit, clean) {
            Ok(record) => {
                failed = ledger::append(&file, &record).err();
                if record.pass { Vec::new() } else { vec![record.why] }
            }
            Err(e) => vec![e],
        });
        // Without a place to write to, hours of measuring would be for nothing.
        failed.map_or(Ok(()), Err)?;
    }
    Ok(report)
}

fn measure(root: &Path, line: &Line, commit: &str, clean: bool) -> Result<Record, String> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    println!("== {}: {}", line.id, line.what);
    let args = line.cargo.iter().map(|s| s.to_string()).collect();
    let step = Step { name: line.id.into(), program: cargo(), args, minutes: Some(line.minutes), env: Vec::new() };
    let o = execute(root, &step);
    let (figure, pass, why) = judge(&o, line.figure);
    Ok(Record {
        id: line.id.into(),
        what: line.what.into(),
        command: format!("cargo {}", line.cargo.join(" ")),
        commit: commit.into(),
        clean,
        figure,
        load,
        seconds: o.took.as_secs_f64(),
        pass,
        why,
        at,
    })
}

/// The figure, whether the line holds, and why not.
fn judge(o: &Outcome, how: Figure) -> (String, bool, String) {
    let mut said = o.lines.iter().rev().map(|l| l.trim());
    let figure = match how {
        Figure::LastLine => said.find(|l| !l.is_empty()),
        Figure::After(text) => said.find_map(|l| l.strip_prefix(text)).map(str::trim),
    };
    match (o.ok, figure) {
        (true, Some(f)) => (f.into(), true, String::new()),
        (true, None) => (String::new(), false, "said no figure".into()),
        (false, f) => (f.unwrap_or_default().into(), false, o.why.clone()),
    }
}

fn git(root: &Path, args: &[&str]) -> Result<String, String> {
    let out = Command::new("git").args(args).current_dir(root).output().map_err(|e| format!("git: {e}"))?;
    if !out.status.success() {
        return Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_needs_its_figure() {
        let o = |ok: bool, lines: &[&str]| Outcome {
            ok,
            why: if ok { String::new() } else { "ended badly".into() },
            lines: lines.iter().map(|s| s.to_string()).collect(),
            took: Duration::ZERO,
        };
        let said = ["ready: 9 s", "ready: 2.1 s fresh", "bye", ""];
        assert_eq!(judge(&o(true, &said), Figure::LastLine), ("bye".into(), true, String::new()));
        assert_eq!(judge(&o(true, &said), Figure::After("ready:")), ("2.1 s fresh".into(), true, String::new()));
        assert_eq!(judge(&o(true, &said), Figure::After("share:")), (String::new(), false, "said no figure".into()));
        assert_eq!(judge(&o(false, &said), Figure::LastLine), ("bye".into(), false, "ended badly".into()));
    }

    #[test]
    fn ids_are_unique_and_arguments_checked() {
        for (name, table) in TABLES {
            let mut ids: Vec<_> = table.iter().map(|l| l.id).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), table.len(), "{name}");
        }
        let run = |args: &[&str]| run(&crate::root(), &args.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert!(run(&[]).unwrap_err().contains("bytes"));
        assert!(run(&["bits"]).unwrap_err().contains("bytes"));
        assert!(run(&["bytes", "--only", "x"]).unwrap_err().contains("kills"));
        assert!(run(&["bytes", "--onyl"]).unwrap_err().contains("--onyl"));
    }
}
