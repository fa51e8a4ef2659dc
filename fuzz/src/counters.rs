//! The counters that the compiler puts into the code under test, one byte for each edge, when it is built with
//! `-Cpasses=sancov-module`, as `cargo xtask fuzz` does. Without them there are none, and inputs are judged blindly.

use std::sync::Mutex;

/// Counters of each module: address and length.
static MODULES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called by each instrumented module before `main`, with the bounds of its counters.
///
/// # Safety
/// The compiler's own start-up code calls it; the counters live as long as the program.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let (start, stop) = (start as usize, stop as usize);
    if let Ok(mut modules) = MODULES.lock()
        && stop > start
        && !modules.contains(&(start, stop - start))
    {
        modules.push((start, stop - start));
    }
}

/// What has been seen so far: for each counter the magnitudes in which it stood after some input.
#[derive(Default)]
pub struct Seen(Vec<u8>);

impl Seen {
    /// Sets all counters to zero.
    pub fn reset() {
        for (start, len) in MODULES.lock().expect("nothing panics while it holds this").iter() {
            // SAFETY: the compiler said that these bytes are counters; only this thread runs instrumented code.
            unsafe { std::ptr::write_bytes(*start as *mut u8, 0, *len) };
        }
    }
    /// Looks at the counters; true if an edge was passed that never was, or many more times than ever.
    pub fn news(&mut self) -> bool {
        let mut news = false;
        let mut at = 0;
        for (start, len) in MODULES.lock().expect("nothing panics while it holds this").iter() {
            // SAFETY: as above; nothing writes to them while this function reads.
            let counters = unsafe { std::slice::from_raw_parts(*start as *const u8, *len) };
            self.0.resize(self.0.len().max(at + len), 0);
            for (seen, n) in self.0[at..at + len].iter_mut().zip(counters).filter(|(_, n)| **n > 0) {
                let magnitude = 1 << n.ilog2();
                news |= *seen & magnitude == 0;
                *seen |= magnitude;
            }
            at += len;
        }
        news
    }
    /// Edges passed so far, and edges there are.
    pub fn edges(&self) -> (usize, usize) {
        (self.0.iter().filter(|x| **x > 0).count(), self.0.len())
    }
}
