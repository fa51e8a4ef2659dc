//! Why a log cannot be formatted, opened or written: each error names the file, the cause and the next step.

use host::disk::DiskError;
use std::fmt;
use types::{ClusterId, MdsId};

/// Where a log is damaged beyond what a power cut can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// File within the folder.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Entries from this index on cannot be trusted; 0 when not even the state before the log is known.
    pub from_index: u64,
    /// What was found, in words.
    pub what: String,
}
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is damaged at byte {}: {}; entries from index {} on cannot be trusted. Nothing was changed, and this \
             MDS does not start, because it may have forgotten a vote or what it acknowledged. The other members go on \
             without it as long as they are a majority: leave it stopped and keep the folder. If it is the only member, \
             or the others are no majority, restore the folder from a copy made while this MDS was stopped after its \
             last stop; a new cluster is made with `pstorage make-mds -I` in an empty folder",
            self.file, self.offset, self.what, self.from_index
        )
    }
}

/// Why a log cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogError {
    /// The folder holds no complete log.
    NotFormatted(String),
    /// The folder to format already holds something.
    NotEmpty {
        /// One of the files there.
        found: String,
    },
    /// A parameter out of range.
    Config(String),
    /// The log of another cluster.
    WrongCluster {
        /// Named by the folder.
        found: ClusterId,
        /// Named by the caller.
        expected: ClusterId,
    },
    /// The log of another MDS.
    WrongOwner {
        /// Named by the folder.
        found: MdsId,
        /// Named by the caller.
        expected: MdsId,
    },
    /// Written by a program that knows more than this one.
    Unsupported {
        /// File within the folder.
        file: String,
        /// Which version or bits.
        what: String,
    },
    /// Damage that no power cut explains.
    Damaged(Damage),
    /// The disk refused.
    Disk(DiskError),
}
impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::NotFormatted(d) => {
                write!(f, "no complete log in this folder ({d}); create the MDS with `make-mds`")
            }
            LogError::NotEmpty { found } => {
                write!(f, "the folder already holds `{found}`; choose an empty folder")
            }
            LogError::Config(d) => write!(f, "log parameters: {d}; correct the setting"),
            LogError::WrongCluster { found, expected } => write!(
                f,
                "this folder belongs to cluster {:032x}, not {:032x}; check the path of the MDS",
                found.0, expected.0
            ),
            LogError::WrongOwner { found, expected } => {
                write!(f, "this folder belongs to MDS {found}, not {expected}; check the path of the MDS")
            }
            LogError::Unsupported { file, what } => {
                write!(f, "`{file}` has {what}, which this program does not know; start a newer program")
            }
            LogError::Damaged(d) => d.fmt(f),
            LogError::Disk(d) => write!(f, "disk of the log: {d}; repair or replace the disk, then restart this MDS"),
        }
    }
}
impl std::error::Error for LogError {}
impl From<DiskError> for LogError {
    fn from(e: DiskError) -> LogError {
        LogError::Disk(e)
    }
}
