//! Switches for rules of the namespace, all on in the product. Tests turn one off at a time and must then find a
//! difference: a rule that nobody misses is not tested.

/// Names of all rules, as [`crate::State::switch_off`] takes them.
pub const NAME_RULES: [&str; 11] = [
    "subdirectories count as links",
    "orphans are kept",
    "an exchange tells both who stands above",
    "extended attributes go with their inode",
    "a truncation begins a generation",
    "a truncation leaves a range to zero",
    "groups are inherited",
    "a new owner takes privileges away",
    "no directory stands below itself",
    "a link is a change",
    "two names of one inode stay two",
];

/// Which rules hold, in the order of [`NAME_RULES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    pub subdirectories: bool,
    pub orphans: bool,
    pub exchange: bool,
    pub attributes: bool,
    pub generations: bool,
    pub zero_ranges: bool,
    pub groups: bool,
    pub privileges: bool,
    pub tree: bool,
    pub link_changes: bool,
    pub two_names: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            subdirectories: true,
            orphans: true,
            exchange: true,
            attributes: true,
            generations: true,
            zero_ranges: true,
            groups: true,
            privileges: true,
            tree: true,
            link_changes: true,
            two_names: true,
        }
    }
}

impl Rules {
    /// All but one; False: there is no such rule.
    pub fn switch_off(&mut self, rule: &str) -> bool {
        let switches = [
            &mut self.subdirectories,
            &mut self.orphans,
            &mut self.exchange,
            &mut self.attributes,
            &mut self.generations,
            &mut self.zero_ranges,
            &mut self.groups,
            &mut self.privileges,
            &mut self.tree,
            &mut self.link_changes,
            &mut self.two_names,
        ];
        let Some(at) = NAME_RULES.iter().position(|r| *r == rule) else { return false };
        *switches[at] = false;
        true
    }
}
