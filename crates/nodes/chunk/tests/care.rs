//! Damage that chunk servers find and mend among themselves: by a look at everything, by a client's doubt, by comparing.

mod harness;

use harness::*;
use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, Folder};
use host::node::Input;
use types::*;
use wire::integrity::Care;
use wire::*;

/// Three servers whose copies hold blocks `0..n`, block i filled with i + 1, in the data area.
fn filled(n: u32) -> World {
    let mut w = World::new(&[1, 2, 3]);
    w.members = (1..=3).map(|i| Member { cs: CsId(i), copy: CopyId(i) }).collect();
    for i in 0..n {
        for cs in 1..=3 {
            w.tell(HOLDER, cs, Msg::Write(write(req(cs, 1, u64::from(i)), u64::from(i) + 1, i, 1, i as u8 + 1)));
        }
    }
    // All is stable, and stands in the data area: a stop in order merges.
    for cs in 1..=3 {
        w.ctl(cs, DataCtl::Stable(req(cs, 1, u64::from(n))));
        w.restart_in_order(cs);
    }
    w.run(ms(1500));
    w.take();
    w
}
/// Flips a bit in the only block of the data area that is filled with `byte`.
fn flip(w: &mut World, id: u32, byte: u8) {
    let p = w.procs.get_mut(&CsId(id)).unwrap();
    for name in ["seg-00000", "seg-00001"] {
        let Ok(f) = p.disk.open(name) else { continue };
        let size = p.disk.size(f).unwrap();
        let all = p.disk.read(f, 0, size as usize).unwrap();
        if let Some(at) = all.chunks(4096).position(|b| b.iter().all(|x| *x == byte)) {
            return p.disk.flip(name, at as u64 * 4096 + 99, 3);
        }
    }
    panic!("no such block");
}
fn scrub(w: &mut World) {
    w.scrub_run += 1;
    for _ in 0..200 {
        w.run(ms(100));
        if w.reports.values().filter(|r| r.run == w.scrub_run).count() == 3 {
            return;
        }
    }
    panic!("the look does not end: {:?}", w.reports);
}

#[test]
fn a_look_finds_and_mends_from_others() {
    let mut w = filled(40);
    scrub(&mut w);
    let clean = w.reports[&CsId(1)];
    assert_eq!(
        (clean.found, clean.lost, clean.rewritten, clean.given_up, clean.differing),
        (0, 0, 0, 0, 0),
        "{clean:?}"
    );
    assert!(clean.checked >= 40 && clean.compared == 1, "{clean:?}");
    for byte in [3, 4, 17, 39] {
        flip(&mut w, 1, byte);
    }
    flip(&mut w, 2, 5);
    scrub(&mut w);
    w.run(ms(6000));
    let (a, b) = (w.reports[&CsId(1)], w.reports[&CsId(2)]);
    assert_eq!((a.found, a.mended, a.lost, a.pending), (4, 4, 0, 0), "{a:?}");
    assert_eq!((b.found, b.mended, b.lost), (1, 1, 0), "{b:?}");
    assert!(w.news.iter().any(|n| n.contains("4 damaged blocks")), "{:?}", w.news);
    assert_eq!(w.bytes(1, req(1, 1, 40), 0, 40), (1..=40).collect::<Vec<u8>>());
    scrub(&mut w);
    assert_eq!(w.reports[&CsId(1)].found, 4, "nothing new");
}

#[test]
fn a_doubt_of_a_client_is_looked_into() {
    let mut w = filled(20);
    flip(&mut w, 3, 9);
    let doubt = |offset, length| Msg::Care(Care::Doubt { chunk: CHUNK, offset, length });
    w.tell(HOLDER, 3, doubt(8 * BLOCK, BLOCK));
    w.run(ms(2000));
    assert_eq!((w.reports[&CsId(3)].found, w.reports[&CsId(3)].mended), (1, 1));
    assert_eq!(w.bytes(3, req(3, 1, 20), 8, 1), [9]);
    // One without a reason, one for nothing, one beyond all bounds.
    w.tell(HOLDER, 3, doubt(8 * BLOCK, BLOCK));
    w.tell(HOLDER, 3, doubt(900 * BLOCK, BLOCK));
    w.tell(HOLDER, 3, doubt(u32::MAX, u32::MAX));
    w.run(ms(2000));
    assert_eq!(w.reports[&CsId(3)].found, 1);
}

#[test]
fn a_damaged_block_anywhere_in_what_another_server_fetches_is_mended() {
    let mut w = filled(40);
    flip(&mut w, 3, 37);
    let to = CopyId(9);
    w.ctl(3, DataCtl::CopyRead { req: req(3, 1, 40), to, id: 1, offset: 0, length: 40 * BLOCK });
    w.run(ms(2000));
    assert_eq!((w.reports[&CsId(3)].found, w.reports[&CsId(3)].mended), (1, 1));
    assert_eq!(w.bytes(3, req(3, 1, 40), 36, 1), [37]);
}

#[test]
fn what_all_have_damaged_is_lost_and_said_so_until_it_is_written_again() {
    let mut w = filled(20);
    for cs in 1..=3 {
        flip(&mut w, cs, 9);
    }
    scrub(&mut w);
    for cs in 1..=3 {
        let r = w.reports[&CsId(cs)];
        assert_eq!((r.found, r.mended, r.lost, r.given_up), (1, 0, 1, 0), "{r:?}");
    }
    w.run(ms(1500));
    assert!(w.news.iter().any(|n| n.starts_with("LOST: 1 blocks of chunk")), "{:?}", w.news);
    // Nothing right is handed out, and nothing is invented.
    w.ctl(1, DataCtl::Read { req: req(1, 1, 20), id: 9, offset: 8 * BLOCK, length: BLOCK });
    let read = w.take().into_iter().find_map(|x| if let Msg::Read(m) = x.2 { Some(m) } else { None }).unwrap();
    assert_ne!(checksum::crc32c(&read.payload), read.crcs[0]);
    for cs in 1..=3 {
        w.tell(HOLDER, cs, Msg::Write(write(req(cs, 1, 20), 21, 8, 1, 77)));
    }
    w.run(ms(120_000));
    for cs in 1..=3 {
        assert_eq!((w.reports[&CsId(cs)].lost, w.reports[&CsId(cs)].overtaken), (0, 1));
        assert_eq!(w.bytes(cs, req(cs, 1, 21), 8, 1), [77]);
    }
}

#[test]
fn a_member_that_comes_back_ends_a_loss() {
    let mut w = filled(20);
    w.cut = vec![CsId(2), CsId(3)];
    flip(&mut w, 1, 9);
    w.scrub_run += 1;
    w.run(ms(20_000));
    let r = w.reports[&CsId(1)];
    assert_eq!((r.found, r.mended, r.lost, r.run), (1, 0, 0, 0), "silent members say nothing: {r:?}");
    w.cut.clear();
    w.run(ms(70_000));
    let r = w.reports[&CsId(1)];
    assert_eq!((r.mended, r.pending, r.run), (1, 0, w.scrub_run), "{r:?}");
}

#[test]
fn a_copy_with_content_that_nobody_else_has_is_given_up_when_it_is_damaged() {
    let mut w = filled(20);
    // A stale block with a map that went stale too: server 2 holds another content at the same record.
    w.tell(HOLDER, 1, Msg::Write(write(req(1, 1, 20), 21, 8, 1, 50)));
    w.tell(HOLDER, 2, Msg::Write(write(req(2, 1, 20), 21, 8, 1, 60)));
    w.tell(HOLDER, 3, Msg::Write(write(req(3, 1, 20), 21, 8, 1, 50)));
    for cs in 1..=3 {
        w.ctl(cs, DataCtl::Stable(req(cs, 1, 21)));
    }
    let mut odd = w;
    // Whole, it is found by comparing with the others.
    scrub(&mut odd);
    odd.run(ms(3000));
    let given_up: Vec<u64> = (1..=3).map(|i| odd.reports[&CsId(i)].given_up).collect();
    assert_eq!(given_up, [0, 1, 0], "{:?}", odd.reports);
    assert!(odd.copy(2).unclean && !odd.copy(1).unclean && !odd.copy(3).unclean);
    assert!(odd.news.iter().any(|n| n.contains("the copy is given up")), "{:?}", odd.news);

    // Damaged as well, no member can give it what it wants.
    let mut w = filled(20);
    w.members.truncate(2);
    w.tell(HOLDER, 1, Msg::Write(write(req(1, 1, 20), 21, 8, 1, 50)));
    w.tell(HOLDER, 2, Msg::Write(write(req(2, 1, 20), 21, 8, 1, 60)));
    for cs in 1..=2 {
        w.ctl(cs, DataCtl::Stable(req(cs, 1, 21)));
        w.restart_in_order(cs);
    }
    w.run(ms(1500));
    flip(&mut w, 2, 60);
    w.tell(HOLDER, 2, Msg::Care(Care::Doubt { chunk: CHUNK, offset: 8 * BLOCK, length: BLOCK }));
    w.run(ms(60_000));
    assert!(w.copy(2).unclean && !w.copy(1).unclean, "{:?}", w.reports);
}

#[test]
fn two_copies_that_differ_are_told_and_nothing_is_chosen() {
    let mut w = filled(4);
    w.members.truncate(2);
    w.tell(HOLDER, 1, Msg::Write(write(req(1, 1, 4), 5, 2, 1, 50)));
    w.tell(HOLDER, 2, Msg::Write(write(req(2, 1, 4), 5, 2, 1, 60)));
    for cs in 1..=2 {
        w.ctl(cs, DataCtl::Stable(req(cs, 1, 5)));
    }
    scrub(&mut w);
    scrub(&mut w);
    w.run(ms(2000));
    let told = w.news.iter().filter(|n| n.contains("no majority agrees")).count();
    assert_eq!((told, w.reports[&CsId(1)].differing), (1, 2), "{:?}", w.news);
    assert!(!w.copy(1).unclean && !w.copy(2).unclean);
}

#[test]
fn a_tail_is_no_difference() {
    let mut w = filled(4);
    w.tell(HOLDER, 1, Msg::Write(write(req(1, 1, 4), 5, 2, 1, 50)));
    scrub(&mut w);
    let r = w.reports[&CsId(1)];
    assert_eq!((r.compared, r.differing), (0, 0), "{r:?}");
}

#[test]
fn the_look_goes_on_behind_a_restart() {
    let mut w = filled(40);
    scrub(&mut w);
    let passes = w.reports[&CsId(1)].passes;
    w.restart_in_order(1);
    w.run(ms(3000));
    let r = w.reports[&CsId(1)];
    assert_eq!((r.run, r.passes), (1, passes), "it knows that this look is complete: {r:?}");
}

#[test]
fn a_failed_flush_ends_one_server_with_its_cause_and_the_others_go_on() {
    let mut w = filled(4);
    let durable = |cs: u32, seq: u64| {
        let mut m = write(req(cs, 1, 4), seq, 9, 1, 70);
        m.header.flags |= flags::DURABLE;
        Msg::Write(m)
    };
    w.hold_disks = true;
    w.tell(HOLDER, 1, durable(1, 5));
    // Everything but the flush succeeds.
    for _ in 0..100 {
        let Some((tag, op)) = w.procs.get_mut(&CsId(1)).unwrap().ops.pop_front() else { break };
        let done = match op {
            DiskOp::Flush { .. } => {
                let detail = "flush of `journal`: Input/output error".into();
                DiskDone::Failed(DiskError { kind: DiskErrorKind::Io, detail })
            }
            op => w.procs.get_mut(&CsId(1)).unwrap().disk.run(op),
        };
        w.give(CsId(1), Input::Disk(tag, done));
    }
    w.hold_disks = false;
    w.pump();
    let fatal = w.procs[&CsId(1)].fatal.clone().expect("it ends");
    assert!(fatal.contains("Input/output error"), "{fatal}");
    assert!(
        w.news.iter().any(|n| n.contains("Input/output error") && n.contains("chunk server 1 ends")),
        "{:?}",
        w.news
    );
    assert!(w.acks().iter().all(|a| a.last < Seq(5)), "what is not durable was not answered");
    for cs in 2..=3 {
        w.tell(HOLDER, cs, durable(cs, 5));
        assert_eq!(w.ack().last, Seq(5));
        assert_eq!(w.bytes(cs, req(cs, 1, 4), 9, 1), [70]);
    }
}

/// Asks server `cs` for a look at [`CHUNK`] until it ended.
fn inspect(w: &mut World, cs: u32, id: u64) -> integrity::ChunkLook {
    for _ in 0..100 {
        w.tell(HOLDER, cs, Msg::Care(Care::Inspect { chunk: CHUNK, id }));
        let said = |x: (CsId, NodeId, Msg)| match x.2 {
            Msg::Care(Care::Inspected { id: i, look, .. }) if i == id => Some(look),
            _ => None,
        };
        let look = w.take().into_iter().find_map(said).expect("every question is answered");
        if look.ended {
            return look;
        }
        w.run(ms(200));
    }
    panic!("the look does not end");
}

#[test]
fn a_look_at_one_chunk_counts_what_it_found_and_mended_alone() {
    use integrity::Compared::{Elsewhere, Same};
    let mut w = filled(40);
    flip(&mut w, 2, 30);
    assert_eq!(inspect(&mut w, 2, 1).found, 1, "an earlier look, which the next one does not count");
    for byte in [3, 4, 39] {
        flip(&mut w, 1, byte);
    }
    flip(&mut w, 2, 5);
    let looks: Vec<_> = (1..=3).map(|cs| inspect(&mut w, cs, 7)).collect();
    let counts: Vec<_> = looks.iter().map(|l| (l.found, l.mended, l.lost, l.pending, l.given_up)).collect();
    assert_eq!(counts, [(3, 3, 0, 0, false), (1, 1, 0, 0, false), (0, 0, 0, 0, false)]);
    assert!(looks.iter().all(|l| l.checked >= 36), "what was mended before stands in the journal: {looks:?}");
    assert_eq!(looks.iter().map(|l| l.compared).collect::<Vec<_>>(), [Same, Elsewhere, Elsewhere]);
    assert_eq!(w.bytes(1, req(1, 1, 40), 0, 40), (1..=40).collect::<Vec<u8>>());
    // Nobody asks any more: nothing of it is left to do, and the number means another look.
    w.run(ms(60_000));
    assert_eq!(inspect(&mut w, 1, 7).found, 0);
}

#[test]
fn a_look_at_one_chunk_says_what_is_lost_and_waits_for_members_that_are_silent() {
    let mut w = filled(20);
    flip(&mut w, 1, 9);
    w.cut = vec![CsId(2), CsId(3)];
    w.tell(HOLDER, 1, Msg::Care(Care::Inspect { chunk: CHUNK, id: 1 }));
    for _ in 0..32 {
        w.run(ms(500));
        w.tell(HOLDER, 1, Msg::Care(Care::Inspect { chunk: CHUNK, id: 1 }));
    }
    let open = w.take().into_iter().rev().find_map(|x| match x.2 {
        Msg::Care(Care::Inspected { look, .. }) => Some(look),
        _ => None,
    });
    let open = open.unwrap();
    assert_eq!((open.found, open.pending, open.lost, open.ended), (1, 1, 0, false));
    assert_eq!(open.compared, integrity::Compared::NotNow);
    w.cut.clear();
    assert_eq!(inspect(&mut w, 1, 1).mended, 1);
    for cs in 1..=3 {
        flip(&mut w, cs, 10);
    }
    let all: Vec<_> = (1..=3).map(|cs| inspect(&mut w, cs, 2)).map(|l| (l.found, l.mended, l.lost)).collect();
    assert_eq!(all, [(1, 0, 1); 3]);
}

#[test]
fn a_look_at_what_is_not_here_ends_and_too_many_are_told_to_ask_again() {
    let mut w = filled(4);
    let mut ask = |chunk, id| {
        w.send(HOLDER, 1, Msg::Care(Care::Inspect { chunk, id }));
        w.pump();
        w.take().into_iter().find_map(|x| match x.2 {
            Msg::Care(Care::Inspected { look, .. }) => Some(look),
            _ => None,
        })
    };
    let absent = ask(ChunkId(999), 1).unwrap();
    assert!(absent.ended && absent.given_up && absent.copy == CopyId::NONE);
    w.hold_disks = true;
    for id in 0..300 {
        w.send(HOLDER, 1, Msg::Care(Care::Inspect { chunk: CHUNK, id }));
    }
    w.pump();
    let queued = |m: &Msg| matches!(m, Msg::Care(Care::Inspected { look, .. }) if look.queued && !look.ended);
    assert_eq!(w.take().iter().filter(|x| queued(&x.2)).count(), 300 - 64);
    w.hold_disks = false;
    w.run(ms(15_000));
    assert_eq!(inspect(&mut w, 1, 1000).found, 0);
}
