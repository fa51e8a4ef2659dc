//! One file that hosts change in turns by ordinary programs, and what it has to hold.

use super::verdict::Verdict;
use super::{Ground, PATIENCE};
use anyhow::Result;

/// The file and its model.
pub struct Shared<'a> {
    ground: &'a mut Ground,
    path: String,
    /// What it holds; None = it does not exist.
    pub right: Option<Vec<u8>>,
    pub verdict: Verdict,
}

impl<'a> Shared<'a> {
    /// A file of that name, which does not exist yet.
    pub fn new(ground: &'a mut Ground, name: &str) -> Shared<'a> {
        let path = ground.point.join(name).display().to_string();
        Shared { ground, path, right: None, verdict: Verdict::default() }
    }
    /// Runs a script on a host (from 1), in which `$F` is the file; it must succeed. What it said.
    pub fn change(&mut self, host: usize, script: &str) -> Result<Vec<u8>> {
        self.verdict.step(format!("host{host}: {script}"));
        let script = self.with_path(script);
        Ok(self.ground.shells[host - 1].must(&script, PATIENCE)?.out)
    }
    /// Looks at the content by `script` on a host: it must be what it has to be.
    pub fn look(&mut self, host: usize, script: &str) -> Result<()> {
        let whole = self.with_path(script);
        let told = self.ground.shells[host - 1].run(&whole, PATIENCE)?;
        let found = if told.status == 0 { told.out } else { format!("(failed: {})", told.text()).into_bytes() };
        let missing = || format!("(failed: cat: {}: No such file or directory)", self.path).into_bytes();
        let right = self.right.clone().unwrap_or_else(missing);
        self.verdict.look(script, &format!("host{host}"), &found, &right);
        Ok(())
    }
    /// Looks at something that follows from the content.
    pub fn look_for(&mut self, host: usize, script: &str, right: &str) -> Result<()> {
        let whole = self.with_path(script);
        let told = self.ground.shells[host - 1].run(&whole, PATIENCE)?;
        self.verdict.look(script, &format!("host{host}"), told.text().as_bytes(), right.as_bytes());
        Ok(())
    }
    fn with_path(&self, script: &str) -> String {
        format!("F={}; {script}", self.path)
    }
    /// Bytes of the content.
    pub fn len(&self) -> usize {
        self.right.as_ref().map_or(0, Vec::len)
    }
    /// Replaces a range of the content, which grows as far as it has to.
    pub fn model(&mut self, offset: usize, bytes: &[u8]) {
        let right = self.right.get_or_insert_default();
        right.resize(right.len().max(offset + bytes.len()), 0);
        right[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}
