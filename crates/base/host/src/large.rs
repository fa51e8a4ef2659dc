//! Large buffers that go around: what a network or disk read fills completely need not be made zero before, and a buffer that
//! was used a moment ago needs no new pages from the system.

use crate::buffer::ALIGN;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::{Mutex, MutexGuard};

/// Shortest and longest of them, bytes: a unit, and the largest piece of a transfer.
const LEAST: usize = 64 << 10;
const MOST: usize = 1 << 20;
const CLASSES: usize = (MOST / LEAST).trailing_zeros() as usize + 1;
/// Bytes kept of those that nobody uses.
const KEEP: usize = 8 << 20;

/// A buffer that nobody uses. All its bytes were written once.
struct Free(*mut u8);
// SAFETY: it is the only pointer to its bytes.
unsafe impl Send for Free {}

struct Large {
    /// By class: powers of two from [`LEAST`] to [`MOST`].
    free: [Vec<Free>; CLASSES],
    bytes: usize,
}

static LARGE: Mutex<Large> = Mutex::new(Large { free: [const { Vec::new() }; CLASSES], bytes: 0 });

fn large() -> MutexGuard<'static, Large> {
    LARGE.lock().expect("nothing panics while it holds the free buffers")
}
/// Bytes of the class that holds `len`.
fn size(len: usize) -> usize {
    len.next_power_of_two().max(LEAST)
}
fn class(len: usize) -> usize {
    (size(len) / LEAST).trailing_zeros() as usize
}
fn layout(len: usize) -> Layout {
    Layout::from_size_align(size(len), ALIGN).expect("a class has a proper size")
}

/// Does a buffer of this length go around?
pub(crate) fn is_large(len: usize) -> bool {
    (LEAST..=MOST).contains(&len)
}

/// At least `len` bytes with anything in them, zeros or what an earlier buffer held; the caller's until they are given back.
pub(crate) fn take(len: usize) -> *mut u8 {
    let found = {
        let mut l = large();
        let found = l.free[class(len)].pop();
        l.bytes -= found.as_ref().map_or(0, |_| size(len));
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
/// They are from [`take`] for a length of the same class, and nobody uses them any more.
pub(crate) unsafe fn give(ptr: *mut u8, len: usize) {
    {
        let mut l = large();
        if l.bytes + size(len) <= KEEP {
            l.bytes += size(len);
            return l.free[class(len)].push(Free(ptr));
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
    fn classes_hold_their_lengths() {
        for (len, class_of, bytes) in
            [(LEAST, 0, LEAST), (LEAST + 1, 1, 2 * LEAST), (MOST - 1, 4, MOST), (MOST, 4, MOST)]
        {
            assert_eq!((class(len), size(len)), (class_of, bytes), "{len}");
        }
        assert!(is_large(LEAST) && is_large(MOST) && !is_large(LEAST - 1) && !is_large(MOST + 1));
    }

    #[test]
    fn what_is_wanted_zero_is_zero_and_not_more_is_kept_than_is_said() {
        for _ in 0..3 {
            let mut all: Vec<AlignedBuf> = (0..20).map(|i| AlignedBuf::zeroed(MOST - i)).collect();
            assert!(all.iter().all(|b| (b.as_ptr() as usize).is_multiple_of(ALIGN) && b.iter().all(|x| *x == 0)));
            all.iter_mut().for_each(|b| b.fill(0xff));
            drop(all);
            assert!(large().bytes <= KEEP);
        }
        let b = AlignedBuf::unwritten(MOST);
        assert_eq!(b.len(), MOST);
    }
}
