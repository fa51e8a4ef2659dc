//! What is done to hosts and servers, one after the other, and undone. Each deck holds every kind once, in an order that the
//! seed decides.

use super::ground::{CLIENTS, Ground, SERVERS};
use super::history::Fault;
use super::record::{NEVER, now};
use crate::arguments::Arguments;
use crate::chance::Chance;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::ops::RangeInclusive;

/// How long something is away, s. A session lasts 30 s for a client, 33.6 s for the leader.
const SHORT: RangeInclusive<u64> = 1..=8;
const LONGER_THAN_A_SESSION: RangeInclusive<u64> = 36..=42;
/// Between two faults, s.
const PAUSE: RangeInclusive<u64> = 2..=6;

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whom {
    /// A host with a mount.
    Client,
    /// A host with a metadata server and a chunk server.
    Servers,
    /// The host whose metadata server leads.
    LeaderHost,
    /// A chunk server's process.
    ChunkServer,
    /// The process that leads.
    Leader,
}
/// What.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Killed,
    Frozen,
    CutOff,
}
type Kind = (Whom, Harm, &'static str);

const KINDS: [Kind; 11] = [
    (Whom::Client, Harm::Killed, "mounting host killed"),
    (Whom::Client, Harm::Frozen, "mounting host frozen"),
    (Whom::Client, Harm::CutOff, "mounting host cut off"),
    (Whom::Servers, Harm::Killed, "serving host killed"),
    (Whom::Servers, Harm::Frozen, "serving host frozen"),
    (Whom::Servers, Harm::CutOff, "serving host cut off"),
    (Whom::LeaderHost, Harm::CutOff, "leader's host cut off"),
    (Whom::ChunkServer, Harm::Killed, "chunk server killed"),
    (Whom::ChunkServer, Harm::Frozen, "chunk server frozen"),
    (Whom::Leader, Harm::Killed, "leader killed"),
    (Whom::Leader, Harm::Frozen, "leader frozen"),
];

/// Kinds of fault that are wanted, and those of them that are still to come.
pub struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// All kinds, or those that `--only` names.
    pub fn of(a: &Arguments) -> Result<Deck> {
        a.parts(&KINDS.map(|k| k.2))?;
        Ok(Deck { kinds: KINDS.into_iter().filter(|k| a.wants(k.2)).collect(), left: Vec::new() })
    }
    fn next(&mut self, chance: &Chance) -> Kind {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        self.left.swap_remove(chance.below(self.left.len() as u64) as usize)
    }
    /// Plays the next fault from its beginning until everything is well again, then rests. The line to print.
    pub fn play(&mut self, g: &mut Ground) -> Result<String> {
        let (whom, harm, what) = self.next(&g.chance);
        let one_of = |all: RangeInclusive<usize>| *all.start() + g.chance.below(all.count() as u64) as usize;
        let (host, process) = match whom {
            Whom::Client => (one_of(CLIENTS), None),
            Whom::Servers => (one_of(SERVERS), None),
            Whom::ChunkServer => (one_of(SERVERS), Some("cs")),
            Whom::LeaderHost => (g.leader()?, None),
            Whom::Leader => (g.leader()?, Some("mds")),
        };
        // Mounting hosts that are frozen always lose their session.
        let long = harm != Harm::Killed && (g.chance.one_in(2) || (whom, harm) == (Whom::Client, Harm::Frozen));
        let away = if long { LONGER_THAN_A_SESSION } else { SHORT };
        let begun = now();
        let done = match process {
            Some(kind) => process_away(g, host, kind, harm, away),
            None => host_away(g, host, whom, harm, away),
        };
        let well = done.and_then(|back| g.recover().map(|took| (back, took)));
        let over = if well.is_ok() { now() } else { NEVER };
        let mounting = (whom == Whom::Client).then_some(host);
        g.happened(Fault { what: what.into(), host: mounting, begun, over });
        let (back, took) = well.with_context(|| format!("host{host}: {what}"))?;
        g.rest(PAUSE)?;
        let away = (back - begun) as f64 / 1e9;
        Ok(format!("host{host}: {what} for {away:.1} s, all well {:.1} s later", took.as_secs_f64()))
    }
}

/// A whole host is away for some time; returns when it was back.
fn host_away(g: &mut Ground, host: usize, whom: Whom, harm: Harm, away: RangeInclusive<u64>) -> Result<u64> {
    match harm {
        Harm::Killed => {
            g.hosts.kill(host)?;
            g.has_died(host);
            g.pass(away);
            g.hosts.start(host)?;
            if whom == Whom::Client { g.is_back(host)? } else { g.cluster.start_all(&mut g.hosts, host)? }
        }
        Harm::Frozen => {
            let from = now();
            g.hosts.freeze(host)?;
            g.pass(away);
            g.hosts.thaw(host)?;
            g.was_frozen(host, from, now());
        }
        Harm::CutOff => {
            g.hosts.cut_off(host)?;
            g.pass(away);
            g.hosts.rejoin(host)?;
        }
    }
    Ok(now())
}

/// A server's process is away for some time; returns when it was back.
fn process_away(g: &mut Ground, host: usize, kind: &str, harm: Harm, away: RangeInclusive<u64>) -> Result<u64> {
    let none = || format!("host{host} has no {kind}");
    let process = g.hosts.host(host).process(kind).with_context(none)?;
    if harm == Harm::Killed {
        process.kill9()?;
        g.pass(away);
        g.cluster.start(&mut g.hosts, host, kind)?;
    } else {
        process.signal(Signal::SIGSTOP)?;
        g.pass(away);
        g.hosts.host(host).process(kind).with_context(none)?.signal(Signal::SIGCONT)?;
    }
    Ok(now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let a = Arguments::parse("registers", &[]).unwrap();
        let (chance, mut deck) = (Chance::seeded(3), Deck::of(&a).unwrap());
        let mut names: Vec<&str> = (0..2 * KINDS.len()).map(|_| deck.next(&chance).2).collect();
        names[..KINDS.len()].sort_unstable();
        names[KINDS.len()..].sort_unstable();
        assert_eq!(names[..KINDS.len()], names[KINDS.len()..]);
        assert!(names[..KINDS.len()].windows(2).all(|w| w[0] != w[1]));
        let a = Arguments::parse("registers", &["--only", "leader killed"].map(Into::into)).unwrap();
        assert!((0..3).all(|_| Deck::of(&a).unwrap().next(&chance).2 == "leader killed"));
        let a = Arguments::parse("registers", &["--only", "tired"].map(Into::into)).unwrap();
        assert!(Deck::of(&a).is_err());
    }
}
