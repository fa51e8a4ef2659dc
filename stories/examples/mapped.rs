//! Maps a file into memory; for each line on standard input it says the checksums (CRC32C) of all its blocks of 4 KiB as they
//! stand in memory then. `mapped FILE`; the file must not become shorter meanwhile.

use anyhow::{Context, Result, bail};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

const BLOCK: usize = 4096;

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: mapped FILE")?;
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let len = usize::try_from(file.metadata()?.len())?;
    if !len.is_multiple_of(BLOCK) {
        bail!("{}: {len} bytes are no whole blocks", path.display());
    }
    let size = NonZeroUsize::new(len).context("the file is empty")?;
    // SAFETY: the mapping is at a place that the kernel chooses, nothing of this program lies there, and it stays to the end.
    let start = unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0) }?;
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        line?;
        let sums: Vec<String> =
            (0..len / BLOCK).map(|b| format!("{:08x}", checksum::crc32c(&block(start, b)))).collect();
        writeln!(out, "{}", sums.join(" "))?;
        out.flush()?;
    }
    Ok(())
}

/// A copy of one block as it is now.
fn block(start: NonNull<std::ffi::c_void>, number: usize) -> [u8; BLOCK] {
    // SAFETY: the mapping has this block, is never written here, and any bytes are a value. Volatile, because others change
    // it: the compiler must not keep what it has read before.
    unsafe { start.cast::<[u8; BLOCK]>().add(number).read_volatile() }
}
