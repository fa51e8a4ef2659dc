//! SIGTERM and SIGINT end the event loop in good order; a second one ends the process at once.

use crate::stop::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;

/// From now on SIGTERM and SIGINT set `stop`. The second of them ends the process with status 1: a clean stop that hangs
/// must not need SIGKILL.
pub fn stop_on_signals(stop: &Stop) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.flag.clone())?;
        let stop = stop.clone();
        // SAFETY: the handler stores an atomic and makes one system call; it neither allocates nor locks.
        unsafe { signal_hook::low_level::register(signal, move || stop.stop()) }?;
    }
    Ok(())
}
