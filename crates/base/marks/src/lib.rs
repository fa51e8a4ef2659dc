//! What lets tests look into the product without changing it: marks at rare branches, and switches for rules. In what ships
//! a mark is no code, so the pure cores stay pure; with the feature `count` each thread counts for itself.
#![cfg_attr(not(feature = "count"), no_std)]
#![forbid(unsafe_code)]

mod names;
mod switches;

pub use names::NAMES;

/// Marks a branch: `mark!("member.refuse.diverged")`. The name stands in the list of this crate, once, and at one place of
/// the sources; one that is not listed does not compile.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {{
        const MARK: usize = $crate::index($name);
        $crate::pass(MARK);
    }};
}

/// Place of a name in [`NAMES`]; evaluated by the compiler, for which an unknown name is an error.
pub const fn index(name: &str) -> usize {
    let mut i = 0;
    while i < NAMES.len() {
        if equal(NAMES[i].as_bytes(), name.as_bytes()) {
            return i;
        }
        i += 1;
    }
    panic!("a mark of this name is not listed in the crate `marks`")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The branch of this mark was taken.
#[cfg(not(feature = "count"))]
#[inline(always)]
pub fn pass(_mark: usize) {}

#[cfg(feature = "count")]
mod count {
    use super::NAMES;
    use std::cell::Cell;

    thread_local! {
        static PASSED: [Cell<u64>; NAMES.len()] = const { [const { Cell::new(0) }; NAMES.len()] };
    }

    /// The branch of this mark was taken.
    pub fn pass(mark: usize) {
        PASSED.with(|p| p[mark].set(p[mark].get() + 1));
    }
    /// How often each mark was passed on this thread since the last call, in the order of the names.
    pub fn take() -> Vec<u64> {
        PASSED.with(|p| p.iter().map(|c| c.replace(0)).collect())
    }
}
#[cfg(feature = "count")]
pub use count::{pass, take};
