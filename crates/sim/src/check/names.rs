//! Are namespace operations carried out exactly once? One directory is used by one client at a time, one operation after
//! the other, so a model knows every outcome, except for operations cut off by the client's death: those may take effect
//! at any later time or never, and the model follows all possibilities.

use crate::actor::{AppAnswer, AppOp, NameAnswer, NameOp};
use crate::history::History;
use std::collections::{BTreeMap, BTreeSet};

/// Possibilities followed at most; beyond it nothing more is said about a directory.
const STATES_MAX: usize = 4_096;

/// One possible state: names with their identities (0 = not known yet) and unanswered operations that may still happen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct State {
    names: BTreeMap<u32, u64>,
    late: Vec<NameOp>,
}

impl State {
    /// Carries `op` out; identity 0 for a created file.
    fn apply(&mut self, op: NameOp) -> NameAnswer {
        match op {
            NameOp::Create { name, .. } => match self.names.contains_key(&name) {
                true => NameAnswer::Exists,
                false => {
                    self.names.insert(name, 0);
                    NameAnswer::Done(0)
                }
            },
            NameOp::Remove { name, .. } => match self.names.remove(&name) {
                Some(_) => NameAnswer::Done(0),
                None => NameAnswer::Missing,
            },
            NameOp::Rename { name, to, .. } => match (self.names.get(&name).copied(), self.names.contains_key(&to)) {
                (None, _) => NameAnswer::Missing,
                (Some(_), true) => NameAnswer::Exists,
                (Some(id), false) => {
                    self.names.remove(&name);
                    self.names.insert(to, id);
                    NameAnswer::Done(0)
                }
            },
            NameOp::Find { name, .. } => match self.names.get(&name) {
                Some(id) => NameAnswer::Done(*id),
                None => NameAnswer::Missing,
            },
            NameOp::Replace { name, to, .. } => match self.names.remove(&name) {
                Some(id) => {
                    self.names.insert(to, id);
                    NameAnswer::Done(0)
                }
                None => NameAnswer::Missing,
            },
            NameOp::Exchange { name, to, .. } => match (self.names.get(&name).copied(), self.names.get(&to).copied()) {
                (Some(a), Some(b)) => {
                    self.names.extend([(name, b), (to, a)]);
                    NameAnswer::Done(0)
                }
                _ => NameAnswer::Missing,
            },
            NameOp::Tmp { .. } | NameOp::Lose { .. } => NameAnswer::Done(0),
        }
    }
    /// Carries `op` out and compares with the answer; false = it cannot have been given in this state.
    fn agrees(&mut self, op: NameOp, answer: NameAnswer) -> bool {
        match (self.apply(op), answer) {
            (NameAnswer::Done(known), NameAnswer::Done(told)) => {
                let (NameOp::Create { name, .. } | NameOp::Find { name, .. }) = op else { return true };
                if told != 0 && known == 0 {
                    self.names.insert(name, told);
                }
                known == 0 || told == 0 || known == told
            }
            (a, b) => a == b,
        }
    }
}

/// Every state that unanswered operations may lead to from these.
fn with_late(states: BTreeSet<State>) -> BTreeSet<State> {
    let mut all = states.clone();
    let mut work: Vec<State> = states.into_iter().collect();
    while let Some(s) = work.pop() {
        for i in 0..s.late.len() {
            let mut t = s.clone();
            let op = t.late.remove(i);
            t.apply(op);
            if all.len() < STATES_MAX && all.insert(t.clone()) {
                work.push(t);
            }
        }
    }
    all
}

/// Checks every directory; the error names the first operation whose answer no possibility explains, and its number.
pub fn check(history: &History) -> Result<(), (usize, String)> {
    let mut dirs: BTreeMap<u32, Option<BTreeSet<State>>> = BTreeMap::new();
    for (index, r) in history.records.iter().enumerate() {
        let AppOp::Name(op) = r.op else { continue };
        let Some(dir) = op.dir() else { continue };
        let entry = dirs.entry(dir).or_insert_with(|| Some(BTreeSet::from([State::default()])));
        let Some(states) = entry.take() else { continue };
        let states = match &r.end {
            Some((_, AppAnswer::Name(answer))) => {
                let now: BTreeSet<State> =
                    with_late(states).into_iter().filter_map(|mut s| s.agrees(op, *answer).then_some(s)).collect();
                if now.is_empty() {
                    return Err((index, format!("{op:?} was answered {answer:?}, which nothing explains")));
                }
                now
            }
            // Finding a name changes none, and a file without one has none.
            _ if matches!(op, NameOp::Find { .. } | NameOp::Tmp { .. }) => states,
            _ => states
                .into_iter()
                .map(|mut s| {
                    s.late.push(op);
                    s
                })
                .collect(),
        };
        *entry = (states.len() < STATES_MAX).then_some(states);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::SlotId;
    use crate::history::Record;

    fn history(ops: &[(NameOp, Option<NameAnswer>)]) -> History {
        let record = |(i, (op, a)): (usize, &(NameOp, Option<NameAnswer>))| Record {
            slot: SlotId(0),
            life: 1,
            op: AppOp::Name(*op),
            start: i as u64,
            end: a.map(|a| (i as u64, AppAnswer::Name(a))),
        };
        History { records: ops.iter().enumerate().map(record).collect(), ..History::default() }
    }

    #[test]
    fn a_repeated_create_and_a_lost_one_are_found() {
        use NameAnswer::{Done, Exists, Missing};
        let create = NameOp::Create { dir: 1, name: 5 };
        let find = NameOp::Find { dir: 1, name: 5 };
        let remove = NameOp::Remove { dir: 1, name: 5 };
        let ok = |ops: &[_]| check(&history(ops)).is_ok();
        assert!(ok(&[(create, Some(Done(7))), (find, Some(Done(7))), (remove, Some(Done(0))), (find, Some(Missing))]));
        assert!(!ok(&[(create, Some(Exists))]), "carried out twice, the second time answered");
        assert!(!ok(&[(create, Some(Done(7))), (find, Some(Missing))]), "lost");
        assert!(!ok(&[(create, Some(Done(7))), (find, Some(Done(8)))]), "another file");
        assert!(ok(&[(create, None), (find, Some(Missing)), (find, Some(Done(9))), (find, Some(Done(9)))]));
        assert!(!ok(&[(create, None), (find, Some(Done(9))), (find, Some(Missing))]), "happened and is gone");
        let rename = NameOp::Rename { dir: 1, name: 5, to: 6 };
        assert!(ok(&[(create, Some(Done(7))), (rename, None), (find, Some(Missing)), (create, Some(Done(8)))]));
        assert!(!ok(&[(rename, Some(Done(0)))]));
        let other = NameOp::Create { dir: 1, name: 6 };
        let swap = NameOp::Exchange { dir: 1, name: 5, to: 6 };
        let two = [(create, Some(Done(7))), (other, Some(Done(8))), (swap, Some(Done(0)))];
        assert!(ok(&[&two[..], &[(find, Some(Done(8)))]].concat()));
        assert!(!ok(&[&two[..], &[(find, Some(Done(7)))]].concat()), "swapped twice");
        assert!(!ok(&[(create, Some(Done(7))), (swap, Some(Done(0)))]));
        let over = NameOp::Replace { dir: 1, name: 6, to: 5 };
        assert!(ok(&[&two[..2], &[(over, Some(Done(0))), (find, Some(Done(8))), (over, Some(Missing))]].concat()));
    }
}
