//! The metadata state machine: ordered byte-keyed tables, modules that never import each other, total apply.
