//! What came of many looks: how many were wrong, and what led to the first wrong one.

use anyhow::{Result, bail};
use std::collections::{BTreeMap, VecDeque};

/// Steps that are told of what led to a wrong look.
const STEPS: usize = 6;
/// Bytes that are quoted of content.
const QUOTED: usize = 60;

/// The counts.
#[derive(Debug, Default)]
pub struct Verdict {
    looks: u64,
    wrong: BTreeMap<String, u64>,
    first: Option<String>,
    steps: VecDeque<String>,
}

impl Verdict {
    /// Something was done.
    pub fn step(&mut self, what: String) {
        self.steps.push_back(what);
        if self.steps.len() > STEPS {
            self.steps.pop_front();
        }
    }
    /// Somebody looked in a way that is called `kind`, and found that or something else; where that differs from what has
    /// to be there, it is wrong.
    pub fn look(&mut self, kind: &str, who: &str, found: &[u8], right: &[u8]) {
        self.looks += 1;
        self.step(format!("{who}: {kind}"));
        if found == right {
            return;
        }
        *self.wrong.entry(kind.into()).or_default() += 1;
        if self.first.is_none() {
            let steps: Vec<&str> = self.steps.iter().map(String::as_str).collect();
            self.first = Some(format!("{} -> {}", steps.join(" | "), difference(found, right)));
        }
    }
    /// How many looks there were; an error if one was wrong.
    pub fn end(self) -> Result<u64> {
        let Some(first) = self.first else { return Ok(self.looks) };
        let wrong: Vec<String> = self.wrong.iter().map(|(kind, n)| format!("{n} by `{kind}`")).collect();
        bail!(
            "{} of {} looks were wrong: {}; the first: {first}",
            self.wrong.values().sum::<u64>(),
            self.looks,
            wrong.join(", ")
        )
    }
}

/// Where two contents differ, for people.
fn difference(found: &[u8], right: &[u8]) -> String {
    let at = found.iter().zip(right).position(|(a, b)| a != b).unwrap_or(found.len().min(right.len()));
    let quote = |bytes: &[u8]| {
        let part = bytes.get(at..).unwrap_or_default();
        String::from_utf8_lossy(&part[..part.len().min(QUOTED)]).escape_debug().to_string()
    };
    format!(
        "{} bytes instead of {}, from byte {at} on `{}` instead of `{}`",
        found.len(),
        right.len(),
        quote(found),
        quote(right)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_look_is_told_with_what_led_to_it() {
        let mut v = Verdict::default();
        v.step("host1: echo b >>f".into());
        v.look("cat", "host2", b"a\nb\n", b"a\nb\n");
        v.look("stat", "host2", b"2", b"4");
        v.look("stat", "host2", b"2", b"4");
        let e = v.end().unwrap_err().to_string();
        assert!(e.contains("2 of 3 looks were wrong: 2 by `stat`"), "{e}");
        assert!(
            e.contains("host1: echo b >>f | host2: cat | host2: stat -> 1 bytes instead of 1, from byte 0 on `2`"),
            "{e}"
        );
        let mut v = Verdict::default();
        v.look("cat", "host2", b"a", b"a");
        assert_eq!(v.end().unwrap(), 1);
    }
}
