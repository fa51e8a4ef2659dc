//! Changes that come while a unit is merged, at every moment of it.

mod bench;
use bench::{Bench, CHUNK};
use chunk_store::{Done, Effects, Extent, Ticket};

fn zeros(b: &mut Bench, block: u32, fx: &mut Effects) {
    let e = Extent { offset: block * 4096, length: 4096, crcs: vec![], payload: None };
    b.store.patch(Ticket(9), CHUNK, None, vec![e], true, fx).unwrap();
}

/// Block 1 goes with a merge that moves its unit to a shorter place. Zeros written once more while that is under way keep
/// what stands at the old place hidden.
#[test]
fn zeros_stay_while_their_unit_moves() {
    let mut moments = 0;
    for moment in 0.. {
        let mut b = Bench::new(1 << 20);
        b.write(0, 4, 7);
        b.checkpoint();
        let mut fx = Effects::default();
        zeros(&mut b, 1, &mut fx);
        b.run(|_, f| *f = std::mem::take(&mut fx));
        b.store.checkpoint(Ticket(3), &mut fx).unwrap();
        let mut ops = std::collections::VecDeque::new();
        for _ in 0..moment {
            ops.extend(fx.ops.drain(..));
            let Some((tag, op)) = ops.pop_front() else { break };
            let done = b.disk.run(op);
            b.store.complete(tag, done, &mut fx);
        }
        if fx.done.iter().any(|d| d.0 == Ticket(3)) {
            break;
        }
        zeros(&mut b, 1, &mut fx);
        ops.extend(fx.ops.drain(..));
        assert_eq!(b.first_bytes(0, 4), [7, 0, 7, 7], "after {moment} operations");
        fx.ops.extend(ops);
        let done = b.run(|_, f| *f = fx);
        assert!(done.iter().all(|d| *d == Done::Ok), "{done:?}");
        assert_eq!(b.first_bytes(0, 4), [7, 0, 7, 7], "after {moment} operations and all the others");
        moments += 1;
    }
    assert!(moments > 5);
}
