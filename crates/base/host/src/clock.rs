//! The only clock of a process: boot time, which goes on while the host is suspended.

use rustix::time::{ClockId, clock_gettime};
use types::Nanos;

/// Now, in nanoseconds since the host booted. Never goes back; comparable only on this host and in this boot.
pub fn now() -> Nanos {
    let t = clock_gettime(ClockId::Boottime);
    Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// CPU time this thread has used so far, in nanoseconds; for statistics.
pub fn thread_cpu() -> Nanos {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// CPU time all threads of this process have used so far, in nanoseconds; for statistics.
pub fn process_cpu() -> Nanos {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn rises_with_real_time() {
        let a = super::now();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let b = super::now();
        assert!(b.since(a).as_millis() >= 5 && b.since(a).as_millis() < 5_000);
    }
}
