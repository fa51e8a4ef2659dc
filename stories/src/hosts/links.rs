//! The network between hosts: one bridge in a namespace of its own, and what is lost on it. Nothing of it touches the
//! machine's network, so addresses and names cannot collide with anything, and it goes with its namespace.
//!
//! What is lost is lost in the bridge, without a word: hosts see no link go down, no reset and no error, as with a switch
//! that drops packets.

use super::inside::Own;
use super::space::Space;
use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The bridge.
const BRIDGE: &str = "bridge0";
/// The bridge's own address, for what runs beside the hosts.
pub const BESIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
/// Bits of an address that are alike in one network.
const PREFIX: u8 = 24;
/// Pairs between which packets are lost, and hosts that are heard by nobody and hear nobody. Of a pair only what IP carries
/// is lost: with address resolution the sender would learn of it.
const RULES: &str = "
table bridge links {
    set cut { type ipv4_addr . ipv4_addr; }
    set silent { type ipv4_addr; }
    chain on_arrival {
        type filter hook prerouting priority 0; policy accept;
        ip saddr . ip daddr @cut drop
        ip saddr @silent drop
        ip daddr @silent drop
        arp saddr ip @silent drop
        arp daddr ip @silent drop
    }
    chain from_beside {
        type filter hook output priority 0; policy accept;
        ip daddr @silent drop
        arp daddr ip @silent drop
    }
}
";

/// Address of a host by its number, from 1.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, u8::try_from(host).unwrap_or(u8::MAX))
}

/// The bridge with its rules.
#[derive(Debug)]
pub struct Links {
    space: Space,
}

impl Links {
    /// A bridge without hosts. What it says goes to the file `log`.
    pub fn new(tool: &Path, log: &Path) -> Result<Links> {
        let own = Own { name: "bridge".into(), boot_id: crate::host::new_boot_id(), ..Own::default() };
        let links = Links { space: Space::begin(tool, &own, log)? };
        let ip = format!(
            "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0\naddr add {BESIDE}/{PREFIX} dev {BRIDGE}\n\
             link set {BRIDGE} up\n"
        );
        feed(links.space.on_network("ip").args(["-batch", "-"]), &ip)?;
        feed(links.space.on_network("nft").args(["-f", "-"]), RULES)?;
        Ok(links)
    }
    /// The namespaces of the bridge: what runs there reaches all hosts.
    pub fn space(&self) -> &Space {
        &self.space
    }
    /// Connects a host whose first process this is. `life` counts its starts.
    pub fn plug(&self, host: usize, life: u32, first: Pid) -> Result<()> {
        // The link of a life before goes when the kernel comes round to it. A host keeps its hardware address, so nobody has
        // to learn a new one.
        let port = format!("host{host}-{life}");
        let ip = format!(
            "link add {port} type veth peer name eth0 address 02:00:00:00:00:{host:02x} netns {first}\n\
             link set {port} master {BRIDGE} up\n"
        );
        feed(self.space.on_network("ip").args(["-batch", "-"]), &ip)?;
        let ip = format!("link set lo up\naddr add {}/{PREFIX} dev eth0\nlink set eth0 up\n", address(host));
        let network = format!("--net=/proc/{first}/ns/net");
        feed(Command::new("nsenter").args([&network, "ip", "-batch", "-"]), &ip)
    }
    /// From now on everything is lost that one host sends to another.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        self.element("add", "cut", &format!("{} . {}", address(from), address(to)))
    }
    /// It arrives again.
    pub fn mend(&self, from: usize, to: usize) -> Result<()> {
        self.element("delete", "cut", &format!("{} . {}", address(from), address(to)))
    }
    /// Nobody hears this host, and it hears nobody.
    pub fn silence(&self, host: usize) -> Result<()> {
        self.element("add", "silent", &address(host).to_string())
    }
    /// It is there again.
    pub fn unsilence(&self, host: usize) -> Result<()> {
        self.element("delete", "silent", &address(host).to_string())
    }
    fn element(&self, verb: &str, set: &str, element: &str) -> Result<()> {
        // Adding what is there already is none, taking away what is not there is an error: so it is added first.
        let add = format!("add element bridge links {set} {{ {element} }}\n");
        let all = if verb == "add" { add } else { format!("{add}{verb} element bridge links {set} {{ {element} }}\n") };
        feed(self.space.on_network("nft").args(["-f", "-"]), &all)
    }
}

/// Runs a command with this input; an error with what it complained of.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let words = command.get_program().display().to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {words}; is it installed?"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who does not read to the end says why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().with_context(|| words.clone())?;
    if !out.status.success() {
        bail!("`{}` ended with {}: {}", input.trim(), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
