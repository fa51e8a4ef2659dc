//! Tells the allocator of a daemon to keep what was freed, for buffers of one turn are needed again in the next, and to
//! give back what a burst has left behind.

use std::io;
#[cfg(target_env = "gnu")]
use std::time::Duration;

/// Freed memory below this is kept, in bytes.
const KEEP: i32 = 16 << 20;
/// Allocations below this come from the heap, not from a mapping of their own, in bytes.
const HEAP_MAX: i32 = 4 << 20;
/// Taken at once when the heap must grow, in bytes.
const GROW: i32 = 1 << 20;

/// For the whole process, once at the start of a daemon or benchmark; a library must leave this to its program. Without
/// it glibc gives the heap's end back to the kernel whenever 128 KiB of it are free, and every turn with more than a few
/// payloads pays for page faults: 4.4 instead of 1.7 µs of CPU for a 4 KiB echo, 64 at once.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [(libc::M_TRIM_THRESHOLD, KEEP), (libc::M_MMAP_THRESHOLD, HEAP_MAX), (libc::M_TOP_PAD, GROW)] {
        // SAFETY: sets a number under the allocator's own lock. A refusal leaves the default, which is only slower.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Time between two looks at how much memory the process has. Whether it needs it is asked only if that has grown, or so many
/// looks later, because the allocator walks all that is free to say so: in an idle server that was half of all it did.
#[cfg(target_env = "gnu")]
const LOOK: Duration = Duration::from_secs(1);
#[cfg(target_env = "gnu")]
const LOOKS: u32 = 30;

/// Starts a thread that gives freed memory back to the system whenever the process has more of it than is kept. The
/// allocator by itself gives back only the end of its heap: after a burst of large payloads, of which one small block
/// stays at the end, a server kept 155 MiB of which 2 were in use. Errors: no thread can be started.
pub fn give_back_freed_memory() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    std::thread::Builder::new().name("memory".into()).spawn(|| {
        let (mut floor, mut looks) = (0, 0);
        loop {
            std::thread::sleep(LOOK);
            let now = resident();
            floor = floor.min(now);
            looks += 1;
            if now >= floor + KEEP as usize || looks >= LOOKS {
                give_back();
                (floor, looks) = (resident(), 0);
            }
        }
    })?;
    Ok(())
}

/// Bytes of this process in memory (proc(5), `statm`); 0 where nothing tells.
#[cfg(target_env = "gnu")]
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * crate::pages::PAGE
}
/// Bytes that the allocator holds and nobody uses.
#[cfg(target_env = "gnu")]
fn unused() -> usize {
    // SAFETY: reads counters under the allocator's own locks.
    unsafe { libc::mallinfo2() }.fordblks
}
#[cfg(target_env = "gnu")]
fn give_back() {
    if unused() > 2 * KEEP as usize {
        // SAFETY: gives free pages back under the allocator's own locks; nobody has a pointer to them.
        unsafe { libc::malloc_trim(KEEP as usize) };
    }
}

#[cfg(all(test, target_env = "gnu", target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_a_burst_left_behind_small_blocks_goes_back() {
        keep_freed_memory();
        let burst: Vec<Vec<u8>> = (0..96).map(|_| vec![1; 1 << 20]).collect();
        // At the end of the heap: without it the heap would shrink by itself.
        let last = vec![1u8; 5000];
        let full = resident();
        drop(burst);
        give_back();
        assert!(full > 64 << 20 && resident() + (64 << 20) < full, "{} of {full} bytes are still there", resident());
        assert_eq!(last[4999], 1);
    }
}
