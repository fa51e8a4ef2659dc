//! The program: parses the command line, runs one command, turns what came of it into an exit code.
#![forbid(unsafe_code)]
// Help texts print optional parts in brackets, which are no links.
#![allow(rustdoc::broken_intra_doc_links)]

mod bench;
mod cluster;
mod daemon;
mod dev;
mod fs;
mod inspect;
mod link;
mod locks;
mod make;
mod mount;
mod probe;
mod release;
mod repo;
mod scrub;
mod status;
mod units;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Highly available storage for virtual machines and containers, out of ordinary Linux hosts.
#[derive(Parser)]
#[command(name = "pstorage", version, after_help = EXAMPLES)]
struct Args {
    /// Name of the cluster.
    #[arg(short = 'c', long = "cluster", env = "PSTORAGE_NAME", global = true)]
    cluster: Option<String>,
    /// Metadata servers to ask instead of looking the name up: ADDR[:PORT], several separated by commas.
    #[arg(short = 'b', long = "bootstrap", global = true, value_name = "ADDR[:PORT]")]
    bootstrap: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  pstorage dev                                   a cluster of real processes on this host, to try things
  pstorage -c dev fs put -r /usr/share /share    copy a folder into it
  pstorage -c dev mount /mnt                     use it as a file system of this host
  pstorage -c dev status                         is my data safe, is it available, what next
  pstorage -c dev scrub --now --wait             look at every block, mend what is damaged
  pstorage -c dev scrub /share                   the same for one folder
  pstorage -c mycl make-mds -I -a 10.0.0.1 -r /var/lib/pstorage/mds
  pstorage -c mycl make-cs -r /var/lib/pstorage/cs

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the cluster answers but is not healthy (status, scrub).";

#[derive(Subcommand)]
enum Command {
    /// Create the repository of a metadata server; with -I also the cluster.
    MakeMds(make::MakeMds),
    /// Create the repository of a chunk server.
    MakeCs(make::MakeCs),
    /// Take a metadata server out of the cluster.
    RmMds(make::RmMds),
    RmCs(release::RmCs),
    /// Run a metadata server.
    Mdsd(daemon::Daemon),
    /// Run a chunk server.
    Csd(daemon::Daemon),
    /// Run a whole cluster of real processes on this host.
    Dev(dev::Dev),
    /// Files of the cluster: put, get, cp, mv, du, ls, cat, rm, mkdir, info, leftovers.
    Fs(fs::Fs),
    /// Is my data safe, is it available, what next.
    Status(status::Status),
    /// Locks that programs hold on files, and who waits.
    Locks(locks::Locks),
    /// Look at everything that is stored, now, and say what was found.
    Scrub(scrub::Scrub),
    /// Use the cluster as a file system of this host.
    Mount(mount::MountArgs),
    /// Measure this cluster through the library, beside the raw disk.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    host::allocator::keep_freed_memory();
    let args = Args::parse_from(by_name());
    if matches!(args.command, Command::Mdsd(_) | Command::Csd(_) | Command::Mount(_))
        && let Err(e) = host::allocator::give_back_freed_memory()
    {
        eprintln!("pstorage: memory that a burst has used is kept: {e}");
    }
    let at = cluster::At { name: args.cluster, bootstrap: args.bootstrap };
    let result = match args.command {
        Command::MakeMds(a) => make::make_mds(&at, a),
        Command::MakeCs(a) => make::make_cs(&at, a),
        Command::RmMds(a) => make::rm_mds(&at, &a),
        Command::RmCs(a) => release::rm_cs(&at, &a),
        Command::Mdsd(a) => daemon::mdsd(&a),
        Command::Csd(a) => daemon::csd(&a),
        Command::Dev(a) => dev::dev(a),
        Command::Fs(a) => fs::fs(&at, a),
        Command::Status(a) => return exit(status::status(&at, &a)),
        Command::Locks(a) => locks::locks(&at, &a),
        Command::Scrub(a) => return exit(scrub::scrub(&at, &a)),
        Command::Mount(a) => mount::mount(at, &a),
        Command::Bench(a) => bench::bench(&at, &a),
    };
    exit(result.map(|()| ExitCode::SUCCESS))
}

fn exit(r: anyhow::Result<ExitCode>) -> ExitCode {
    r.unwrap_or_else(|e| {
        eprintln!("pstorage: {e:#}");
        ExitCode::FAILURE
    })
}

fn command_of(name: &str) -> Option<&'static str> {
    match name {
        "mdsd" => Some("mdsd"),
        "csd" => Some("csd"),
        "pstorage-mount" | "mount.pstorage" | "mount.fuse.pstorage" => Some("mount"),
        _ => None,
    }
}
/// A link named after a command runs that command: `mdsd -r DIR` is `pstorage mdsd -r DIR`, `pstorage-mount DIR` is
/// `pstorage mount DIR`; mount(8) calls `mount.fuse.pstorage` for entries of that type in fstab.
fn by_name() -> Vec<std::ffi::OsString> {
    let mut args: Vec<_> = std::env::args_os().collect();
    let name = args.first().map(PathBuf::from).and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    if let Some(name) = name
        && let Some(command) = command_of(&name)
    {
        args.insert(1, command.into());
    }
    args
}
