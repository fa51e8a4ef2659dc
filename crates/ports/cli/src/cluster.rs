//! Cluster names: where a name's metadata servers are found (`-b`, or `clusters/NAME/bs.list`).

use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Lower port of a metadata server; clients use the next one.
pub const MDS_PORT: u16 = 2510;

/// The cluster a command is for.
pub struct At {
    /// `-c`.
    pub name: Option<String>,
    /// `-b`.
    pub bootstrap: Vec<String>,
}

/// Names are what a file name, a DNS label and a shell can carry.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(good) {
        bail!("cluster name `{name}`: use 1 to 63 of the characters a-z, A-Z, 0-9, `_` and `-`");
    }
    Ok(())
}

impl At {
    /// The name, checked.
    pub fn name(&self) -> Result<&str> {
        let Some(n) = &self.name else { bail!("which cluster? Name it with -c NAME or in PSTORAGE_NAME") };
        check_name(n)?;
        Ok(n)
    }
    /// Addresses (lower ports) of its metadata servers.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let name = self.name()?;
        if !self.bootstrap.is_empty() {
            return parse_list(&self.bootstrap.join(","));
        }
        let mut looked = vec![];
        for dir in config_folders() {
            let path = dir.join("clusters").join(name).join("bs.list");
            match std::fs::read_to_string(&path) {
                Ok(text) => return parse_list(&text).with_context(|| format!("bootstrap list `{}`", path.display())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => looked.push(path.display().to_string()),
                Err(e) => return Err(e).with_context(|| format!("read `{}`", path.display())),
            }
        }
        bail!(
            "cluster `{name}` is not known on this host (looked for {}): name a running metadata server with \
             -b ADDR[:PORT], or write its address into such a file",
            looked.join(" and ")
        )
    }
}

/// Folders that may hold `clusters/NAME`, the one to write to first.
pub fn config_folders() -> Vec<PathBuf> {
    let system = PathBuf::from("/etc/pstorage");
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config")))
        .map(|d| d.join("pstorage"));
    if rustix::process::geteuid().is_root() { vec![system] } else { user.into_iter().chain([system]).collect() }
}

/// Parses a list as `bs.list` holds it: ADDR[:PORT], separated by commas, blanks or semicolons; `#` begins a comment line.
pub fn parse_list(text: &str) -> Result<Vec<SocketAddr>> {
    let mut out = vec![];
    for line in text.lines().filter(|l| !l.trim_start().starts_with('#')) {
        for word in line.split([',', ' ', '\t', ';']).filter(|w| !w.is_empty()) {
            out.push(parse_address(word, MDS_PORT)?);
        }
    }
    if out.is_empty() {
        bail!("no address in it: write lines like 192.168.1.1:{MDS_PORT}");
    }
    Ok(out)
}

/// ADDR[:PORT]; IPv6 with a port in brackets; names are resolved.
pub fn parse_address(text: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(a) = text.parse::<SocketAddr>() {
        return Ok(a);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let full = if text.contains(':') { text.to_string() } else { format!("{text}:{port}") };
    let mut all = full.to_socket_addrs().with_context(|| format!("address `{text}`"))?;
    all.next().with_context(|| format!("address `{text}` resolves to nothing"))
}

/// The port for clients and chunk servers that belongs to a lower port.
pub fn client_address(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip(), a.port().wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_manual_prints_them() {
        let v = parse_list("# comment\n192.168.1.1:2510, 192.168.1.2:2510\n192.168.1.3;10.0.0.1:7\t[::1]:9\n").unwrap();
        let text: Vec<String> = v.iter().map(|a| a.to_string()).collect();
        assert_eq!(text, ["192.168.1.1:2510", "192.168.1.2:2510", "192.168.1.3:2510", "10.0.0.1:7", "[::1]:9"]);
        assert!(parse_list("# nothing\n").is_err());
        assert!(parse_list("1.2.3.4:99999").is_err());
    }
    #[test]
    fn names_are_checked() {
        assert!(check_name("my-cluster_2").is_ok());
        for bad in ["", "a b", "a/b", "ü", "../x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
