//! `pjdfstest` on the mount and on the local disk, and the list of what may be missed.

use super::Place;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const VERSION: &str = "0.2.2";
/// Of what passes on the local disk, so many percent pass on the mount.
const PERCENT: usize = 98;
/// Cases that pass on the local disk and not on a mount: name and reason. May only become shorter.
const MISSES: &str = include_str!("../../posix-misses.txt");
const SETTINGS: &str = r#"[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
expected_failures = []
[dummy_auth]
entries = [ ["nobody", "nogroup"], ["daemon", "daemon"] ]
"#;

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Passed,
    Skipped,
    Failed,
}

pub(super) fn run(p: &Place<'_>) -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        bail!("pjdfstest plays several users: run this part as root");
    }
    let program = tools::crate_program("pjdfstest", VERSION)?;
    let settings = p.local.join("pjdfstest.toml");
    std::fs::write(&settings, SETTINGS)?;
    let local = play(&program, &settings, p.local)?;
    let mount = play(&program, &settings, p.point)?;
    judge(&local, &mount, &misses(MISSES)?)
}

/// Runs all cases in a folder of their own in `dir`.
fn play(program: &Path, settings: &Path, dir: &Path) -> Result<BTreeMap<String, End>> {
    // A short name: addresses of sockets below it have at most 108 bytes.
    let folder = dir.join("p");
    std::fs::create_dir(&folder)?;
    // Other users have to reach it.
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let out = Command::new(program).arg("-c").arg(settings).arg("-p").arg(&folder).output().context("pjdfstest")?;
    let said = String::from_utf8_lossy(&out.stdout);
    let cases = cases(&said);
    let told = said.lines().find_map(|l| l.strip_prefix("Summary: "));
    let told = told.and_then(|l| l.split(", ").last()?.strip_suffix(" total")?.parse().ok());
    if told != Some(cases.len()) {
        let err = String::from_utf8_lossy(&out.stderr);
        bail!("pjdfstest in `{}` ended with {} after {} cases: {err}", folder.display(), out.status, cases.len());
    }
    Ok(cases)
}

/// The cases it told of: a line each, explanations behind a tab.
fn cases(said: &str) -> BTreeMap<String, End> {
    let lines = said.lines().filter(|l| !l.starts_with('\t'));
    let case = lines.filter_map(|l| {
        let (name, end) = l.split_once(' ')?;
        let end = match end.trim() {
            "ok" => End::Passed,
            "skipped" => End::Skipped,
            "FAILED" => End::Failed,
            _ => return None,
        };
        Some((name.to_string(), end))
    });
    case.collect()
}

/// The names of the list. Each line has a reason.
fn misses(list: &str) -> Result<BTreeSet<&str>> {
    let lines = list.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let name = lines.map(|l| match l.split_once(' ') {
        Some((name, why)) if !why.trim().is_empty() => Ok(name),
        _ => bail!("posix-misses.txt: `{l}` has no reason"),
    });
    name.collect()
}

fn judge(local: &BTreeMap<String, End>, mount: &BTreeMap<String, End>, list: &BTreeSet<&str>) -> Result<String> {
    let passed = |of: &BTreeMap<String, End>, name: &str| of.get(name) == Some(&End::Passed);
    let asked: Vec<&str> = local.keys().map(String::as_str).filter(|n| passed(local, n)).collect();
    let missed: Vec<&str> = asked.iter().copied().filter(|n| !passed(mount, n)).collect();
    let unlisted: Vec<&str> = missed.iter().copied().filter(|n| !list.contains(n)).collect();
    let stale: Vec<&str> = list.iter().copied().filter(|n| passed(mount, n) || !mount.contains_key(*n)).collect();
    let failed = mount.values().filter(|e| **e == End::Failed).count();
    let fine = asked.len() - missed.len();
    let line = format!("{fine} of the {} cases that pass on the local disk, {failed} failed", asked.len());
    if !unlisted.is_empty() {
        let ends: Vec<String> = unlisted.iter().map(|n| format!("{n} ({:?})", mount.get(*n))).collect();
        bail!("{line}; not in posix-misses.txt: {}", ends.join(", "));
    }
    if !stale.is_empty() {
        bail!("{line}; to be taken from posix-misses.txt, for they pass now or are no cases: {}", stale.join(", "));
    }
    if asked.is_empty() || fine * 100 < asked.len() * PERCENT {
        bail!("{line}: fewer than {PERCENT} %");
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cases: &[(&str, End)]) -> BTreeMap<String, End> {
        cases.iter().map(|(n, e)| (n.to_string(), *e)).collect()
    }

    #[test]
    fn cases_are_read_and_explanations_left_out() {
        let said = "a::b      ok\nc::d   skipped\n\tReason ok\ne FAILED\n\tpanicked\n\nSummary: 1 failed, 3 total\n";
        assert_eq!(cases(said), told(&[("a::b", End::Passed), ("c::d", End::Skipped), ("e", End::Failed)]));
    }

    #[test]
    fn the_list_has_reasons() {
        assert!(!misses(MISSES).unwrap().is_empty());
        assert_eq!(misses("# x\n\na::b  why\n").unwrap(), BTreeSet::from(["a::b"]));
        assert!(misses("a::b\n").unwrap_err().to_string().contains("a::b"));
    }

    #[test]
    fn a_miss_is_listed_and_a_listed_one_is_missed() {
        let names: Vec<String> = (0..100).map(|i| format!("case{i:02}")).collect();
        let all = |bad: usize, end| -> BTreeMap<String, End> {
            names.iter().enumerate().map(|(i, n)| (n.clone(), if i < bad { end } else { End::Passed })).collect()
        };
        let (local, list) = (all(0, End::Failed), |n: usize| names[..n].iter().map(String::as_str).collect());
        assert!(judge(&local, &all(2, End::Skipped), &list(2)).unwrap().starts_with("98 of the 100"));
        let e = |bad, listed: usize| judge(&local, &all(bad, End::Failed), &list(listed)).unwrap_err().to_string();
        assert!(e(3, 3).contains("fewer than 98"));
        assert!(e(2, 1).contains("case01"), "{}", e(2, 1));
        assert!(e(1, 2).contains("taken from"));
        // What the local disk does not pass either is not asked of a mount.
        assert!(judge(&all(50, End::Skipped), &all(50, End::Failed), &BTreeSet::new()).is_ok());
        assert!(judge(&BTreeMap::new(), &BTreeMap::new(), &BTreeSet::new()).is_err());
    }
}
