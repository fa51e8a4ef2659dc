//! What the manual shows, word for word: a cluster is made and mounted, `date` writes on one host, `cat` reads on another.

use super::{Ground, HOSTS, PATIENCE};
use crate::arguments::Arguments;
use crate::hosts::{Cluster, Hosts, Make, Shell};
use anyhow::{Result, bail};

/// Between two hosts, then between three, each time from nothing.
pub(super) fn manual(ground: &mut Ground, _: &Arguments) -> Result<String> {
    let mut pairs = 0;
    for count in [2, HOSTS] {
        let dir = ground.hosts.dir().with_file_name(format!("manual-{count}"));
        let mut hosts = Hosts::new(&dir, count, &Make::default())?;
        let copies = format!("{count}:{}", count - 1);
        let cluster = Cluster::by_the_manual(&mut hosts, &ground.product, "testcl", &copies)?;
        (1..=count).try_for_each(|n| cluster.mount(&mut hosts, n, "").map(drop))?;
        let mut shells = (1..=count).map(|n| hosts.host(n).shell()).collect::<Result<Vec<Shell>>>()?;
        let test = cluster.point().join("test").display().to_string();
        for (one, other) in (0..count).flat_map(|i| (0..count).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            shells[one].must(&format!("date > {test}"), PATIENCE)?;
            let read = shells[other].must(&format!("cat {test}"), PATIENCE)?.out;
            let written = shells[one].must(&format!("cat {test}"), PATIENCE)?.out;
            if read != written || !read.ends_with(b"\n") || read.len() < 20 {
                let [read, written] = [read, written].map(|b| String::from_utf8_lossy(&b).into_owned());
                bail!("of {count} hosts, host{} wrote {written:?} and host{} read {read:?}", one + 1, other + 1);
            }
            pairs += 1;
        }
        drop(shells);
        (1..=count).try_for_each(|n| cluster.unmount(&mut hosts, n))?;
        cluster.stop(&mut hosts)?;
    }
    Ok(format!("`date >` on one host, `cat` on another: {pairs} pairs of 2 and of {HOSTS} hosts"))
}
