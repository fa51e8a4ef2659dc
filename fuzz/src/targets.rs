//! What is fuzzed: a name, inputs to begin with, how checksums are mended, and what must hold of every input.

mod commands;
mod files;
mod messages;
mod requests;

/// Something that reads bytes from outside.
pub struct Target {
    /// Its name, as on the command line and in the corpus.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Puts right what a change has spoiled and what would end the reading at once: checksums, lengths.
    pub mend: Option<fn(&mut Vec<u8>)>,
    /// Reads an input. Err, or a panic: a mistake in the code that reads.
    pub run: fn(&[u8]) -> Result<(), String>,
}

/// All of them.
pub fn all() -> Vec<Target> {
    let mut all = messages::all();
    all.extend(files::all());
    all.extend(commands::all());
    all.extend(requests::all());
    all
}

/// The little-endian number at `at`, 0 where there is none.
fn number(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |x| u32::from_le_bytes([x[0], x[1], x[2], x[3]]))
}
/// Writes it, where there is room.
fn put(b: &mut [u8], at: usize, n: u32) {
    if let Some(x) = b.get_mut(at..at + 4) {
        x.copy_from_slice(&n.to_le_bytes());
    }
}
/// The checksum of `b` with the four bytes at `at`, where it stands, taken for zeros.
fn own_crc(b: &[u8], at: usize) -> u32 {
    checksum::around(b, at)
}
