//! Files that lose their names, and requests that nobody waits for any more.

mod recorder;

use client::{ClientAnswer, ClientError, ClientOp, Event, FileView};
use fuse::Errno;
use fuse::notify::Notice;
use fuse::request::{Op, Write};
use mount::{After, Settings, Shell};
use recorder::{Bench, file, removed};
use std::time::Duration;
use types::{InodeId, LeaseEpoch, Nanos};
use wire::LeaseKind;
use wire::names::{Attr, FileKind, MetaError, MetaOp, SetAttr};

fn bench() -> Bench {
    Bench::new(Settings::default())
}
fn nameless(ino: u64) -> Attr {
    Attr { nlink: 0, ..file(ino) }
}
fn notice(offset: i64, len: i64) -> Notice {
    Notice::InvalInode { node: 9, offset, len }
}
fn look_up(b: &mut Bench, ino: u64) {
    let u = b.ask(1, Op::Lookup { name: b"n" });
    b.answer_attr(file(ino));
    assert!(b.reply(u).is_ok());
}
fn write(offset: u64, flags: u32, kill: bool) -> Op<'static> {
    let w = Write { fh: 0, offset, size: 3, flags, lock_owner: None, from_cache: false, kill_suidgid: kill };
    Op::Write(w, &[])
}

#[test]
fn a_file_removed_while_open_is_forgotten_once_with_its_last_closing() {
    let mut b = bench();
    look_up(&mut b, 9);
    b.open(9);
    b.open(9);
    let u = b.ask(1, Op::Unlink { name: b"n" });
    assert!(matches!(b.meta(), MetaOp::Unlink { keep: true, .. }), "it is open, so it has to be kept");
    b.answer(removed(nameless(9)));
    assert_eq!(b.reply(u), Ok(vec![]));
    b.release(9);
    assert_eq!(b.forgets(), 0, "one opening is left");
    b.release(9);
    assert_eq!(b.forgets(), 1);
    b.settle();
    b.pass(100);
    assert!(b.record.asked.is_empty(), "neither idle nor forgotten again: {:?}", b.record.asked);
}

#[test]
fn a_file_that_is_not_open_costs_one_operation() {
    let mut b = bench();
    look_up(&mut b, 9);
    b.ask(1, Op::Unlink { name: b"n" });
    assert!(matches!(b.meta(), MetaOp::Unlink { keep: false, .. }));
    b.answer(removed(nameless(9)));
    assert_eq!(b.forgets(), 0, "the group keeps nothing for this session");
}

#[test]
fn a_name_that_is_not_known_is_kept_and_forgotten() {
    let mut b = bench();
    b.ask(1, Op::Unlink { name: b"n" });
    assert!(matches!(b.meta(), MetaOp::Unlink { keep: true, .. }));
    b.answer(removed(nameless(9)));
    assert_eq!(b.forgets(), 1);
}

#[test]
fn what_others_remove_is_forgotten_when_it_is_open_no_more() {
    let mut b = bench();
    b.open(9);
    let event = Event::Nameless { ino: InodeId(9) };
    b.fs.event(b.now, event, &mut b.record);
    assert_eq!(b.forgets(), 0);
    b.release(9);
    assert_eq!(b.forgets(), 1);
    b.settle();
    b.fs.event(b.now, Event::Nameless { ino: InodeId(8) }, &mut b.record);
    assert_eq!(b.forgets(), 1, "never opened");
    b.settle();
    // While an answer may still open it nothing is certain.
    b.ask(7, Op::Open { flags: 2, kill_suidgid: false });
    b.fs.event(b.now, Event::Nameless { ino: InodeId(7) }, &mut b.record);
    assert_eq!(b.forgets(), 0);
}

#[test]
fn pages_that_come_after_a_lease_went_are_dropped_with_the_next_one() {
    let mut b = bench();
    b.open(9);
    let (ino, epoch) = (InodeId(9), LeaseEpoch(5));
    let is = |o: &ClientOp| matches!(o, ClientOp::Cached { ino: i } if *i == ino);
    let cached = |b: &Bench| b.record.asked.iter().filter(|a| is(&a.1)).count();
    let read = || Op::Read(fuse::request::Read { fh: 0, offset: 0, size: 4096, flags: 0, lock_owner: None });
    let data = || Ok(ClientAnswer::Data(vec![1; 4096].into()));
    b.settle();
    b.ask(9, read());
    b.answer(data());
    assert_eq!(cached(&b), 0, "it was told when the file was opened");
    b.fs.event(b.now, Event::Revoke { ino, epoch }, &mut b.record);
    let after = After::Revoked(ino, epoch);
    let dropped = [(notice(0, 4096), After::Nothing), (notice(-1, 0), after)];
    assert_eq!(std::mem::take(&mut b.record.notices), dropped);
    b.ask(9, read());
    b.answer(data());
    assert_eq!(cached(&b), 1, "pages come again");
    b.settle();
    b.fs.dropped(b.now, after, &mut b.record);
    assert_eq!(std::mem::take(&mut b.record.notices), dropped, "these go too before the lease does");
    assert!(b.record.asked.is_empty());
    b.fs.dropped(b.now, after, &mut b.record);
    assert!(matches!(b.op(), ClientOp::Revoked { ino: i, epoch: e } if (i, e) == (ino, epoch)));
    b.settle();
    b.ask(9, write(0, 0, false));
    assert_eq!(cached(&b), 1, "a write leaves pages too");
    b.settle();
    b.fs.event(b.now, Event::Lost { ino }, &mut b.record);
    b.ask(9, write(0, 0o40000, false));
    assert_eq!(cached(&b), 0, "one past the kernel's cache does not");
}

#[test]
fn what_others_removed_is_looked_up_again() {
    let mut b = bench();
    let stale = Err(Errno::STALE.raw_os_error());
    let cut = 0o1002;
    let mode = Op::SetAttr(fuse::request::SetAttr { mode: Some(0o600), ..fuse::request::SetAttr::default() });
    let ops = [
        Op::Open { flags: 2, kill_suidgid: false },
        Op::Open { flags: cut, kill_suidgid: false },
        Op::GetAttr { fh: None },
        mode,
    ];
    for op in ops {
        let u = b.ask(9, op);
        b.refuse(MetaError::NotFound);
        assert_eq!(b.reply(u), stale, "the kernel takes the name for outdated");
    }
    let u = b.ask(1, Op::Lookup { name: b"n" });
    b.refuse(MetaError::NotFound);
    assert_eq!(b.reply(u), Err(Errno::NOENT.raw_os_error()), "and hears of a name that leads nowhere");
}

#[test]
fn a_file_without_a_name_lives_on_with_a_new_one() {
    let mut b = bench();
    let u = b.ask(1, Op::TmpFile { flags: 2, mode: 0o600, umask: 0 });
    b.answer_attr(nameless(9));
    assert!(b.reply(u).is_ok());
    b.settle();
    let u = b.ask(1, Op::Link { node: 9, name: b"x" });
    b.refuse(MetaError::Exists);
    assert_eq!(b.reply(u), Err(Errno::EXIST.raw_os_error()));
    let u = b.ask(1, Op::Link { node: 9, name: b"y" });
    b.answer_attr(file(9));
    assert!(b.reply(u).is_ok());
    b.release(9);
    assert_eq!(b.forgets(), 0);

    // Without one it goes with its closing, also after a link that failed.
    let u = b.ask(1, Op::TmpFile { flags: 2, mode: 0o600, umask: 0 });
    b.answer_attr(nameless(10));
    assert!(b.reply(u).is_ok());
    b.settle();
    b.ask(1, Op::Link { node: 10, name: b"x" });
    b.refuse(MetaError::Exists);
    b.release(10);
    assert_eq!(b.forgets(), 1);
}

#[test]
fn an_interrupted_request_is_answered_after_a_while_and_opens_nothing() {
    let mut b = bench();
    let u = b.ask(1, Op::TmpFile { flags: 2, mode: 0o600, umask: 0 });
    let i = b.ask(0, Op::Interrupt { unique: u });
    assert!(!b.replied(u) && !b.replied(i));
    b.pass(4);
    assert!(!b.replied(u));
    b.pass(2);
    assert_eq!(b.reply(u), Err(Errno::INTR.raw_os_error()));
    b.answer_attr(nameless(9));
    assert_eq!((b.fs.open_files(), b.forgets()), (0, 1), "it was made, and nobody has it");
    let late = b.ask(0, Op::Interrupt { unique: u });
    assert_eq!(b.reply(late), Err(Errno::AGAIN.raw_os_error()));
}

#[test]
fn a_soft_mount_gives_up_and_lets_the_lease_go_later() {
    let mut b = Bench::new(Settings { soft: Some(Nanos::from_secs(10)), ..Settings::default() });
    let u = b.ask(9, Op::Open { flags: 0, kill_suidgid: false });
    assert_eq!(b.fs.deadline(), b.now + Nanos::from_secs(10));
    b.pass(10);
    assert_eq!(b.reply(u), Err(Errno::IO.raw_os_error()));
    b.answer_attr(file(9));
    assert_eq!(b.fs.open_files(), 0);
    b.pass(31);
    assert!(matches!(b.op(), ClientOp::Close { ino: InodeId(9) }), "the lease that came too late");
}

#[test]
fn what_may_be_repeated_is_and_what_may_not_fails() {
    let mut b = bench();
    b.open(9);
    let read = Op::Read(fuse::request::Read { fh: 0, offset: 0, size: 4096, flags: 0, lock_owner: None });
    let u = b.ask(9, read);
    for _ in 0..3 {
        b.answer(Err(ClientError::SessionLost));
        assert!(!b.replied(u), "asked again");
    }
    b.answer(Ok(ClientAnswer::Data(vec![1; 4096].into())));
    assert_eq!(b.reply(u), Ok(vec![1; 4096]));
    b.settle();
    let u = b.ask(9, write(0, 0, false));
    b.answer(Err(ClientError::LeaseLost));
    assert_eq!(b.reply(u), Err(Errno::IO.raw_os_error()), "others may have seen it and written something else since");
    let u = b.ask(1, Op::MkDir { name: b"d", mode: 0o755, umask: 0 });
    b.answer(Err(ClientError::SessionLost));
    assert_eq!(b.reply(u), Err(Errno::IO.raw_os_error()), "it may have been made already");
    assert!(b.record.asked.is_empty());
}

#[test]
fn content_of_a_file_whose_locks_are_lost_is_refused_until_nobody_has_it_open() {
    use fuse::request::{Lock, LockKind};
    let mut b = bench();
    let lock = Lock { fh: 0, owner: 7, start: 0, end: 9, kind: LockKind::Write, pid: 1, flock: false };
    b.open(9);
    b.ask(9, Op::SetLk { lock, wait: false });
    b.answer(Ok(ClientAnswer::Meta(wire::names::MetaOutcome::Lock(wire::locks::LockAnswer::Held))));
    b.fs.event(b.now, Event::SessionLost, &mut b.record);
    let cut = || Op::SetAttr(fuse::request::SetAttr { size: Some(0), ..Default::default() });
    let read = Op::Read(fuse::request::Read { fh: 0, offset: 0, size: 4096, flags: 0, lock_owner: None });
    for op in [read, write(0, 0, false), cut(), Op::FAllocate { fh: 0, offset: 0, len: 4096, mode: 0 }] {
        let u = b.ask(9, op);
        assert_eq!(b.reply(u), Err(Errno::IO.raw_os_error()));
    }
    b.ask(10, cut());
    assert!(matches!(b.op(), ClientOp::Truncate { .. }), "another file");
}

#[test]
fn an_append_goes_where_the_kernel_believes_only_if_that_is_certain() {
    let mut b = bench();
    b.open(9);
    b.ask(9, write(10, 0o2000, false));
    assert!(matches!(b.op(), ClientOp::Append { .. }), "somebody else may have lengthened it");
    b.answer(Ok(ClientAnswer::Placed(10)));
    assert!(b.record.notices.is_empty());
    let u = b.ask(9, write(13, 0o2000, false));
    b.answer(Ok(ClientAnswer::Placed(20)));
    assert_eq!(b.record.notices.len(), 1, "the kernel's pages have it elsewhere");
    assert!(b.reply(u).is_ok());
    let view = FileView { size: 23, mtime: 0, kind: LeaseKind::Write, epoch: LeaseEpoch(1), dirty: false };
    b.record.views.insert(InodeId(9), view);
    b.ask(9, write(23, 0o2000, false));
    assert!(matches!(b.op(), ClientOp::Write { offset: 23, .. }));
}

#[test]
fn privileges_are_gone_before_the_write_is_done() {
    let mut b = bench();
    b.open(9);
    let u = b.ask(9, Op::SetAttr(fuse::request::SetAttr { mode: Some(0o4755), ..Default::default() }));
    b.answer_attr(Attr { mode: 0o4755, ..file(9) });
    assert!(b.reply(u).is_ok());
    let u = b.ask(9, write(0, 0, true));
    assert!(matches!(b.meta(), MetaOp::Setattr { set: SetAttr { clear_privileges: true, .. }, .. }));
    b.answer_attr(file(9));
    assert!(!b.replied(u) && matches!(b.op(), ClientOp::Write { .. }));
    b.done();
    b.ask(9, write(3, 0, true));
    assert!(matches!(b.op(), ClientOp::Write { .. }), "known to have none");
    b.done();
    // Space is given without a word of the kernel about privileges.
    let fallocate = Op::FAllocate { fh: 0, offset: 0, len: 9, mode: 3 };
    b.ask(9, Op::SetAttr(fuse::request::SetAttr { mode: Some(0o4755), ..Default::default() }));
    b.answer_attr(Attr { mode: 0o4755, ..file(9) });
    b.ask_as(5, 9, fallocate, &[]);
    assert!(matches!(b.meta(), MetaOp::Setattr { .. }));
}

#[test]
fn a_name_taken_meanwhile_is_opened_and_cut_or_looked_up_again() {
    let mut b = bench();
    let create = Op::Create { name: b"n", flags: 0o1102, mode: 0o644, umask: 0 };
    let u = b.ask(1, create);
    b.refuse(MetaError::Exists);
    assert!(matches!(b.meta(), MetaOp::Lookup { .. }));
    b.answer_attr(Attr { size: 5, ..file(9) });
    assert!(matches!(b.op(), ClientOp::Truncate { size: 0, .. }));
    b.answer_attr(file(9));
    assert!(b.reply(u).is_ok());
    b.settle();
    let u = b.ask(1, create);
    b.refuse(MetaError::Exists);
    b.answer_attr(Attr { kind: FileKind::Symlink, ..file(10) });
    assert_eq!(b.reply(u), Err(Errno::STALE.raw_os_error()), "the kernel looks the name up again");
    let u = b.ask(1, Op::Create { name: b"n", flags: 0o1302, mode: 0o644, umask: 0 });
    b.refuse(MetaError::Exists);
    assert_eq!(b.reply(u), Err(Errno::EXIST.raw_os_error()));
}

#[test]
fn a_mount_that_only_reads_asks_for_no_change() {
    let mut b = Bench::new(Settings { read_only: true, ..Settings::default() });
    let changes = [
        Op::Unlink { name: b"n" },
        Op::MkDir { name: b"n", mode: 0, umask: 0 },
        Op::Open { flags: 2, kill_suidgid: false },
        Op::SetXattr { name: b"user.a", value: b"", flags: 0, kill_sgid: false },
        write(0, 0, false),
    ];
    for op in changes {
        let u = b.ask(9, op);
        assert_eq!(b.reply(u), Err(Errno::ROFS.raw_os_error()));
    }
    assert!(b.record.asked.is_empty());
    b.ask(9, Op::Open { flags: 0, kill_suidgid: false });
    assert_eq!(b.record.asked.len(), 1);
}

#[test]
fn pages_are_dropped_before_a_lease_goes_back() {
    let mut b = bench();
    b.open(9);
    let epoch = LeaseEpoch(4);
    b.fs.event(b.now, Event::Revoke { ino: InodeId(9), epoch }, &mut b.record);
    let after = After::Revoked(InodeId(9), epoch);
    assert_eq!(b.record.notices, [(notice(-1, 0), after)], "no page can have content");
    assert!(b.record.asked.is_empty());
    b.fs.dropped(b.now, after, &mut b.record);
    assert!(matches!(b.op(), ClientOp::Revoked { ino: InodeId(9), .. }));
    assert!(b.record.view(InodeId(9)).is_none());
}

/// A page that has no content is locked as long as a write to a part of it waits, perhaps for the very lease that others
/// wait for: nothing may wait for that lock before a lease goes back.
#[test]
fn a_page_that_a_waiting_write_may_have_locked_is_left_alone() {
    let mut b = bench();
    b.open(9);
    let epoch = LeaseEpoch(4);
    let read = Op::Read(fuse::request::Read { fh: 0, offset: 8192, size: 4096, flags: 0, lock_owner: None });
    b.settle();
    b.ask(9, read);
    b.answer(Ok(ClientAnswer::Data(vec![1; 4096].into())));
    // This one waits, and has its pages locked too.
    b.ask(9, Op::Read(fuse::request::Read { fh: 0, offset: 65536, size: 4096, flags: 0, lock_owner: None }));
    b.ask(9, write(100, 0, false));
    b.ask(9, write(8200, 0, false));
    b.fs.event(b.now, Event::Revoke { ino: InodeId(9), epoch }, &mut b.record);
    let after = After::Revoked(InodeId(9), epoch);
    assert_eq!(b.record.notices, [(notice(8192, 4096), After::Nothing), (notice(-1, 0), after)]);
}

#[test]
fn out_of_contact_the_kernel_is_given_no_content_and_drops_what_it_has() {
    let mut b = bench();
    b.open(9);
    b.settle();
    let read = Op::Read(fuse::request::Read { fh: 0, offset: 0, size: 4096, flags: 0, lock_owner: None });
    let first = b.ask(9, read);
    b.answer(Ok(ClientAnswer::Data(vec![1; 4096].into())));
    assert_eq!(b.reply(first), Ok(vec![1; 4096]));
    b.settle();
    b.record.cut_off = true;
    b.fs.event(b.now, Event::OutOfContact, &mut b.record);
    assert_eq!(b.record.notices, [(notice(0, 4096), After::Nothing), (notice(-1, 0), After::Nothing)]);
    let read = Op::Read(fuse::request::Read { fh: 0, offset: 0, size: 4096, flags: 0, lock_owner: None });
    let second = b.ask(9, read);
    b.record.asked.retain(|(_, op)| matches!(op, ClientOp::Read { .. }));
    b.answer(Ok(ClientAnswer::Data(vec![2; 4096].into())));
    let third = b.ask(9, write(8192, 0, false));
    b.record.asked.retain(|(_, op)| matches!(op, ClientOp::Write { .. }));
    b.answer(Ok(ClientAnswer::Done));
    b.pass(60);
    assert!(!b.replied(second) && !b.replied(third) && b.record.asked.is_empty() && b.record.sought);
    b.record.cut_off = false;
    b.pass(0);
    assert!(b.reply(third).is_ok(), "it is written, and not once more");
    assert!(!b.replied(second), "somebody else may have written since: it is read again");
    b.record.asked.retain(|(_, op)| matches!(op, ClientOp::Read { .. }));
    b.answer(Ok(ClientAnswer::Data(vec![3; 4096].into())));
    assert_eq!(b.reply(second), Ok(vec![3; 4096]));
}

#[test]
fn attributes_are_forgotten_before_somebody_else_changes_them() {
    let mut b = bench();
    let ask = |b: &mut Bench| b.ask(9, Op::Statx { fh: None, flags: 0, mask: 0xfff });
    b.record.kept = Duration::from_millis(700);
    ask(&mut b);
    b.answer_attr(file(9));
    ask(&mut b);
    assert!(b.record.asked.is_empty(), "kept");
    b.fs.event(b.now, Event::Forget { number: 5, inos: vec![InodeId(9)] }, &mut b.record);
    let attributes = Notice::InvalInode { node: 9, offset: -1, len: 0 };
    let names = (Notice::IncEpoch, After::Forgotten(5));
    assert_eq!(b.record.notices, [(attributes, After::Nothing), names]);
    assert!(b.record.asked.is_empty(), "the kernel has not dropped them yet");
    b.fs.dropped(b.now, After::Forgotten(5), &mut b.record);
    assert!(matches!(b.op(), ClientOp::Forgotten { number: 5 }));
    b.done();
    b.record.spell += 1;
    ask(&mut b);
    assert_eq!(b.meta(), MetaOp::Getattr { ino: InodeId(9) }, "asked again");
    b.answer_attr(file(9));
    b.record.kept = Duration::ZERO;
    ask(&mut b);
    assert_eq!(b.record.asked.len(), 1, "what may not be kept is not");
}
