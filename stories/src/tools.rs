//! Programs that a story plays with: those of Debian are looked for, those of the registry and of this workspace built.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Looks for `program` of Debian's `package`; `cargo xtask evidence` installs what stories need.
pub fn package(program: &str, package: &str) -> Result<()> {
    on_path(program).map(drop).with_context(|| format!("`{program}` is missing: install the package {package}"))
}

/// Where the program of the crate `name` is, in exactly this version: on the path, or built from the registry into a
/// folder beside the builds of this workspace, where the next run finds it.
pub fn crate_program(name: &str, version: &str) -> Result<PathBuf> {
    let own = beside_builds()?.join("tools");
    let built = own.join("bin").join(name);
    for found in on_path(name).into_iter().chain([built.clone()]) {
        if says_version(&found, version) {
            return Ok(found);
        }
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut c = Command::new(cargo);
    c.args(["install", "--quiet", "--force", "--version", version, name, "--root"]).arg(&own);
    c.env("CARGO_TARGET_DIR", own.join("target"));
    let status = c.status().context("cargo install")?;
    if !status.success() || !says_version(&built, version) {
        bail!("`cargo install {name} --version {version}` ended with {status} and left no such program");
    }
    Ok(built)
}

/// An example program of a package of this workspace, in this program's profile. It is built first when cargo started
/// this process.
pub fn example(package: &str, name: &str) -> Result<PathBuf> {
    let beside = beside_this()?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "-p", package, "--example", name]);
        if beside.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().context("cargo build")?;
        if !status.success() {
            bail!("cargo build -p {package} --example {name}: {status}");
        }
    }
    let built = beside.join("examples").join(name);
    if !built.is_file() {
        bail!("`{}` is missing: cargo build -p {package} --example {name}", built.display());
    }
    Ok(built)
}

fn beside_this() -> Result<PathBuf> {
    let me = std::env::current_exe().context("this program's own path")?;
    Ok(me.parent().context("this program lies in no folder")?.to_path_buf())
}
fn beside_builds() -> Result<PathBuf> {
    Ok(beside_this()?.parent().context("this program's folder lies in none")?.to_path_buf())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file())
}

fn says_version(program: &Path, version: &str) -> bool {
    let out = Command::new(program).arg("--version").stderr(Stdio::null()).output();
    out.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).split_whitespace().any(|w| w == version))
}

/// Runs a program in a folder; what it said, or an error with the beginning of that.
pub fn run_in<I: AsRef<std::ffi::OsStr>>(
    dir: &Path,
    program: impl AsRef<std::ffi::OsStr>,
    args: impl IntoIterator<Item = I>,
) -> Result<String> {
    let name = program.as_ref().display().to_string();
    let out = Command::new(&program).args(args).current_dir(dir).stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("run {name}; is it installed?"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{name} ended with {}: {}", out.status, said.lines().take(5).collect::<Vec<_>>().join("; "));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found() {
        package("sh", "dash").unwrap();
        let missing = package("no-such-program-at-all", "its-package").unwrap_err().to_string();
        assert!(missing.contains("its-package"), "{missing}");
        assert!(!says_version(Path::new("/bin/true"), "0.0.0-none"));
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let dir = std::env::temp_dir();
        assert_eq!(run_in(&dir, "echo", ["x"]).unwrap(), "x\n");
        let e = run_in(&dir, "sh", ["-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(e.contains("broken") && e.contains('3'), "{e}");
    }
}
