//! What an event loop has done so far.

/// Counters since the loop was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Rounds of waiting and working.
    pub turns: u64,
    /// Frames received, without Hellos.
    pub frames_in: u64,
    /// Frames queued for sending, without Hellos.
    pub frames_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages dropped: no connection and no address, or during a pause after a failure.
    pub dropped: u64,
    /// Times the node was told that a connection broke.
    pub resets: u64,
    /// Connections refused or closed because of what came over them.
    pub refused: u64,
    /// Disk operations started.
    pub disk_ops: u64,
}
