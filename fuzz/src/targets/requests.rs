//! Requests of the kernel.

use super::{Target, put};
use fuse::request::{Dialect, Request};

pub fn all() -> Vec<Target> {
    vec![Target { name: "request", seeds: requests, mend: Some(mend), run: request }]
}

/// Every operation there may be, with a body of names and numbers.
fn requests() -> Vec<Vec<u8>> {
    (0..60u32)
        .map(|code| {
            let mut b = vec![0; 40];
            put(&mut b, 4, code);
            put(&mut b, 8, 7);
            put(&mut b, 16, 1);
            b.extend((0..64).map(|i| if i % 9 == 0 { 0 } else { b'a' + i % 20 }));
            b.extend([0; 32]);
            mend(&mut b);
            b
        })
        .collect()
}

/// The length that it tells is the one it has.
#[expect(clippy::ptr_arg, reason = "other targets change the length")]
fn mend(b: &mut Vec<u8>) {
    let len = b.len() as u32;
    put(b, 0, len);
}

fn request(b: &[u8]) -> Result<(), String> {
    for setxattr_ext in [false, true] {
        match Request::parse(b, Dialect { setxattr_ext }) {
            // What people read about it must not fail either.
            Ok(r) => drop(format!("{r:?} {}", r.is_resent())),
            Err(e) => drop(format!("{e} {:?}", e.errno())),
        }
    }
    Ok(())
}
