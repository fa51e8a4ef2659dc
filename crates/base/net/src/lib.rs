//! Links between processes: framing, reconnecting, one event loop for sockets, disk and timers.
