//! A repository of git on which one host works and cleans up, while others clone it.

use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::Arguments;
use crate::tools;
use anyhow::{Result, bail};
use std::time::Duration;

/// Commits at the full number of rounds.
const COMMITS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(900);
/// git looks at nobody's settings.
const GIT: &str =
    "git -c user.name=story -c user.email=story@localhost -c init.defaultBranch=main -c gc.auto=0 -c safe.directory=*";

/// Plays it: commits and `git gc` on one host, clones on all others meanwhile, each of which is whole and has what had been
/// committed when it began.
pub(super) fn git(ground: &mut Ground, a: &Arguments) -> Result<String> {
    tools::package("git", "git")?;
    let repo = ground.point.join("git").display().to_string();
    ground.shells[0].must(&format!("{GIT} init -q {repo}"), PATIENCE)?;
    let commits = (a.rounds.unwrap_or(ROUNDS) * COMMITS / ROUNDS).max(20);
    let batch = 10;
    let (mut clones, mut number) = (0, 0);
    while number < commits {
        let script = format!(
            "cd {repo} && for i in $(seq {} {}); do mkdir -p d$((i % 7)) && head -c 20000 /dev/urandom > d$((i % 7))/f$i && \
             echo $i > last && {GIT} add -A && {GIT} commit -q -m $i; done",
            number + 1,
            number + batch,
        );
        ground.shells[0].must(&script, LIMIT)?;
        number += batch;
        // Cleaning up takes packs and loose objects away under the readers.
        let mut gc = ground.hosts.host(1).command("sh")?;
        gc.args(["-c", &format!("cd {repo} && {GIT} gc -q --prune=now")]);
        ground.hosts.host(1).daemon("gc", gc)?;
        for n in 2..=HOSTS {
            let copy = ground.point.join(format!("clone{n}")).display().to_string();
            let script = format!(
                "rm -rf {copy} && {GIT} clone -q --no-local {repo} {copy} && cd {copy} && {GIT} fsck --full 2>&1 && cat last"
            );
            let said = ground.shells[n - 1].must(&script, LIMIT)?.text();
            if said.lines().last() != Some(number.to_string().as_str()) {
                bail!("host{n} cloned after commit {number} and has `{}`", said.trim_end());
            }
            clones += 1;
        }
        ground.ended(1, "gc", LIMIT)?;
        for n in 1..=HOSTS {
            ground.shells[n - 1]
                .must(&format!("cd {repo} && {GIT} fsck --full 2>&1 && {GIT} status --short"), LIMIT)?;
        }
    }
    Ok(format!(
        "{number} commits and {} cleanings on one host, {clones} clones on others meanwhile, all whole",
        number / batch
    ))
}
