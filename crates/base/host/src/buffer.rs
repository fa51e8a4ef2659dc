//! Buffers aligned for direct I/O, handed around without copying.

use crate::large;
use crate::pages::{self, PAGE};
use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};

/// Alignment that O_DIRECT asks for on every disk we know.
pub const ALIGN: usize = 4096;

/// Bytes starting at a multiple of [`ALIGN`]. Freeze it into [`Bytes`] to share it.
pub struct AlignedBuf {
    ptr: *mut u8,
    len: usize,
}
// SAFETY: the pointer is owned by this value alone; no interior mutability.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), ALIGN).expect("length of a buffer fits isize")
    }
    /// Is a buffer of this length a page of its own? Shorter ones share pages with others.
    fn is_page(len: usize) -> bool {
        len > PAGE / 2 && len <= PAGE
    }
    /// `len` bytes to be overwritten: zeros, or what an earlier buffer held. For what fills all of it before anybody reads.
    pub fn unwritten(len: usize) -> AlignedBuf {
        match large::is_large(len) {
            true => AlignedBuf { ptr: large::take(len), len },
            false => Self::zeroed(len),
        }
    }
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        if large::is_large(len) {
            let mut b = Self::unwritten(len);
            b.fill(0);
            return b;
        }
        if Self::is_page(len) {
            let ptr = pages::take();
            // SAFETY: the page is ours and at least as long.
            unsafe { ptr.write_bytes(0, len) };
            return AlignedBuf { ptr, len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        AlignedBuf { ptr, len }
    }
    /// A copy of `data`.
    pub fn from_slice(data: &[u8]) -> AlignedBuf {
        let mut b = Self::unwritten(data.len());
        b.copy_from_slice(data);
        b
    }
    /// Shares it from now on.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}
impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` points to `len` initialised bytes owned by self.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}
impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}
impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if Self::is_page(self.len) {
            // SAFETY: taken in `zeroed`, as the same length says, and nobody sees it after this.
            return unsafe { pages::give(self.ptr) };
        }
        if large::is_large(self.len) {
            // SAFETY: taken in `unwritten`, as the same length says, and nobody sees it after this.
            return unsafe { large::give(self.ptr, self.len) };
        }
        // SAFETY: allocated in `zeroed` with this very layout.
        unsafe { dealloc(self.ptr, Self::layout(self.len)) }
    }
}
