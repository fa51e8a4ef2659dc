//! Single pages for buffers, cut from larger pieces. A general allocator puts its own note before each allocation, so
//! that the next aligned page begins two pages further: a store full of single blocks would take twice its memory.

use crate::buffer::ALIGN;
use rustix::mm::{Advice, madvise};
use std::alloc::{Layout, alloc, handle_alloc_error};
use std::sync::{Mutex, MutexGuard};

/// Bytes of a page.
pub(crate) const PAGE: usize = ALIGN;
/// Pages taken from the allocator at once.
const PIECE: usize = 64;
/// Free pages that keep their memory; what is freed beyond gives it back to the system, and keeps its addresses.
const KEEP: usize = (32 << 20) / PAGE;

/// A page that nobody uses.
struct Free(*mut u8);
// SAFETY: it is the only pointer to its page.
unsafe impl Send for Free {}

/// Pages that nobody uses, the one freed last on top: those that have their memory, and those that gave it back. What goes
/// around is warm, however much a burst has left behind.
struct Pages {
    warm: Vec<Free>,
    cold: Vec<Free>,
}

static FREE: Mutex<Pages> = Mutex::new(Pages { warm: Vec::new(), cold: Vec::new() });

impl Pages {
    fn take(&mut self) -> *mut u8 {
        if let Some(page) = self.warm.pop().or_else(|| self.cold.pop()) {
            return page.0;
        }
        let layout = Layout::from_size_align(PIECE * PAGE, ALIGN).expect("a piece has a proper size");
        // SAFETY: the layout has a non-zero size.
        let piece = unsafe { alloc(layout) };
        if piece.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: every page lies within the piece, which is never freed.
        self.cold.extend((1..PIECE).map(|i| Free(unsafe { piece.add(i * PAGE) })));
        piece
    }
    fn give(&mut self, page: Free) {
        if self.warm.len() < KEEP {
            return self.warm.push(page);
        }
        // SAFETY: a whole page of ours that nobody reads before it is written again. Locked memory stays, which is only more
        // than has to be kept.
        let _ = unsafe { madvise(page.0.cast(), PAGE, Advice::LinuxDontNeed) };
        self.cold.push(page);
    }
}

fn free() -> MutexGuard<'static, Pages> {
    FREE.lock().expect("nothing panics while it holds the free pages")
}

/// A page with anything in it, aligned, the caller's until it is given back.
pub(crate) fn take() -> *mut u8 {
    free().take()
}

/// Takes a page back.
///
/// # Safety
/// The page is from [`take`], and nobody uses it any more.
pub(crate) unsafe fn give(page: *mut u8) {
    free().give(Free(page));
}

#[cfg(test)]
mod tests {
    use crate::buffer::AlignedBuf;
    use std::collections::BTreeSet;

    #[test]
    fn pages_are_apart_aligned_and_zero() {
        let rounds = 3;
        for round in 0..rounds {
            let mut all: Vec<AlignedBuf> = (0..1000).map(|_| AlignedBuf::zeroed(super::PAGE)).collect();
            let at: BTreeSet<usize> = all.iter().map(|b| b.as_ptr() as usize).collect();
            assert_eq!(at.len(), all.len());
            assert!(at.iter().all(|a| a % super::ALIGN == 0));
            assert!(all.iter().all(|b| b.iter().all(|x| *x == 0)), "round {round}");
            all.iter_mut().for_each(|b| b.fill(0xff));
        }
    }

    #[test]
    fn a_piece_is_cut_without_gaps() {
        let mut pages = super::Pages { warm: Vec::new(), cold: Vec::new() };
        let at: BTreeSet<usize> = (0..super::PIECE).map(|_| pages.take() as usize).collect();
        let (first, last) = (at.first().unwrap(), at.last().unwrap());
        assert_eq!((at.len(), last - first), (super::PIECE, (super::PIECE - 1) * super::PAGE));
        assert!(pages.warm.is_empty() && pages.cold.is_empty());
        pages.give(super::Free(*first as *mut u8));
        assert_eq!(pages.take() as usize, *first);
    }

    #[test]
    fn a_page_freed_last_serves_first() {
        let mut pages = super::Pages { warm: Vec::new(), cold: Vec::new() };
        let all: Vec<*mut u8> = (0..super::KEEP + 3).map(|_| pages.take()).collect();
        all.iter().for_each(|p| pages.give(super::Free(*p)));
        assert_eq!(pages.take(), all[super::KEEP - 1], "one that has its memory");
    }

    #[test]
    fn many_freed_pages_give_memory_back_and_serve_again() {
        for _ in 0..2 {
            let all: Vec<AlignedBuf> =
                (0..super::KEEP + 500).map(|i| AlignedBuf::from_slice(&[i as u8; 4096])).collect();
            assert!(all.iter().enumerate().all(|(i, b)| b[0] == i as u8 && b[4095] == i as u8));
        }
        assert!(AlignedBuf::zeroed(4096).iter().all(|b| *b == 0));
    }
}
