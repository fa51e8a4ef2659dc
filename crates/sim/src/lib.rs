//! Simulated network, disks, clocks and faults under the shipped cores; checkers.
