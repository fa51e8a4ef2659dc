//! All switches of the protocol by name: the rules of replicas, sessions and leases, and those of locks in the state.

use meta_state::LockRules;
use replica::rules::Rules;

/// Which rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switches {
    /// Rules of the nodes.
    pub rules: Rules,
    /// Rules of locks.
    pub locks: LockRules,
}

impl Switches {
    /// What ships.
    pub const ALL: Switches = Switches { rules: Rules::ALL, locks: LockRules::ALL };

    /// All but one, or all; None if there is no such rule.
    pub fn without(mutant: Option<&str>) -> Option<Switches> {
        let Some(name) = mutant else { return Some(Switches::ALL) };
        let rules = Rules::without(name).map(|rules| Switches { rules, ..Switches::ALL });
        rules.or_else(|| LockRules::without(name).map(|locks| Switches { locks, ..Switches::ALL }))
    }
    /// Names of all.
    pub fn names() -> Vec<&'static str> {
        Rules::NAMES.iter().chain(LockRules::NAMES).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Switches;
    use std::collections::BTreeSet;

    #[test]
    fn each_name_switches_something_else_off() {
        let names = Switches::names();
        let all: BTreeSet<String> =
            names.iter().map(|n| format!("{:?}", Switches::without(Some(n)).unwrap())).collect();
        assert_eq!(all.len(), names.len());
        assert!(!all.contains(&format!("{:?}", Switches::ALL)));
        assert_eq!(Switches::without(Some("no such rule")), None);
    }
}
