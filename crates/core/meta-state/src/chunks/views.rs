//! Changes of views: every one raises the version, none leaves fewer than `min` members, no copy id comes twice.

use super::alloc::mint;
use super::index::Chunks;
use super::record::{ChunkRecord, get, tombstones_of};
use super::servers::is_known;
use crate::command::ViewChange;
use crate::kv::Kv;
use crate::outcome::{ViewRefusal, ViewResult};
use crate::table;
use types::{ChunkId, CsId, Member, View, ViewVer};

enum No {
    BelowMin,
    Because(ViewRefusal),
}

/// What a change does besides the view itself.
#[derive(Default)]
struct Effects {
    /// Copies not needed any more.
    bury: Vec<Member>,
    /// Servers whose older copies of the chunk were overwritten.
    overwritten: Vec<CsId>,
}

impl Chunks {
    /// Changes the view of a chunk at log index `index`, if its version is `ver` and the change fits.
    pub fn change_view<K: Kv>(
        &mut self,
        kv: &mut K,
        chunk: ChunkId,
        ver: ViewVer,
        change: &ViewChange,
        index: u64,
    ) -> ViewResult {
        let Some(before) = get(kv, chunk) else { return ViewResult::Gone };
        if before.view.ver != ver {
            return ViewResult::Stale(before.view);
        }
        let mut after = before.clone();
        let effects = match changed(kv, &mut after, change) {
            Ok(e) => e,
            Err(No::BelowMin) => return ViewResult::BelowMin(before.view),
            Err(No::Because(why)) => return ViewResult::Refused(before.view, why),
        };
        self.write(kv, chunk, Some(&before), &after);
        for m in effects.bury {
            self.bury(kv, chunk, m, index);
        }
        for cs in effects.overwritten {
            table::delete_prefix(kv, &tombstones_of(cs, chunk));
        }
        ViewResult::Ok(after.view)
    }
}

fn changed<K: Kv>(kv: &K, c: &mut ChunkRecord, change: &ViewChange) -> Result<Effects, No> {
    let why = |x| Err(No::Because(x));
    let Some(ver) = c.view.ver.0.checked_add(1) else { return why(ViewRefusal::Exhausted) };
    let mut effects = Effects::default();
    match change {
        ViewChange::Drop(m) => {
            if !c.view.has(*m) {
                return why(ViewRefusal::NotMember(*m));
            }
            if c.view.members.len() <= usize::from(c.min) {
                return Err(No::BelowMin);
            }
            c.view.members.retain(|x| x != m);
            effects.bury.push(*m);
        }
        ViewChange::JoinBegin(cs) => {
            if let Some(j) = c.view.joiner {
                return why(ViewRefusal::HasJoiner(j));
            }
            if !is_known(kv, *cs) {
                return why(ViewRefusal::UnknownServer(*cs));
            }
            if c.view.on(*cs).is_some() {
                return why(ViewRefusal::ServerTaken(*cs));
            }
            let Some(copy) = mint(c) else { return why(ViewRefusal::Exhausted) };
            c.view.joiner = Some(Member { cs: *cs, copy });
        }
        ViewChange::JoinCommit(m) => {
            if c.view.joiner != Some(*m) {
                return why(ViewRefusal::NotJoiner(*m));
            }
            c.view.joiner = None;
            c.view.members.push(*m);
            effects.overwritten.push(m.cs);
        }
        ViewChange::JoinCancel(m) => {
            if c.view.joiner != Some(*m) {
                return why(ViewRefusal::NotJoiner(*m));
            }
            c.view.joiner = None;
            effects.bury.push(*m);
        }
        ViewChange::Replace { drop, add } => {
            for (i, m) in drop.iter().enumerate() {
                if !c.view.has(*m) || drop[..i].contains(m) {
                    return why(ViewRefusal::NotMember(*m));
                }
            }
            let joiner = c.view.joiner;
            if let Some(m) = add.iter().find(|m| joiner.is_some_and(|j| j.cs == m.cs)) {
                return why(ViewRefusal::ServerTaken(m.cs));
            }
            swap(kv, c, drop, add, &mut effects)?;
        }
        ViewChange::Crown { survivors } => {
            if !survivors.iter().any(|m| c.view.on(m.cs).is_some()) {
                return why(ViewRefusal::NoHeir);
            }
            let old = c.view.members.clone();
            let joiner = c.view.joiner;
            swap(kv, c, &old, survivors, &mut effects)?;
            if let Some(j) = joiner {
                c.view.joiner = None;
                if c.view.on(j.cs).is_none() {
                    effects.bury.push(j);
                }
            }
        }
    }
    c.view.ver = ViewVer(ver);
    Ok(effects)
}

/// `drop` are members, each once. Takes them out and `add` in.
fn swap<K: Kv>(kv: &K, c: &mut ChunkRecord, drop: &[Member], add: &[Member], effects: &mut Effects) -> Result<(), No> {
    let why = |x| Err(No::Because(x));
    let old: View = c.view.clone();
    c.view.members.retain(|m| !drop.contains(m));
    for m in add {
        if !is_known(kv, m.cs) {
            return why(ViewRefusal::UnknownServer(m.cs));
        }
        if c.view.on(m.cs).is_some() {
            return why(ViewRefusal::ServerTaken(m.cs));
        }
        // A server never goes back to a lower copy id.
        let had = old.on(m.cs).into_iter().chain(old.joiner.filter(|j| j.cs == m.cs)).map(|x| x.copy).max();
        match c.minted.iter().position(|x| *x == m.copy) {
            Some(at) if had.is_none_or(|x| x < m.copy) => c.minted.remove(at),
            _ => return why(ViewRefusal::NotMinted(*m)),
        };
        c.view.members.push(*m);
        effects.overwritten.push(m.cs);
    }
    if c.view.members.len() < usize::from(c.min) {
        return Err(No::BelowMin);
    }
    // A copy whose server got a newer one is overwritten by it.
    effects.bury.extend(drop.iter().filter(|m| c.view.on(m.cs).is_none()));
    Ok(())
}
