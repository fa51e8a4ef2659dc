//! The folder in which a story plays: new at the beginning, gone after success, left for a look after failure.

use crate::arguments::Arguments;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    keep: bool,
    cleared: bool,
}

impl Stage {
    /// Makes the folder; it must not exist.
    pub fn set(a: &Arguments) -> Result<Stage> {
        std::fs::create_dir(&a.dir).with_context(|| format!("make the story's folder `{}`", a.dir.display()))?;
        Ok(Stage { dir: a.dir.clone(), keep: a.keep, cleared: false })
    }
    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Removes it after success.
    pub fn clear(mut self) -> Result<()> {
        self.cleared = true;
        if self.keep {
            eprintln!("kept {}", self.dir.display());
            return Ok(());
        }
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("remove `{}`", self.dir.display()))
    }
}
impl Drop for Stage {
    fn drop(&mut self) {
        if !self.cleared {
            eprintln!("logs and data are left in {}", self.dir.display());
        }
    }
}
