//! SIGTERM and SIGINT end the event loop in good order; a second one ends the process at once. SIGHUP asks for another look at
//! what a process was configured with.

use crate::stop::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// A flag that SIGTERM and SIGINT set, for a process that drives its loop itself.
#[derive(Clone, Debug)]
pub struct SignalFlag(Arc<AtomicBool>);

impl SignalFlag {
    /// Watches both signals from now on; the second of them ends the process with status 1.
    pub fn install() -> io::Result<SignalFlag> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 1, flag.clone())?;
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(SignalFlag(flag))
    }
    /// Has one come?
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A flag that SIGHUP sets.
#[derive(Clone, Debug)]
pub struct HangupFlag(Arc<AtomicBool>);

impl HangupFlag {
    /// Watches the signal from now on: it does not end the process any more.
    pub fn install() -> io::Result<HangupFlag> {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, flag.clone())?;
        Ok(HangupFlag(flag))
    }
    /// Has one come since the last question?
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
