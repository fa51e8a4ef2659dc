//! Listing directories, and copying within the file system.

mod recorder;

use bytes::Bytes;
use client::{ClientAnswer, ClientError, ClientOp};
use fuse::Errno;
use fuse::request::{CopyRange, Op, Read};
use mount::Settings;
use recorder::{Bench, file, removed};
use types::InodeId;
use wire::names::{Attr, DirEntry, FileKind, MetaOp, MetaOutcome};

/// A directory that exists as the group would tell of it.
struct Names(Vec<Vec<u8>>);
impl Names {
    fn answer(&self, b: &mut Bench) {
        let MetaOp::Readdir { after, .. } = b.meta() else { panic!("no listing") };
        let rest = self.0.iter().filter(|n| **n > after);
        // Small pages.
        let entries: Vec<DirEntry> = rest
            .clone()
            .take(5)
            .map(|n| DirEntry { name: n.clone(), attr: file(77), certain: true, bare: true })
            .collect();
        let end = rest.count() <= 5;
        b.answer(Ok(ClientAnswer::Meta(MetaOutcome::Names { entries, end })));
    }
}

fn opened(b: &mut Bench) -> u64 {
    let u = b.ask(5, Op::OpenDir { flags: 0 });
    u64::from_le_bytes(b.reply(u).expect("it opens")[..8].try_into().expect("eight bytes"))
}
fn read_at(offset: u64, fh: u64) -> Read {
    Read { fh, offset, size: 120, flags: 0, lock_owner: None }
}
/// One call of readdir: names and the positions behind them.
fn read(b: &mut Bench, names: &Names, fh: u64, offset: u64) -> Vec<(Vec<u8>, u64)> {
    let u = b.ask(5, Op::ReadDir(read_at(offset, fh)));
    while !b.replied(u) {
        names.answer(b);
    }
    let body = b.reply(u).expect("it lists");
    let (mut at, mut out) = (0, Vec::new());
    while at < body.len() {
        let field = |o: usize, n: usize| &body[at + o..at + o + n];
        let next = u64::from_le_bytes(field(8, 8).try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(field(16, 4).try_into().expect("four bytes")) as usize;
        out.push((field(24, length).to_vec(), next));
        at += (24 + length).div_ceil(8) * 8;
    }
    out
}

#[test]
fn what_stays_is_listed_once_whatever_comes_and_goes() {
    let mut b = Bench::new(Settings::default());
    let mut names = Names((0..40).map(|i| format!("n{i:02}").into_bytes()).collect());
    let stays: Vec<Vec<u8>> = names.0.iter().filter(|n| n[2] % 2 == 0).cloned().collect();
    let fh = opened(&mut b);
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let some = read(&mut b, &names, fh, offset);
        let Some(last) = some.last() else { break };
        offset = last.1;
        seen.extend(some.iter().map(|n| n.0.clone()));
        // What was seen and may go goes; something comes in front.
        names.0.retain(|n| stays.contains(n) || !seen.contains(n));
        names.0.insert(0, format!("a{offset:03}").into_bytes());
        names.0.sort();
    }
    for n in &stays {
        assert_eq!(seen.iter().filter(|s| *s == n).count(), 1, "{}", String::from_utf8_lossy(n));
    }
    assert_eq!(&seen[..2], [b".".to_vec(), b"..".to_vec()]);
}

#[test]
fn positions_lead_back_to_where_they_were_told() {
    let mut b = Bench::new(Settings::default());
    let names = Names((0..33).map(|i| format!("n{i:02}").into_bytes()).collect());
    let fh = opened(&mut b);
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let some = read(&mut b, &names, fh, offset);
        let Some(last) = some.last() else { break };
        offset = last.1;
        all.extend(some);
    }
    assert_eq!(all.len(), 35);
    for i in [30usize, 3, 17, 0, 34, 8] {
        let next = read(&mut b, &names, fh, all[i].1);
        assert_eq!(next.first().map(|n| &n.0), all.get(i + 1).map(|n| &n.0), "behind entry {i}");
    }
    assert_eq!(read(&mut b, &names, fh, 0)[0].0, b".");
    let late = read(&mut b, &names, fh, all[20].1);
    assert_eq!(late[0].0, all[21].0, "a position from before the rewind");
}

#[test]
fn a_removed_directory_tells_what_it_was_as_long_as_it_is_open() {
    let mut b = Bench::new(Settings::default());
    let dir = Attr { kind: FileKind::Dir, mode: 0o750, nlink: 2, ..file(5) };
    b.ask(1, Op::Lookup { name: b"d" });
    b.answer_attr(dir.clone());
    let fh = opened(&mut b);
    let u = b.ask(1, Op::RmDir { name: b"d" });
    assert!(matches!(b.meta(), MetaOp::Getattr { ino: InodeId(5) }));
    b.answer_attr(dir.clone());
    assert!(matches!(b.meta(), MetaOp::Rmdir { .. }));
    b.done();
    assert_eq!(b.reply(u), Ok(vec![]));
    let u = b.ask(5, Op::GetAttr { fh: Some(fh) });
    assert!(b.reply(u).is_ok() && b.record.asked.is_empty());
    b.ask(5, Op::ReleaseDir { fh, flags: 0 });
    b.ask(5, Op::GetAttr { fh: None });
    assert_eq!(b.record.asked.len(), 1, "nobody remembers it");

    // One that was replaced likewise.
    let mut b = Bench::new(Settings::default());
    let fh = opened(&mut b);
    b.ask(1, Op::Rename { name: b"a", new_parent: 1, new_name: b"d", flags: 0 });
    b.answer(removed(Attr { nlink: 0, ..dir }));
    let u = b.ask(5, Op::GetAttr { fh: Some(fh) });
    assert!(b.reply(u).is_ok());
    assert_eq!(b.forgets(), 0, "directories are not kept");
}

#[test]
fn a_directory_that_could_not_be_removed_is_asked_about_again() {
    let mut b = Bench::new(Settings::default());
    let dir = Attr { kind: FileKind::Dir, nlink: 2, ..file(5) };
    b.ask(1, Op::Lookup { name: b"d" });
    b.answer_attr(dir.clone());
    opened(&mut b);
    let u = b.ask(1, Op::RmDir { name: b"d" });
    b.answer_attr(dir.clone());
    b.refuse(wire::names::MetaError::NotEmpty);
    assert_eq!(b.reply(u), Err(Errno::NOTEMPTY.raw_os_error()));
    b.ask(5, Op::GetAttr { fh: None });
    assert_eq!(b.record.asked.len(), 1);
}

fn copy(len: u64) -> Op<'static> {
    Op::CopyFileRange(CopyRange {
        fh_in: 0,
        offset_in: 100,
        node_out: 8,
        fh_out: 0,
        offset_out: 7,
        len,
        flags: 0,
        wide: true,
    })
}
fn copied(b: &Bench, unique: u64) -> u64 {
    u64::from_le_bytes(b.reply(unique).expect("it copies")[..8].try_into().expect("eight bytes"))
}

#[test]
fn a_copy_goes_piece_by_piece_to_the_end_of_the_source() {
    let mut b = Bench::new(Settings::default());
    let u = b.ask(9, copy(3 << 20));
    let mut at = 0;
    for n in [1usize << 20, 1 << 20, 1000] {
        assert!(matches!(b.op(), ClientOp::Read { ino: InodeId(9), offset, .. } if offset == 100 + at));
        b.answer(Ok(ClientAnswer::Data(Bytes::from(vec![1; n]))));
        assert!(matches!(b.op(), ClientOp::Write { ino: InodeId(8), offset, .. } if offset == 7 + at));
        b.done();
        at += n as u64;
    }
    b.answer(Ok(ClientAnswer::Data(Bytes::new())));
    assert_eq!(copied(&b, u), at);
}

#[test]
fn what_was_copied_before_an_error_counts() {
    let mut b = Bench::new(Settings::default());
    let u = b.ask(9, copy(3 << 20));
    b.answer(Ok(ClientAnswer::Data(Bytes::from(vec![1; 1 << 20]))));
    b.done();
    b.answer(Err(ClientError::WritesLost));
    assert_eq!(copied(&b, u), 1 << 20);
    let u = b.ask(9, copy(3 << 20));
    b.answer(Err(ClientError::WritesLost));
    assert_eq!(b.reply(u), Err(Errno::IO.raw_os_error()));
    let u = b.ask(9, copy(0));
    assert_eq!(copied(&b, u), 0);
}
