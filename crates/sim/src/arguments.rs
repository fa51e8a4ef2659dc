//! Words of the command line: a command, `--name value` pairs and `--name` switches.

use std::collections::BTreeMap;

const VALUES: [&str; 10] = ["images", "clocks", "only", "count", "first", "jobs", "mutant", "seed", "limit", "system"];
const SWITCHES: [&str; 5] = ["trace", "stop", "coverage", "json", "damage"];

/// A parsed command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// What to do.
    pub command: String,
    values: BTreeMap<String, String>,
}

impl Arguments {
    /// Reads the words after the program's name. The error names the word that is wrong.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut words = words.peekable();
        let command = words.next().ok_or("no command")?;
        let mut values = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("`{word}` is not an option"))?;
            if SWITCHES.contains(&name) {
                values.insert(name.to_string(), String::new());
            } else if VALUES.contains(&name) {
                let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
                values.insert(name.to_string(), value);
            } else {
                return Err(format!("unknown option `{word}`"));
            }
        }
        Ok(Arguments { command, values })
    }
    /// A number, `default` when it is not given.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.values.get(name) {
            None => Ok(default),
            Some(v) => v.parse().map_err(|_| format!("--{name} {v}: not a number")),
        }
    }
    /// Text, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    /// A switch, or any other option that was given.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn words_are_understood_or_named() {
        let a = parse("run --seed 12 --trace").unwrap();
        assert_eq!(
            (a.command.as_str(), a.number("seed", 1), a.has("trace"), a.has("stop")),
            ("run", Ok(12), true, false)
        );
        assert!(parse("run --seed").unwrap_err().contains("--seed"));
        assert!(parse("run --sead 1").unwrap_err().contains("--sead"));
        assert!(parse("run seed").unwrap_err().contains("seed"));
        assert!(parse("run --seed x").unwrap().number("seed", 1).unwrap_err().contains('x'));
    }
}
