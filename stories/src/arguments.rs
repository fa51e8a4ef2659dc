//! What a story is told on the command line.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::PathBuf;

/// How to run a story. Each story has its own defaults for rounds and size.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// A folder that the story makes, fills and removes.
    pub dir: PathBuf,
    /// Rounds, where a story has them.
    pub rounds: Option<u64>,
    /// Size of the large file in MiB.
    pub size: Option<u64>,
    /// Seconds, where a story lasts for some time.
    pub seconds: Option<u64>,
    /// Decides every choice of the story.
    pub seed: u64,
    /// Only these parts; empty = all.
    pub only: Vec<String>,
    /// Mount options, where a story mounts by itself.
    pub options: String,
    /// Leave the folder behind.
    pub keep: bool,
}

impl Arguments {
    /// Parses `--dir --rounds --size --seconds --seed --only --options --keep`; `name` is the story's.
    pub fn parse(name: &str, args: &[OsString]) -> Result<Arguments> {
        let dir = PathBuf::from(format!("/var/tmp/pstorage-story-{name}-{}", std::process::id()));
        let (only, options) = (Vec::new(), String::new());
        let mut a = Arguments { dir, rounds: None, size: None, seconds: None, seed: 1, only, options, keep: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let arg = arg.to_str().with_context(|| format!("{}: not UTF-8", arg.display()))?;
            if arg == "--keep" {
                a.keep = true;
                continue;
            }
            let value = args.next().with_context(|| format!("{arg} needs a value"));
            let number = || -> Result<u64> {
                let v = args_number(arg, &value)?;
                if v == 0 { bail!("{arg} 0: at least 1") } else { Ok(v) }
            };
            match arg {
                "--rounds" => a.rounds = Some(number()?),
                "--size" => a.size = Some(number()?),
                "--seconds" => a.seconds = Some(number()?),
                "--seed" => a.seed = number()?,
                "--dir" => a.dir = std::path::absolute(value?).context("--dir")?,
                "--options" => a.options = value?.to_string_lossy().into_owned(),
                "--only" => a.only.push(value?.to_string_lossy().into_owned()),
                _ => bail!("unknown option {arg}"),
            }
        }
        Ok(a)
    }
    /// Refuses `--only` with what is no part of the story.
    pub fn parts(&self, parts: &[&str]) -> Result<()> {
        match self.only.iter().find(|o| !parts.contains(&o.as_str())) {
            Some(other) => bail!("--only {other}: the story has the parts {}", parts.join(", ")),
            None => Ok(()),
        }
    }
    /// Is this part wanted?
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == part)
    }
}

/// All of these as numbers, for the programs that stories start on their hosts. None: they are not so many, or not numbers.
pub fn numbers<const N: usize>(args: &[OsString]) -> Option<[u64; N]> {
    let all: Option<Vec<u64>> = args.iter().map(|n| n.to_str()?.parse().ok()).collect();
    all?.try_into().ok()
}

fn args_number(option: &str, value: &Result<&OsString>) -> Result<u64> {
    let Ok(value) = value else { bail!("{option} needs a value") };
    value.to_str().and_then(|s| s.parse().ok()).with_context(|| format!("{option} {}: not a number", value.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Arguments> {
        Arguments::parse("x", &args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let a = parse(&["--rounds", "3", "--keep", "--only", "sync", "--dir", "/a"]).unwrap();
        assert_eq!((a.rounds, a.keep, a.size), (Some(3), true, None));
        assert!(a.parts(&["flush", "sync"]).is_ok() && parse(&[]).unwrap().parts(&[]).is_ok());
        assert!(a.parts(&["flush"]).unwrap_err().to_string().contains("--only sync"));
        assert!(a.wants("sync") && !a.wants("flush") && parse(&[]).unwrap().wants("flush"));
        for (bad, why) in [
            (&["--rounds"][..], "--rounds needs"),
            (&["--size", "x"], "--size x: not a number"),
            (&["--seed", "0"], "--seed 0"),
            (&["--round", "1"], "unknown option --round"),
        ] {
            let e = parse(bad).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
    }
}
