//! Large buffers that go around: what a network or disk read fills completely need not be made zero before, and a buffer that
//! was used a moment ago needs no new pages from the system. Only lengths that are powers of two, as those of bulk transfers
//! are: none takes more memory than it holds.

use crate::buffer::ALIGN;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::{Mutex, MutexGuard};

/// Shortest and longest of them, bytes: a unit, and the largest piece of a transfer.
const LEAST: usize = 64 << 10;
const MOST: usize = 1 << 20;
const LENGTHS: usize = (MOST / LEAST).trailing_zeros() as usize + 1;
/// Bytes kept of those that nobody uses.
const KEEP: usize = 8 << 20;

/// A buffer that nobody uses. All its bytes were written once.
struct Free(*mut u8);
// SAFETY: it is the only pointer to its bytes.
unsafe impl Send for Free {}

struct Large {
    /// By length: powers of two from [`LEAST`] to [`MOST`].
    free: [Vec<Free>; LENGTHS],
    bytes: usize,
}

static LARGE: Mutex<Large> = Mutex::new(Large { free: [const { Vec::new() }; LENGTHS], bytes: 0 });

fn large() -> MutexGuard<'static, Large> {
    LARGE.lock().expect("nothing panics while it holds the free buffers")
}
fn place(len: usize) -> usize {
    (len / LEAST).trailing_zeros() as usize
}
fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, ALIGN).expect("these lengths are proper sizes")
}

/// Does a buffer of this length go around?
pub(crate) fn is_large(len: usize) -> bool {
    len.is_power_of_two() && (LEAST..=MOST).contains(&len)
}

/// `len` bytes with anything in them, zeros or what an earlier buffer held; the caller's until they are given back. One of
/// the lengths of [`is_large`].
pub(crate) fn take(len: usize) -> *mut u8 {
    let found = {
        let mut l = large();
        let found = l.free[place(len)].pop();
        l.bytes -= found.as_ref().map_or(0, |_| len);
        found
    };
    if let Some(Free(ptr)) = found {
        return ptr;
    }
    // SAFETY: the layout has a non-zero size.
    let ptr = unsafe { alloc_zeroed(layout(len)) };
    if ptr.is_null() {
        handle_alloc_error(layout(len));
    }
    ptr
}

/// Takes them back.
///
/// # Safety
/// They are from [`take`] for the same length, and nobody uses them any more.
pub(crate) unsafe fn give(ptr: *mut u8, len: usize) {
    {
        let mut l = large();
        if l.bytes + len <= KEEP {
            l.bytes += len;
            return l.free[place(len)].push(Free(ptr));
        }
    }
    // SAFETY: allocated in `take` with this layout, as the caller says.
    unsafe { dealloc(ptr, layout(len)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuf;

    #[test]
    fn the_lengths_that_go_around() {
        let all: Vec<usize> = (0..=2 * MOST).filter(|n| is_large(*n)).collect();
        assert_eq!(all, [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20]);
        assert_eq!(all.iter().map(|n| place(*n)).collect::<Vec<_>>(), (0..LENGTHS).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_wanted_zero_is_zero_and_not_more_is_kept_than_is_said() {
        for _ in 0..3 {
            let mut all: Vec<AlignedBuf> = (0..20).map(|i| AlignedBuf::zeroed(MOST >> (i % LENGTHS))).collect();
            assert!(all.iter().all(|b| (b.as_ptr() as usize).is_multiple_of(ALIGN) && b.iter().all(|x| *x == 0)));
            all.iter_mut().for_each(|b| b.fill(0xff));
            drop(all);
            assert!(large().bytes <= KEEP);
        }
        let b = AlignedBuf::unwritten(MOST);
        assert_eq!(b.len(), MOST);
    }
}
