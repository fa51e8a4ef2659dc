//! `fs`: files of the cluster without a mount.

mod get;
mod path;
mod progress;
mod put;
mod show;

use crate::cluster::At;
use crate::link::Link;
use anyhow::Result;
use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;

/// Files of the cluster.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c dev fs put -r /usr/share /share
  pstorage -c dev fs ls -l /share
  pstorage -c dev fs get -r /share /tmp/share")]
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
        /// Local file or folder.
        source: PathBuf,
        /// Path in the cluster; an existing folder receives the source under its own name.
        target: String,
        /// No progress bar.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Copy files and folders of the cluster to this host.
    Get {
        /// Folders with everything below them.
        #[arg(short, long)]
        recursive: bool,
        /// Path in the cluster.
        source: String,
        /// Local path; an existing folder receives the source under its own name.
        target: PathBuf,
        /// No progress bar.
        #[arg(short, long)]
        quiet: bool,
    },
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

/// A cluster that does not answer within this is reported.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn fs(at: &At, a: Fs) -> Result<()> {
    let mut link = Link::open(at, PATIENCE)?;
    let done = match a.command {
        FsCommand::Put { recursive, durability, source, target, quiet } => {
            let durability = durability.as_deref().map(crate::make::parse_durability).transpose()?;
            put::put(&mut link, &source, &target, recursive, durability, quiet)
        }
        FsCommand::Get { recursive, source, target, quiet } => get::get(&mut link, &source, &target, recursive, quiet),
        FsCommand::Ls { long, json, path } => show::ls(&mut link, &path, long, json),
        FsCommand::Cat { path } => get::cat(&mut link, &path),
        FsCommand::Rm { recursive, paths } => show::rm(&mut link, &paths, recursive),
        FsCommand::Mkdir { parents, path } => show::mkdir(&mut link, &path, parents),
        FsCommand::Info { json, path } => show::info(&mut link, &path, json),
    };
    // The session ends in order even when the command failed; its own error is the one to tell.
    let closed = link.close();
    done.and(closed)
}
