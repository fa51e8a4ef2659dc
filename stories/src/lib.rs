//! Tests with real processes, and the tools they need. A star: `forgetfs` and `host` know nothing of each other, both
//! stand on the leaves `chance`, `proc`, `process` and `loopback`. A staircase for the stories: `product` and `link` reach the
//! program from outside and from inside, `dev` is a cluster, `machines` one whose hosts lose power, `hosts` are such with a
//! network between them, each story uses these and no other story.
#![forbid(unsafe_code)]

pub mod apart;
pub mod arguments;
pub mod attached;
pub mod back;
pub mod bench;
pub mod chance;
pub mod content;
pub mod databases;
pub mod dev;
pub mod direct;
pub mod drains;
pub mod forget;
pub mod forgetfs;
pub mod host;
pub mod hosts;
pub mod idle;
pub mod kills;
pub mod link;
pub mod loopback;
pub mod machines;
pub mod members;
pub mod memory;
pub mod mounted;
pub mod posix;
pub mod proc;
pub mod process;
pub mod product;
pub mod ranges;
pub mod ready;
pub mod registers;
pub mod resume;
pub mod rot;
pub mod scrubcost;
pub mod share;
pub mod shared;
pub mod small;
pub mod stage;
pub mod tools;
pub mod verify;
