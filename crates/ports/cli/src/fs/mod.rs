//! `fs`: files of the cluster without a mount.

mod copy;
mod get;
mod incoming;
mod leftovers;
mod part;
mod partial;
mod path;
mod progress;
mod put;
mod rename;
mod show;
mod source;
mod target;
mod usage;

use crate::cluster::At;
use crate::link::Link;
use anyhow::{Result, anyhow};
use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;
use wire::names::Attr;

/// Files of the cluster.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c dev fs put -r /usr/share /share
  pstorage -c dev fs ls -l /share
  pstorage -c dev fs get -r /share /tmp/share
  pstorage -c dev fs cp -r /share /copy
  pstorage -c dev fs du -sh /share

A put or get that was broken off (killed, network gone, Ctrl-C) goes on with the same command and --resume: files that are
there with the same size and time are not moved again, and of a large file only what is missing. Nothing has its final
name before it is whole. What was left is listed by `fs leftovers`.")]
pub struct Fs {
    #[command(subcommand)]
    command: FsCommand,
}

#[derive(Subcommand)]
enum FsCommand {
    /// Copy local files and folders into the cluster; ends with a flush.
    Put {
        /// Folders with everything below them.
        #[arg(short, long)]
        recursive: bool,
        /// What an answered write promises for new files: `flush` or `sync`; inherited unless given.
        #[arg(long, value_name = "flush|sync")]
        durability: Option<String>,
        /// The target is the new name itself, also if it is a folder that exists.
        #[arg(short = 'T', long)]
        no_target_directory: bool,
        /// Go on with the same put that was broken off; what is there and unchanged stays.
        #[arg(long)]
        resume: bool,
        /// Local file or folder.
        source: PathBuf,
        /// Path in the cluster; an existing folder receives the source under its own name.
        target: String,
        /// No progress bar.
        #[arg(short, long)]
        quiet: bool,
        /// What was done, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy files and folders of the cluster to this host.
    Get {
        /// Folders with everything below them.
        #[arg(short, long)]
        recursive: bool,
        /// The target is the new name itself, also if it is a folder that exists.
        #[arg(short = 'T', long)]
        no_target_directory: bool,
        /// Go on with the same get that was broken off; what is there and unchanged stays.
        #[arg(long)]
        resume: bool,
        /// Path in the cluster.
        source: String,
        /// Local path; an existing folder receives the source under its own name.
        target: PathBuf,
        /// No progress bar.
        #[arg(short, long)]
        quiet: bool,
        /// What was done, as JSON.
        #[arg(long)]
        json: bool,
    },
    Cp(copy::Cp),
    Mv(rename::Mv),
    Du(usage::Du),
    Leftovers(leftovers::Leftovers),
    /// List a folder.
    Ls {
        /// Mode, owner, size and time too.
        #[arg(short, long)]
        long: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Path in the cluster.
        #[arg(default_value = "/")]
        path: String,
    },
    /// Write a file's content to standard output.
    Cat {
        /// Path in the cluster.
        path: String,
    },
    /// Remove files, or folders with -r.
    Rm {
        /// Folders with everything below them.
        #[arg(short, long)]
        recursive: bool,
        /// Paths in the cluster.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Make a folder.
    Mkdir {
        /// Parents too; an existing folder is fine.
        #[arg(short, long)]
        parents: bool,
        /// Path in the cluster.
        path: String,
    },
    /// Everything about one file: attributes, layout, chunks and where their copies are.
    Info {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Path in the cluster.
        path: String,
    },
}

pub use path::Pages;
/// Attributes of what a path names.
pub fn attributes(link: &mut Link, path: &str) -> Result<Attr> {
    Ok(path::must(link, path)?.0)
}
/// A bar that grows with what is found.
pub fn progress_bar(quiet: bool, what: &'static str) -> indicatif::ProgressBar {
    progress::bar(quiet, 0, what)
}

/// A cluster that does not answer within this is reported.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn fs(at: &At, a: Fs) -> Result<()> {
    let mut link = Link::open(at, PATIENCE)?;
    if matches!(a.command, FsCommand::Put { .. } | FsCommand::Get { .. } | FsCommand::Cp(_)) {
        link.stop_on_signals()?;
    }
    let hint = match &a.command {
        FsCommand::Put { .. } | FsCommand::Get { .. } => "; the same command with --resume goes on from here",
        _ => "",
    };
    let done = command(&mut link, a.command);
    let done = match done {
        Err(_) if link.was_stopped() => Err(anyhow!("interrupted{hint}")),
        Err(e) if broken_off(&e) => Err(anyhow!("{e:#}{hint}")),
        done => done,
    };
    // The session ends in order even when the command failed; its own error is the one to tell.
    let closed = link.close();
    done.and(closed)
}
/// Is it an error that says nothing against the command itself?
fn broken_off(e: &anyhow::Error) -> bool {
    use client::ClientError::{LeaseLost, SessionLost, WritesLost};
    e.chain().any(|c| matches!(c.downcast_ref(), Some(LeaseLost | SessionLost | WritesLost)))
}
fn command(link: &mut Link, c: FsCommand) -> Result<()> {
    match c {
        FsCommand::Put { recursive, durability, no_target_directory: exact, resume, source, target, quiet, json } => {
            let durability = durability.as_deref().map(crate::make::parse_durability).transpose()?;
            put::put(link, &source, &target, &put::How { recursive, durability, exact, resume, quiet, json })
        }
        FsCommand::Get { recursive, no_target_directory: exact, resume, source, target, quiet, json } => {
            get::get(link, &source, &target, &get::How { recursive, exact, resume, quiet, json })
        }
        FsCommand::Cp(a) => copy::cp(link, &a),
        FsCommand::Mv(a) => rename::mv(link, &a),
        FsCommand::Du(a) => usage::du(link, &a),
        FsCommand::Leftovers(a) => leftovers::leftovers(link, &a),
        FsCommand::Ls { long, json, path } => show::ls(link, &path, long, json),
        FsCommand::Cat { path } => get::cat(link, &path),
        FsCommand::Rm { recursive, paths } => show::rm(link, &paths, recursive),
        FsCommand::Mkdir { parents, path } => show::mkdir(link, &path, parents),
        FsCommand::Info { json, path } => show::info(link, &path, json),
    }
}
