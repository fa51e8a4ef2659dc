//! The trace of a run: a hash of everything that happened, and on demand the lines for people to read.

use wire::Encoded;

/// Takes the lines of a trace: true time in nanoseconds, text.
pub type Sink = Box<dyn FnMut(u64, &str)>;

/// Collects what happens.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    /// Where lines go; None = nowhere.
    sink: Option<Sink>,
}

impl Trace {
    /// Hash of everything so far: equal runs have equal hashes.
    pub fn value(&self) -> u64 {
        self.hash
    }
    /// Sends lines (true time in nanoseconds, text) to `sink` from now on.
    pub fn listen(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }
    /// Takes one event into the hash.
    pub fn hash(&mut self, now: u64, kind: u64, what: u64) {
        let x = self.hash ^ now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind.rotate_left(32) ^ what;
        self.hash = x.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    /// Takes a delivered frame into the hash.
    pub fn frame(&mut self, now: u64, to: u64, frame: &Encoded) {
        // The frame header holds the checksum of the body; payloads are told apart by their length.
        let head = checksum::crc32c(&frame.head[..frame.head.len().min(wire::frame::FRAME_HEADER_LEN)]);
        self.hash(now, 1 + (to << 8), u64::from(head) << 24 | frame.payload.len() as u64);
    }
    /// A line, made only if somebody listens.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink {
            sink(now, &line());
        }
    }
}
