//! `mount`: the cluster as a file system of this host.

mod guard;

use crate::cluster::At;
use crate::link::{self, Link};
use anyhow::{Context, Result, anyhow, bail};
use client::ClientError;
use fuse::options::{Cache, Options};
use mount::serve::{Plan, serve};
use mount::{Cache as Caching, Settings};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use types::{Incarnation, InodeId, Nanos};
use wire::names::{MetaOp, SetAttr};

/// How long to look for the cluster.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a process in the background tells the one that started it.
const READY: &str = "mounted";

/// Use the cluster as a file system of this host.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c mycl mount /mnt/mycl
  pstorage-mount -c mycl -o ro,allow_other /mnt/mycl
  umount /mnt/mycl                               writes out what is in memory, then ends
fstab, with a link `mount.fuse.pstorage` to this program in /sbin:
  pstorage://mycl /mnt/mycl fuse.pstorage rw,nosuid,nodev,_netdev 0 0

Options of its own beside the usual ones: cache=auto|strict|none (auto: the kernel keeps pages under a lease, names and
attributes for a second, or until another host changes them; strict: names and attributes never; none: nothing, and writes
go straight to the servers),
soft=SECONDS (operations that have no answer by then fail with an I/O error instead of waiting for the cluster).")]
pub struct MountArgs {
    /// `pstorage://NAME` (or -c), and the mount point.
    #[arg(value_name = "[pstorage://NAME] DIR", num_args = 1..=2, required = true)]
    what: Vec<PathBuf>,
    /// Mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// File for messages.
    #[arg(short = 'l', long = "log", value_name = "FILE")]
    log: Option<PathBuf>,
    /// Permission bits of the root folder, octal.
    #[arg(short = 'm', long = "mode", value_name = "MODE")]
    mode: Option<String>,
    /// Owner of the root folder, a name or a number.
    #[arg(short = 'u', long = "user", value_name = "USER")]
    user: Option<String>,
    /// Group of the root folder, a name or a number.
    #[arg(short = 'g', long = "group", value_name = "GROUP")]
    group: Option<String>,
    /// Stay in the foreground.
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Unmount when the process that started this one ends.
    #[arg(long)]
    pub with_parent: bool,
    /// Nothing; mount(8) passes it on.
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    /// Nothing; mount(8) passes it on.
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// Nothing; mount(8) passes it on.
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    /// Nothing; mount(8) passes it on.
    #[arg(short = 't', hide = true)]
    kind: Option<String>,
}

/// What the command line says, checked.
struct Wanted {
    at: At,
    point: PathBuf,
    options: Options,
    settings: Settings,
    root: Option<SetAttr>,
}

pub fn mount(at: At, a: &MountArgs) -> Result<()> {
    let wanted = wanted(at, a)?;
    if a.foreground {
        return run(a, wanted, |_| println!("{READY}"));
    }
    match std::env::var(BACKGROUND).as_deref() {
        Ok(SERVER) => run(a, wanted, |me| detach(&format!("{READY} {}", me.0))),
        Ok(_) => guard::guard(&wanted.at, &mut log(a.log.as_deref())?),
        Err(_) => background(GUARD).map(drop),
    }
}

fn wanted(mut at: At, a: &MountArgs) -> Result<Wanted> {
    let (spec, point) = match a.what.as_slice() {
        [point] => (None, point),
        [spec, point] => (Some(spec), point),
        _ => bail!("name the mount point"),
    };
    if let Some(spec) = spec {
        let text = spec.to_string_lossy();
        let name = text.strip_prefix("pstorage://").unwrap_or(&text).trim_end_matches('/');
        if at.name.as_deref().is_some_and(|n| n != name) {
            bail!("`{text}` names another cluster than -c {}", at.name.unwrap_or_default());
        }
        at.name = Some(name.to_owned());
    }
    let mut options = Options { fsname: format!("pstorage://{}", at.name()?), ..Options::default() };
    if rustix::process::geteuid().is_root() {
        // Everybody on the host, as with every other file system that root mounts.
        options.allow_other = true;
    }
    let mut soft = None;
    for text in &a.options {
        for o in text.split(',') {
            match o.strip_prefix("soft=") {
                Some(s) => {
                    let s: u64 = s.parse().with_context(|| format!("-o {o}: not a number of seconds"))?;
                    soft = Some(Nanos::from_secs(s.max(1)));
                }
                None => options.parse(o)?,
            }
        }
    }
    let cache = match options.cache {
        Cache::Auto => Caching::Auto,
        Cache::Strict => Caching::Strict,
        Cache::None => Caching::None,
    };
    let root = SetAttr {
        mode: a.mode.as_deref().map(mode).transpose()?,
        uid: a.user.as_deref().map(|u| id("/etc/passwd", "user", u)).transpose()?,
        gid: a.group.as_deref().map(|g| id("/etc/group", "group", g)).transpose()?,
        ..SetAttr::default()
    };
    let root = (root != SetAttr::default()).then_some(root);
    let settings = Settings { cache, read_only: options.read_only(), soft };
    Ok(Wanted { at, point: point.clone(), options, settings, root })
}
fn mode(text: &str) -> Result<u16> {
    let mode = u16::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
    mode.with_context(|| format!("-m {text}: not permission bits in octal, such as 755"))
}
/// A user's or group's number, by the host's own list.
fn id(list: &str, what: &str, name: &str) -> Result<u32> {
    if let Ok(n) = name.parse() {
        return Ok(n);
    }
    let text = std::fs::read_to_string(list).with_context(|| format!("read `{list}`"))?;
    let mut lines = text.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let line = lines.find(|f| f.first() == Some(&name));
    let number = line.and_then(|f| f.get(2)?.parse().ok());
    number.with_context(|| format!("no {what} `{name}` on this host; give a number"))
}

/// Set for a process that is to go on in the background: which of the two it is.
const BACKGROUND: &str = "PSTORAGE_MOUNT_BACKGROUND";
/// Waits for the end of the other one.
const GUARD: &str = "guard";
/// Serves the mount.
const SERVER: &str = "server";

/// Starts the same command again, as that part, and waits until it says that the mount stands; what it said besides. Ends
/// this process as that one did when it does not come to that.
fn background(part: &str) -> Result<(Child, String)> {
    let exe = std::env::current_exe().context("this program's own path")?;
    let mut c = Command::new(exe);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        std::os::unix::process::CommandExt::arg0(&mut c, name);
    }
    c.args(args).env(BACKGROUND, part).stdin(Stdio::null()).stdout(Stdio::piped());
    std::os::unix::process::CommandExt::process_group(&mut c, 0);
    let mut child = c.spawn().context("start the mount in the background")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).context("wait for the mount")?;
    }
    if let Some(more) = line.trim_end().strip_prefix(READY) {
        return Ok((child, more.trim_start().to_owned()));
    }
    let status = child.wait()?;
    // It has said why.
    std::process::exit(status.code().unwrap_or(1));
}
/// The mount stands: whoever waits is told, and the terminal is let go.
fn detach(told: &str) {
    println!("{told}");
    let _ = std::io::stdout().flush();
    let _ = rustix::process::setsid();
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn run(a: &MountArgs, w: Wanted, ready: impl FnOnce(Incarnation)) -> Result<()> {
    crate::daemon::follow_parent(a.with_parent)?;
    let mut log = log(a.log.as_deref())?;
    let caches = w.settings.cache != Caching::None;
    let mut link = Link::open_mount(&w.at, PATIENCE, !caches)?;
    if let Some(set) = w.root {
        let set = MetaOp::Setattr { ino: InodeId(1), set };
        link.meta(set)?.map_err(|e| anyhow!("the root folder: {}", ClientError::Meta(e)))?;
    }
    let stop = net::SignalFlag::install().context("signal handlers")?;
    let stop = || stop.is_set();
    let plan = Plan { point: &w.point, options: &w.options, settings: w.settings, stop: &stop, log: &mut log };
    let me = link.me;
    serve(link.into_loop(), plan, || ready(me))?;
    Ok(())
}

/// Takes lines for the log: a file, or the terminal.
fn log(path: Option<&Path>) -> Result<Box<dyn FnMut(&str)>> {
    let Some(path) = path else { return Ok(Box::new(|line| eprintln!("pstorage: {line}"))) };
    let file = File::options().create(true).append(true).open(path);
    let mut file = file.with_context(|| format!("log `{}`", path.display()))?;
    Ok(Box::new(move |line| {
        let now = link::wall_base().saturating_add_unsigned(host::clock::now().0);
        // A log that cannot be written must not stop the mount.
        let _ = writeln!(file, "{} {line}", crate::units::time(now));
    }))
}
