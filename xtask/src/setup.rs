//! What tests and measurements need from the machine: installed where a package manager is at hand, named where not.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program, the package that has it, and what for.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}
const NEEDS: &[Need] = &[
    Need { program: "cc", package: "build-essential", why: "linking" },
    Need { program: "fusermount3", package: "fuse3", why: "mounting file systems" },
    Need { program: "unshare", package: "util-linux", why: "hosts of one's own" },
    Need { program: "ip", package: "iproute2", why: "networks of one's own" },
    Need { program: "nft", package: "nftables", why: "links between hosts that can be cut" },
    Need { program: "perl", package: "perl-base", why: "hosts of one's own, in tests" },
];
/// What measurements need beyond it. A program that its package keeps off the path is named by its place.
const EVIDENCE: &[Need] = &[
    Need {
        program: "/usr/share/postgresql-common/supported-versions",
        package: "postgresql",
        why: "databases on a mount",
    },
    Need { program: "psql", package: "postgresql-client", why: "databases on a mount" },
    Need { program: "sqlite3", package: "sqlite3", why: "databases on a mount" },
    Need { program: "fio", package: "fio", why: "reading and writing with checksums" },
    Need { program: "git", package: "git", why: "repositories on a mount" },
    Need { program: "rsync", package: "rsync", why: "trees kept in step" },
    Need { program: "getfattr", package: "attr", why: "extended attributes of trees" },
];

/// What the tests need; see [`evidence`].
pub fn run() -> Vec<String> {
    let mut wrong = provide(NEEDS);
    if !Path::new("/dev/fuse").exists() {
        wrong.push("/dev/fuse is missing: load the kernel module `fuse`, or pass the device into the container".into());
    }
    wrong
}
/// What measurements need. Returns what is missing and could not be installed. Asks nothing and installs nothing that is
/// there.
pub fn evidence() -> Vec<String> {
    let mut wrong = run();
    wrong.extend(provide(EVIDENCE));
    wrong
}

fn provide(needs: &[Need]) -> Vec<String> {
    let mut wrong = Vec::new();
    let absent = |need: &&Need| !on_path(need.program);
    let packages: Vec<&str> = needs.iter().filter(absent).map(|n| n.package).collect();
    if !packages.is_empty() && on_path("apt-get") {
        println!("installing {}", packages.join(" "));
        // An old index is the usual reason for a first failure.
        if !apt(&["install"], &packages) && apt(&["update"], &[]) {
            apt(&["install"], &packages);
        }
    }
    for need in needs.iter().filter(absent) {
        wrong.push(format!("{} is missing, needed for {}: install {}", need.program, need.why, need.package));
    }
    wrong
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(standard).any(|dir| dir.join(program).is_file())
}

fn apt(verb: &[&str], packages: &[&str]) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.args(["-n", "apt-get"]);
    }
    command.args(["--yes", "--quiet"]).args(verb).args(packages).stdin(Stdio::null());
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.status().is_ok_and(|s| s.success())
}
