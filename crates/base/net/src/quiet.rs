//! Log lines about peers, as many as a person can read: a stranger who knocks all day must not fill the disk.

use types::Nanos;

const WINDOW: Nanos = Nanos::from_secs(10);
const LINES: u32 = 50;

/// Lines for the log, at most [`LINES`] per [`WINDOW`].
pub(crate) struct Quiet {
    log: Box<dyn FnMut(&str) + Send>,
    start: Nanos,
    written: u32,
    swallowed: u32,
}
impl Quiet {
    pub(crate) fn new(log: Box<dyn FnMut(&str) + Send>) -> Quiet {
        Quiet { log, start: Nanos::ZERO, written: 0, swallowed: 0 }
    }
    /// A line about a peer.
    pub(crate) fn line(&mut self, now: Nanos, text: &str) {
        if now.since(self.start) >= WINDOW {
            if self.swallowed > 0 {
                (self.log)(&format!("{} further lines about connections were left out", self.swallowed));
            }
            (self.start, self.written, self.swallowed) = (now, 0, 0);
        }
        if self.written < LINES {
            self.written += 1;
            (self.log)(text);
        } else {
            self.swallowed += 1;
        }
    }
    /// A line of the node itself: always written.
    pub(crate) fn always(&mut self, text: &str) {
        (self.log)(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_flood_becomes_one_line() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let mut q = Quiet::new(Box::new(move |l| sink.lock().unwrap().push(l.to_string())));
        for i in 0..1000u64 {
            q.line(Nanos::from_secs(100) + Nanos(i), "x");
        }
        q.always("node");
        q.line(Nanos::from_secs(111), "y");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len() as u32, LINES + 3);
        assert_eq!(seen[LINES as usize], "node");
        assert_eq!(seen[LINES as usize + 1], "950 further lines about connections were left out");
        assert_eq!(seen[LINES as usize + 2], "y");
    }
}
