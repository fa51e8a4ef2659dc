//! What mounts that do nothing cost the one that works: not a message.
#![cfg(feature = "cluster")]

use sim::actor::{AppAnswer, AppOp, NameOp, Role};
use sim::cluster::{Cluster, Shape};
use sim::coverage::kind;
use sim::scenario::Stage;
use sim::world::{MS, S, Verdict};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

type Counts = BTreeMap<&'static str, u32>;

/// Messages that keep a session, and with it nothing else, alive.
const SESSION: [&str; 2] = ["Renew", "RenewOk"];

/// Messages of the first client while it works on files of its own, by kind, and those of all others at the same time. Each
/// of the others has written a file before, and keeps it.
fn messages(clients: u32) -> Result<(Counts, Counts), String> {
    let shape = Shape { clients, files: clients, ..Shape::default() };
    let mut stage = Stage::new(Cluster::new(shape), 7);
    let slots = stage.world.slots_of(Role::Client);
    stage.run_for(2 * S);
    for (file, slot) in (0..).zip(&slots) {
        stage.write(*slot, file, 0)?;
    }
    stage.run_for(2 * S);
    let (mine, others) = (Rc::new(RefCell::new(Counts::new())), Rc::new(RefCell::new(Counts::new())));
    let (m, o, active) = (Rc::clone(&mine), Rc::clone(&others), slots[0]);
    stage.rule(move |e| {
        let of = |slot| e.from == slot || e.to == slot;
        let counts = if of(active) { Some(&m) } else { slots.iter().any(|s| of(*s)).then_some(&o) };
        if let Some(c) = counts {
            *c.borrow_mut().entry(kind(e.msg)).or_default() += 1;
        }
        Verdict::Pass
    });
    for n in 0..40 {
        let ops = [
            AppOp::Name(NameOp::Create { dir: 0, name: n }),
            AppOp::Write { file: 0, block: n, values: vec![1_000_000 + u64::from(n)], buffered: false },
            AppOp::Read { file: 0, block: n, count: 1 },
            AppOp::Name(NameOp::Find { dir: 0, name: n }),
            AppOp::Flush { file: 0 },
        ];
        for op in ops {
            let index = stage.begin(active, op.clone())?;
            if let AppAnswer::Failed(why) = stage.wait(index)? {
                return Err(format!("{op:?}: {why}"));
            }
            // What follows an operation goes out before the next one.
            stage.run_for(100 * MS);
        }
    }
    let without_session = |c: &RefCell<Counts>| {
        let all = c.borrow().clone();
        all.into_iter().filter(|(kind, _)| !SESSION.contains(kind)).collect()
    };
    Ok((without_session(&mine), without_session(&others)))
}

#[test]
fn ten_idle_mounts_cost_no_message() {
    let (alone, nobody) = messages(1).unwrap();
    let (beside, idle) = messages(11).unwrap();
    println!("{alone:?}");
    assert_eq!((nobody, idle), (Counts::new(), Counts::new()), "who does nothing hears nothing");
    assert_eq!(alone, beside, "who works sends and hears the same");
    assert!(alone.values().sum::<u32>() > 400, "{alone:?}");
}
