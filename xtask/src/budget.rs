//! Minutes each step of `ci` may take: the file .ci/budget.toml, lines of `step = minutes`.

use std::collections::BTreeMap;
use std::path::Path;

/// Most minutes all steps may have together.
pub const SUM_MAX: f64 = 30.0;
/// Where the file lies, from the workspace.
pub const FILE: &str = ".ci/budget.toml";

/// Minutes by step.
#[derive(Debug)]
pub struct Budget(BTreeMap<String, f64>);

impl Budget {
    /// Reads the file of the workspace at `root`; `steps` are the names it must have, no more and no fewer.
    pub fn read(root: &Path, steps: &[&str]) -> Result<Budget, String> {
        let text = std::fs::read_to_string(root.join(FILE)).map_err(|e| format!("{FILE}: {e}"))?;
        Self::parse(&text, steps)
    }
    fn parse(text: &str, steps: &[&str]) -> Result<Budget, String> {
        let mut minutes = BTreeMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() || line == "[minutes]" {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| format!("{FILE}:{}: expected `step = minutes`", i + 1))?;
            let (name, value) = (name.trim(), value.trim());
            let value: f64 = value.parse().map_err(|_| format!("{FILE}:{}: `{value}` is not a number", i + 1))?;
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("{FILE}:{}: {name} must have more than no time", i + 1));
            }
            if !steps.contains(&name) {
                return Err(format!("{FILE}:{}: no step is called `{name}`; steps are {}", i + 1, steps.join(", ")));
            }
            if minutes.insert(name.to_string(), value).is_some() {
                return Err(format!("{FILE}:{}: {name} stands there twice", i + 1));
            }
        }
        if let Some(step) = steps.iter().find(|s| !minutes.contains_key(**s)) {
            return Err(format!("{FILE}: the step {step} has no minutes; add `{step} = N`"));
        }
        let sum: f64 = minutes.values().sum();
        if sum > SUM_MAX {
            return Err(format!("{FILE}: {sum} minutes together; {SUM_MAX} are allowed, so take some away"));
        }
        Ok(Budget(minutes))
    }
    /// Minutes of a step.
    pub fn minutes(&self, step: &str) -> Option<f64> {
        self.0.get(step).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_and_thirty_minutes() {
        let steps = ["a", "b"];
        let b = Budget::parse("# x\n[minutes]\na = 20 # long\nb = 10\n", &steps).unwrap();
        assert_eq!((b.minutes("a"), b.minutes("c")), (Some(20.0), None));
        let wrong = |text: &str| Budget::parse(text, &steps).unwrap_err();
        assert!(wrong("a = 20\nb = 10.5\n").contains("30.5 minutes"));
        assert!(wrong("a = 20\n").contains("step b has no minutes"));
        assert!(wrong("a = 1\nb = 1\nc = 1\n").contains("no step is called `c`"));
        assert!(wrong("a = 1\na = 1\nb = 1\n").contains("twice"));
        assert!(wrong("a = 1\nb = 0\n").contains("more than no time"));
        assert!(wrong("a = 1\nb = NaN\n").contains("more than no time"));
        assert!(wrong("a: 1\n").contains("expected"));
    }

    #[test]
    fn the_file_of_the_workspace_is_right() {
        Budget::read(&crate::root(), &crate::ci::steps()).unwrap();
    }
}
