//! Scenarios that are kept because a wording of the rules, or a mistake in the code, once fell over them.

use crate::actor::Role;
use crate::quorum::{Bug, Quorum};
use crate::scenario::Stage;
use crate::world::{MS, Verdict};

/// A script: runs with this mutant (None = the shipped rules) and says what went wrong.
pub type Script = fn(Option<&str>) -> Result<(), String>;

/// (name, what happens in it, script) of every scenario for a system.
pub fn scenarios(system: &str) -> Vec<(&'static str, &'static str, Script)> {
    match system {
        "quorum" => vec![(
            "quorum-new-then-old",
            "a value that only one server has is read, then the older one from the others",
            quorum_new_then_old as Script,
        )],
        #[cfg(feature = "cluster")]
        "cluster" => crate::cluster::scenarios::all(),
        _ => Vec::new(),
    }
}

/// Scenarios that must fail without this rule: where to look first.
pub fn finds(system: &str, mutant: &str) -> Vec<&'static str> {
    #[cfg(feature = "cluster")]
    if system == "cluster" {
        return crate::cluster::scenarios::FINDS.iter().filter(|f| f.0 == mutant).map(|f| f.1).collect();
    }
    let _ = (system, mutant);
    Vec::new()
}

fn quorum_new_then_old(mutant: Option<&str>) -> Result<(), String> {
    let bug = match mutant {
        None => None,
        Some(m) => Some(Bug::ALL.iter().find(|b| b.0 == m).ok_or_else(|| format!("no mutant `{m}`"))?.1),
    };
    let mut s = Stage::new(Quorum::new(bug), 1);
    s.run_for(100 * MS);
    let (servers, clients) = (s.world.slots_of(Role::Cs), s.world.slots_of(Role::Client));
    s.write(clients[0], 0, 0)?;
    let (writer, one) = (clients[0], servers[0]);
    let rule = s.rule(move |m| match m.msg {
        wire::Msg::Write(_) if m.from == writer && m.to != one => Verdict::Hold,
        _ => Verdict::Pass,
    });
    s.begin_write(clients[0], 0, 0)?;
    s.run_for(50 * MS);
    s.cut(clients[1], servers[2]);
    s.read(clients[1], 0, 0)?;
    s.mend(clients[1], servers[2]);
    s.cut(clients[1], servers[0]);
    s.read(clients[1], 0, 0)?;
    if s.world.held() == 0 {
        return Err("the rule held nothing: the scenario does not do what it says".into());
    }
    s.world.remove_rule(rule);
    s.world.release(true, |_, _, _| true);
    s.finish()
}
