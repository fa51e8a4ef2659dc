//! Tools and stories from the command line; the exit code says whether all went well.
#![forbid(unsafe_code)]

use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use stories::arguments::Arguments;
use stories::forget::writer;
use stories::forgetfs::{Forgetting, Loss, Options};
use stories::{
    apart, back, bench, databases, direct, drains, forget, host, hosts, idle, kills, members, memory, mounted, posix,
    ready, registers, resume, rot, scrubcost, share, shared, small,
};

const USAGE: &str = "\
usage: stories forgetfs MOUNTPOINT BACKING [--seed N] [--lose mixed|all] [--memory MIB] [--threads N]
         serves the folder BACKING at MOUNTPOINT until SIGTERM or SIGINT
         SIGUSR1: forgets what was not synced, then answers everything with EIO
         SIGUSR2: serves what survived
       stories host-run --boot-id ID|new [--shm FOLDER] -- COMMAND...
         runs COMMAND on a host with that boot id and that shared memory (a fresh one if no folder is named)
       stories direct --dir FOLDER [--ops N] [--seed N]
         changes a file in FOLDER at random with O_DIRECT and compares it with a model
       stories ready|share|kills|forget|bench|mounted|posix|small|memory|databases|rot|back|resume|idle|scrubcost|shared|
               members|registers|drains [--dir FOLDER] [--seed N] [--rounds N] [--size MIB] [--seconds N] [--only PART]
               [--options MOUNT-OPTIONS] [--keep]
         plays a story with the program built beside this one; says its figures, fails beyond its limits";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match args.first().and_then(|a| a.to_str()) {
        Some("forgetfs") => forgetfs(&args[1..]),
        Some("direct") => direct(&args[1..]),
        Some("host-run") => host_run(&args[1..]),
        Some("host-keeper") => return inside(hosts::inside::keeper(&args[1..])),
        Some("host-first") => return inside(hosts::inside::first(&args[1..])),
        Some("host-usher") => return inside(hosts::inside::usher(&args[1..])),
        Some("host-slow") => return inside(hosts::slow::serve(&args[1..])),
        Some("apart-holder") => return inside(apart::holder(&args[1..])),
        Some("apart-taker") => return inside(apart::taker(&args[1..])),
        Some("members-names") => return inside(members::names(&args[1..])),
        Some("registers-player") => return inside(registers::player::player(&args[1..])),
        Some("shared-cells") => return inside(shared::cells::player(&args[1..])),
        Some("shared-folder") => return inside(shared::folder::crowd(&args[1..])),
        Some("shared-handover") => return inside(shared::handover::player(&args[1..])),
        Some("shared-locks") => return inside(shared::locks::player(&args[1..])),
        Some("shared-records") => return inside(shared::records::writer(&args[1..])),
        Some(name @ "drains") => story(name, &args[1..], drains::run),
        Some(name @ "ready") => story(name, &args[1..], ready::run),
        Some(name @ "share") => story(name, &args[1..], share::run),
        Some(name @ "forget") => story(name, &args[1..], forget::run),
        Some("forget-writer") => forget_writer(&args[1..]),
        Some(name @ "bench") => story(name, &args[1..], bench::run),
        Some(name @ "databases") => story(name, &args[1..], databases::run),
        Some(name @ "mounted") => story(name, &args[1..], mounted::run),
        Some(name @ "posix") => story(name, &args[1..], posix::run),
        Some(name @ "small") => story(name, &args[1..], small::run),
        Some(name @ "memory") => story(name, &args[1..], memory::run),
        Some(name @ "rot") => story(name, &args[1..], rot::run),
        Some(name @ "back") => story(name, &args[1..], back::run),
        Some(name @ "resume") => story(name, &args[1..], resume::run),
        Some(name @ "idle") => story(name, &args[1..], idle::run),
        Some(name @ "scrubcost") => story(name, &args[1..], scrubcost::run),
        Some(name @ "apart") => story(name, &args[1..], apart::run),
        Some(name @ "members") => story(name, &args[1..], members::run),
        Some(name @ "shared") => story(name, &args[1..], shared::run),
        Some(name @ "registers") => story(name, &args[1..], registers::run),
        Some(name @ "kills") => story(name, &args[1..], kills::run),
        Some(other) => Err(format!("no story or tool is called `{other}`\n{USAGE}")),
        None => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// What stories start on their hosts, and people do not.
fn inside(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        ExitCode::FAILURE
    })
}

fn story(name: &str, args: &[OsString], run: fn(&Arguments) -> anyhow::Result<String>) -> Result<(), String> {
    let arguments = Arguments::parse(name, args).map_err(|e| format!("{e:#}\n{USAGE}"))?;
    let line = run(&arguments).map_err(|e| format!("{name}: {e:#}"))?;
    println!("{name}: {line}");
    Ok(())
}

/// The writing client of the story `forget`; started by it alone.
fn forget_writer(args: &[OsString]) -> Result<(), String> {
    let [repo, dir, round] = args else { return Err("forget-writer takes REPOSITORY FOLDER ROUND".into()) };
    let round = round.to_str().and_then(|r| r.parse().ok()).ok_or_else(|| format!("{}: no round", round.display()))?;
    let meeting = writer::Meeting { repo: repo.into(), dir: dir.into(), round };
    writer::run(&meeting).map_err(|e| format!("writer: {e:#}"))
}

fn value<'a>(args: &mut impl Iterator<Item = &'a OsString>, option: &str) -> Result<&'a OsString, String> {
    args.next().ok_or_else(|| format!("{option} needs a value\n{USAGE}"))
}
fn number<'a>(args: &mut impl Iterator<Item = &'a OsString>, option: &str) -> Result<u64, String> {
    let v = value(args, option)?;
    v.to_str().and_then(|s| s.parse().ok()).ok_or_else(|| format!("{option} {}: not a number", v.display()))
}

fn direct(args: &[OsString]) -> Result<(), String> {
    let (mut dir, mut ops, mut seed) = (None, 10_000, 1);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--dir") => dir = Some(value(&mut args, "--dir")?),
            Some("--ops") => ops = number(&mut args, "--ops")?,
            Some("--seed") => seed = number(&mut args, "--seed")?,
            _ => return Err(format!("unexpected {}\n{USAGE}", arg.display())),
        }
    }
    let dir = dir.ok_or_else(|| format!("--dir is missing\n{USAGE}"))?;
    println!("direct: {}", direct::run(Path::new(dir), ops, seed).map_err(|e| format!("direct: {e:#}"))?);
    Ok(())
}

fn forgetfs(args: &[OsString]) -> Result<(), String> {
    let mut options = Options::default();
    let mut folders = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--seed") => options.seed = number(&mut args, "--seed")?,
            Some("--memory") => options.memory = (number(&mut args, "--memory")? as usize).saturating_mul(1 << 20),
            Some("--threads") => options.threads = number(&mut args, "--threads")?.clamp(1, 64) as usize,
            Some("--lose") => {
                options.loss = match value(&mut args, "--lose")?.to_str() {
                    Some("mixed") => Loss::Mixed,
                    Some("all") => Loss::All,
                    _ => return Err(format!("--lose takes `mixed` or `all`\n{USAGE}")),
                }
            }
            Some(option) if option.starts_with("--") => return Err(format!("unknown option {option}\n{USAGE}")),
            _ => folders.push(Path::new(arg)),
        }
    }
    let [mountpoint, backing] = folders[..] else { return Err(USAGE.into()) };

    // Blocked before any thread starts, so that each of them inherits it and only the loop below takes them.
    let mut signals = SigSet::empty();
    for s in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(s);
    }
    signals.thread_block().map_err(|e| format!("blocking signals: {e}"))?;
    let disk = Forgetting::mount(backing, mountpoint, &options).map_err(|e| e.to_string())?;
    println!("ready: {} forgets at SIGUSR1, seed {}", disk.path().display(), options.seed);
    let disk = std::sync::Arc::new(disk);
    let watched = std::sync::Arc::downgrade(&disk);
    std::thread::spawn(move || {
        // An unmount from outside ends this process too; sigwait has no other way to learn of it.
        while watched.upgrade().is_some_and(|d| !d.is_gone()) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGTERM);
    });
    loop {
        match signals.wait().map_err(|e| format!("waiting for signals: {e}"))? {
            Signal::SIGUSR1 => {
                let r = disk.power_cut().map_err(|e| e.to_string())?;
                println!(
                    "forgot: {} blocks lost, {} kept, {} torn, {} lengths; {} changes of names lost, {} kept",
                    r.data.lost, r.data.kept, r.data.torn, r.data.lengths, r.names_lost, r.names_kept
                );
            }
            Signal::SIGUSR2 => {
                disk.power_on();
                println!("serving");
            }
            Signal::SIGTERM | Signal::SIGINT => break,
            _ => {}
        }
    }
    let mut disk = disk;
    loop {
        // The watcher holds it for an instant at a time.
        match std::sync::Arc::try_unwrap(disk) {
            Ok(d) => return d.unmount().map_err(|e| e.to_string()),
            Err(d) => disk = d,
        }
        std::thread::yield_now();
    }
}

fn host_run(args: &[OsString]) -> Result<(), String> {
    let (mut boot_id, mut shm) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--boot-id") => {
                let id = value(&mut args, "--boot-id")?.to_str().ok_or("--boot-id: not UTF-8")?;
                boot_id = Some(if id == "new" { host::new_boot_id() } else { id.to_string() });
            }
            Some("--shm") => shm = Some(Path::new(value(&mut args, "--shm")?)),
            Some("--") => {
                let command: Vec<OsString> = args.cloned().collect();
                let boot_id = boot_id.ok_or_else(|| format!("--boot-id is missing\n{USAGE}"))?;
                return Err(host::become_on_host(&boot_id, shm, &command).to_string());
            }
            _ => return Err(format!("unexpected {}\n{USAGE}", arg.display())),
        }
    }
    Err(format!("no command given\n{USAGE}"))
}
