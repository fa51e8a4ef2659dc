//! Bytes that no kernel would send: every one gives a request that keeps its promises, or an error with an answer.

use fuse::abi::{IN_HEADER, InHeader, opcode};
use fuse::request::{Dialect, Fault, Op, Request};
use std::collections::BTreeSet;
use std::mem::discriminant;
use zerocopy::IntoBytes;

/// Numbers that follow from a seed.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| match self.below(3) {
                0 => 0,
                1 => self.below(12) as u8,
                _ => self.next() as u8,
            })
            .collect()
    }
}

fn request(code: u32, ext: u16, body: &[u8]) -> Vec<u8> {
    let len = (IN_HEADER + body.len()) as u32;
    let head = InHeader { len, opcode: code, unique: 9, nodeid: 1, total_extlen: ext, ..InHeader::default() };
    [head.as_bytes(), body].concat()
}

fn check_name(name: &[u8]) {
    assert!(!name.is_empty() && !name.contains(&0) && !name.contains(&b'/'), "{name:?}");
}

/// What a file system relies on.
fn check(bytes: &[u8], r: &Request<'_>) {
    match r.op {
        Op::Lookup { name } | Op::Unlink { name } | Op::RmDir { name } | Op::Create { name, .. } => check_name(name),
        Op::MkDir { name, .. } | Op::MkNod { name, .. } | Op::Link { name, .. } => check_name(name),
        Op::Symlink { name, target } => {
            check_name(name);
            assert!(!target.is_empty() && !target.contains(&0));
        }
        Op::Rename { name, new_name, .. } => [name, new_name].into_iter().for_each(check_name),
        Op::Write(w, data) => {
            assert_eq!(w.size as usize, data.len());
            assert!(w.offset + u64::from(w.size) <= i64::MAX as u64);
        }
        Op::SetXattr { name, value, .. } => {
            assert!(!name.is_empty() && !name.contains(&0) && value.len() < bytes.len());
        }
        Op::BatchForget(list) => assert!(list.count() * 16 <= bytes.len()),
        Op::IoCtl { input, .. } => assert!(input.len() < bytes.len()),
        _ => {}
    }
}

#[test]
fn random_bodies_of_every_operation() {
    let mut rng = Rng(7);
    let mut understood = BTreeSet::new();
    let mut faults = Vec::new();
    for round in 0..400_000u32 {
        let code = round % 60;
        let len = rng.below(140);
        let body = rng.bytes(len);
        let ext = if rng.below(4) == 0 { rng.below(6) as u16 } else { 0 };
        let mut bytes = request(code, ext, &body);
        if rng.below(50) == 0 {
            bytes.truncate(rng.below(bytes.len()));
        }
        let dialect = Dialect { setxattr_ext: rng.below(2) == 0 };
        match Request::parse(&bytes, dialect) {
            Ok(r) => {
                check(&bytes, &r);
                if !matches!(r.op, Op::Unknown { .. }) {
                    understood.insert(code);
                }
            }
            Err(e) => {
                assert!(e.errno() == fuse::Errno::IO || e.errno() == fuse::Errno::INVAL);
                assert_eq!(e.head.is_none(), bytes.len() < IN_HEADER);
                if !faults.contains(&discriminant(&e.fault)) {
                    faults.push(discriminant(&e.fault));
                }
            }
        }
    }
    let unknown = [0, 7, 19, opcode::SETUPMAPPING, opcode::REMOVEMAPPING];
    let all: BTreeSet<u32> = (0..=opcode::COPY_FILE_RANGE_64).filter(|c| !unknown.contains(c)).collect();
    assert_eq!(understood, all, "each operation was understood at least once");
    assert_eq!(faults.len(), 7, "and each fault was found");
}

/// One good request of each shape.
fn corpus() -> Vec<Vec<u8>> {
    let fixed = |n: usize| vec![1u8; n];
    let with = |n: usize, tail: &[u8]| [&fixed(n), tail].concat();
    let write = [&[0u8; 16][..], &4u32.to_ne_bytes(), &[0; 20], b"data"].concat();
    let xattr = [&3u32.to_ne_bytes()[..], &[0; 4], b"user.a\0abc"].concat();
    let forgets = [&2u32.to_ne_bytes()[..], &[0; 4], &[3; 32]].concat();
    let group = [&16u32.to_ne_bytes()[..], &32u32.to_ne_bytes(), &1u32.to_ne_bytes(), &5u32.to_ne_bytes()].concat();
    vec![
        request(opcode::LOOKUP, 0, b"name\0"),
        request(opcode::SYMLINK, 0, b"name\0target\0"),
        request(opcode::RENAME2, 0, &with(16, b"a\0b\0")),
        request(opcode::CREATE, 2, &[&fixed(16)[..], b"name\0", &group].concat()),
        request(opcode::WRITE, 0, &write),
        request(opcode::SETXATTR, 0, &xattr),
        request(opcode::BATCH_FORGET, 0, &forgets),
        request(opcode::SETATTR, 0, &fixed(88)),
        request(opcode::INIT, 0, &fixed(64)),
        request(opcode::INIT, 0, &fixed(16)),
        request(opcode::READ, 0, &fixed(40)),
        request(opcode::COPY_FILE_RANGE, 0, &fixed(56)),
        request(opcode::STATX, 0, &fixed(24)),
    ]
}

#[test]
fn good_requests_with_changes() {
    let corpus = corpus();
    for good in &corpus {
        let r = Request::parse(good, Dialect::default()).unwrap();
        check(good, &r);
    }
    let mut rng = Rng(11);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..300_000 {
        let mut bytes = corpus[rng.below(corpus.len())].clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(bytes.len());
            bytes[at] = if rng.below(2) == 0 { rng.next() as u8 } else { bytes[at] ^ (1 << rng.below(8)) };
        }
        if rng.below(3) == 0 {
            // A length that is right, so that what lies behind it is looked at.
            bytes.truncate(IN_HEADER + rng.below(bytes.len() - IN_HEADER + 1));
            let len = (bytes.len() as u32).to_ne_bytes();
            bytes[..4].copy_from_slice(&len);
        }
        match Request::parse(&bytes, Dialect { setxattr_ext: rng.below(2) == 0 }) {
            Ok(r) => {
                good += 1;
                check(&bytes, &r);
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 50_000 && bad > 50_000, "{good} good, {bad} bad");
}

#[test]
fn every_shorter_one_is_refused() {
    for good in corpus() {
        for len in 0..good.len() {
            let e = Request::parse(&good[..len], Dialect::default()).unwrap_err();
            let fault = if len < IN_HEADER { Fault::NoHeader } else { Fault::Length };
            assert_eq!(e.fault, fault);
        }
    }
}
