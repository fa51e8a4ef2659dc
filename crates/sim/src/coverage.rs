//! What runs have come by: messages by kind and fate, refusals by reason, rare branches by name. What was never hit is
//! named, because a rule that no run needs is not tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use wire::integrity::Care;
use wire::share::{ShareCtl, ShareMsg, ShareOp, ShareSaid};
use wire::{CopyAns, CsToMds, DataCtl, FromMds, MdsToCs, Msg, Refusal, ToMds};

macro_rules! kinds {
    ($($pattern:pat => $name:literal,)+) => {
        /// Names of all kinds of messages.
        pub const KINDS: &[&str] = &[$($name,)+];
        /// The kind of a message.
        pub fn kind(msg: &Msg) -> &'static str {
            match msg {
                $($pattern => $name,)+
            }
        }
    };
}

kinds! {
    Msg::Hello(_) => "Hello",
    Msg::Write(_) => "Write",
    Msg::Read(_) => "Read (answer)",
    Msg::Copy(_) => "Copy (answer)",
    Msg::Raft(_) => "Raft",
    Msg::Data(DataCtl::Read { .. }) => "Read",
    Msg::Data(DataCtl::Allocation { .. }) => "Allocation",
    Msg::Data(DataCtl::Allocated { .. }) => "Allocated",
    Msg::Data(DataCtl::Promise(_)) => "Promise",
    Msg::Data(DataCtl::Stable(_)) => "Stable",
    Msg::Data(DataCtl::Ack(_)) => "Ack",
    Msg::Data(DataCtl::Flush { .. }) => "Flush",
    Msg::Data(DataCtl::FlushAck { .. }) => "FlushAck",
    Msg::Data(DataCtl::ChunkState(_)) => "ChunkState",
    Msg::Data(DataCtl::State { .. }) => "State",
    Msg::Data(DataCtl::JoinStart { .. }) => "JoinStart",
    Msg::Data(DataCtl::Pull { .. }) => "Pull",
    Msg::Data(DataCtl::JoinState { .. }) => "JoinState",
    Msg::Data(DataCtl::CopyList { .. }) => "CopyList",
    Msg::Data(DataCtl::Extents { .. }) => "Extents",
    Msg::Data(DataCtl::CopyRead { .. }) => "CopyRead",
    Msg::ToMds(ToMds::Attach { .. }) => "Attach",
    Msg::ToMds(ToMds::Renew { .. }) => "Renew",
    Msg::ToMds(ToMds::Detach { .. }) => "Detach",
    Msg::ToMds(ToMds::Meta { .. }) => "Meta",
    Msg::ToMds(ToMds::Map { .. }) => "Map",
    Msg::ToMds(ToMds::Return { .. }) => "Return",
    Msg::ToMds(ToMds::ViewChange { .. }) => "ViewChange",
    Msg::ToMds(ToMds::Unsettled { .. }) => "Unsettled",
    Msg::ToMds(ToMds::GoneOk { .. }) => "GoneOk",
    Msg::ToMds(ToMds::Leaving { .. }) => "Leaving",
    Msg::ToMds(ToMds::Forgot { .. }) => "Forgot",
    Msg::ToMds(ToMds::Status { .. }) => "Status",
    Msg::ToMds(ToMds::Death { .. }) => "Death",
    Msg::FromMds(FromMds::AttachOk { .. }) => "AttachOk",
    Msg::FromMds(FromMds::RenewOk { .. }) => "RenewOk",
    Msg::FromMds(FromMds::SessionGone { .. }) => "SessionGone",
    Msg::FromMds(FromMds::NotLeader { .. }) => "NotLeader (client)",
    Msg::FromMds(FromMds::MetaOk { .. }) => "MetaOk",
    Msg::FromMds(FromMds::Forget { .. }) => "Forget",
    Msg::FromMds(FromMds::Locked { .. }) => "Locked",
    Msg::FromMds(FromMds::Shared { .. }) => "Shared",
    Msg::FromMds(FromMds::Tell { .. }) => "Tell",
    Msg::ToMds(ToMds::Told { .. }) => "Told",
    Msg::FromMds(FromMds::Grant(_)) => "Grant",
    Msg::FromMds(FromMds::Mapped { .. }) => "Mapped",
    Msg::FromMds(FromMds::Recall { .. }) => "Recall",
    Msg::FromMds(FromMds::ReturnOk { .. }) => "ReturnOk",
    Msg::FromMds(FromMds::Gone { .. }) => "Gone",
    Msg::FromMds(FromMds::Record { .. }) => "Record",
    Msg::FromMds(FromMds::Down { .. }) => "Down",
    Msg::FromMds(FromMds::Nameless { .. }) => "Nameless",
    Msg::FromMds(FromMds::Status { .. }) => "Status (answer)",
    Msg::ToMds(ToMds::Scrub { .. }) => "Scrub",
    Msg::FromMds(FromMds::Scrubbing { .. }) => "Scrubbing",
    Msg::CsToMds(CsToMds::Register { .. }) => "Register",
    Msg::CsToMds(CsToMds::Inventory { .. }) => "Inventory",
    Msg::CsToMds(CsToMds::Heartbeat { .. }) => "Heartbeat",
    Msg::CsToMds(CsToMds::SessionFenced { .. }) => "SessionFenced",
    Msg::CsToMds(CsToMds::Fenced { .. }) => "Fenced",
    Msg::CsToMds(CsToMds::Cleared { .. }) => "Cleared",
    Msg::MdsToCs(MdsToCs::Clear { .. }) => "Clear",
    Msg::Care(Care::Report { .. }) => "Report (care)",
    Msg::Care(Care::Heard { .. }) => "Heard (care)",
    Msg::Care(Care::Whereabouts { .. }) => "Whereabouts (care)",
    Msg::Care(Care::Members { .. }) => "Members (care)",
    Msg::Care(Care::Doubt { .. }) => "Doubt (care)",
    Msg::Care(Care::Mend { .. }) => "Mend (care)",
    Msg::Care(Care::Digest { .. }) => "Digest (care)",
    Msg::Care(Care::Digests { .. }) => "Digests (care)",
    Msg::Care(Care::State { .. }) => "State (care)",
    Msg::Care(Care::Differs { .. }) => "Differs (care)",
    Msg::Care(Care::News { .. }) => "News (care)",
    Msg::Care(Care::Left) => "Left (care)",
    Msg::Care(Care::Outvoted { .. }) => "Outvoted (care)",
    Msg::Care(Care::Inspect { .. }) => "Inspect (care)",
    Msg::Care(Care::Inspected { .. }) => "Inspected (care)",
    Msg::Mend(_) => "Mend",
    Msg::Share(ShareMsg { ctl: ShareCtl::Ask(ShareOp::Write { .. }), .. }) => "Share (write)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Ask(ShareOp::CompareWrite { .. }), .. }) => "Share (compare)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Ask(ShareOp::Append { .. }), .. }) => "Share (append)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Ask(ShareOp::Read { .. }), .. }) => "Share (read)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Ask(ShareOp::Flush { .. }), .. }) => "Share (flush)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Answer(ShareSaid::Over), .. }) => "Share (over)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Answer(ShareSaid::Alone), .. }) => "Share (alone)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Answer(ShareSaid::Failed(_)), .. }) => "Share (failed)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Answer(ShareSaid::Differs { .. }), .. }) => "Share (differs)",
    Msg::Share(ShareMsg { ctl: ShareCtl::Answer(_), .. }) => "Share (done)",
    Msg::CsToMds(CsToMds::Converged { .. }) => "Converged",
    Msg::CsToMds(CsToMds::Replaced { .. }) => "Replaced",
    Msg::CsToMds(CsToMds::Deleted { .. }) => "Deleted",
    Msg::MdsToCs(MdsToCs::RegisterOk { .. }) => "RegisterOk",
    Msg::MdsToCs(MdsToCs::NotLeader { .. }) => "NotLeader (server)",
    Msg::MdsToCs(MdsToCs::InventoryOk { .. }) => "InventoryOk",
    Msg::MdsToCs(MdsToCs::HeartbeatOk { .. }) => "HeartbeatOk",
    Msg::MdsToCs(MdsToCs::Unknown { .. }) => "Unknown",
    Msg::MdsToCs(MdsToCs::FenceSession { .. }) => "FenceSession",
    Msg::MdsToCs(MdsToCs::FenceChunk { .. }) => "FenceChunk",
    Msg::MdsToCs(MdsToCs::Converge { .. }) => "Converge",
    Msg::MdsToCs(MdsToCs::Replace { .. }) => "Replace",
    Msg::MdsToCs(MdsToCs::Delete { .. }) => "Delete",
    Msg::MdsToCs(MdsToCs::Dropped { .. }) => "Dropped",
    Msg::MdsToCs(MdsToCs::Vouch { .. }) => "Vouch",
    Msg::CsToMds(CsToMds::Vouched { .. }) => "Vouched",
}

/// What never happened, with the reason if there is one.
fn reasoned(what: String) -> (String, String) {
    let why = OUTSIDE.iter().find(|o| o.0 == what).map_or("", |o| o.1);
    (what, why.to_string())
}

/// All reasons of refusals.
const REFUSALS: [Refusal; 10] = [
    Refusal::NoCopy,
    Refusal::Fenced,
    Refusal::Diverged,
    Refusal::Unclean,
    Refusal::StaleView,
    Refusal::BadCrc,
    Refusal::Joining,
    Refusal::NoSpace,
    Refusal::Starting,
    Refusal::Failed,
];

/// What can become of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Given to the network.
    Sent,
    /// Read by its receiver.
    Received,
    /// Lost, by chance or by a cut.
    Lost,
    /// On its way for more than a millisecond, or overtaken.
    Late,
    /// Delivered twice.
    Twice,
    /// Arrived where nobody was any more.
    Void,
}
const FATES: [&str; 6] = ["sent", "received", "lost", "late", "twice", "void"];

/// What no run of the simulator comes by, or hardly any, and why.
const OUTSIDE: &[(&str, &str)] = &[
    ("message Hello", "connections greet each other below the simulated network"),
    ("message Status", "asked by people, not by the load"),
    ("message Status (answer)", "asked by people, not by the load"),
    ("message Inspect (care)", "asked by people, not by the load; tests of the chunk server and stories do"),
    ("message Inspected (care)", "asked by people, not by the load; tests of the chunk server and stories do"),
    ("message Detach", "applications of the simulator die, they do not leave; the stories do"),
    ("message Death", "a parent certifies it; the simulator has no parents, the stories do"),
    ("message Down", "told of deaths that a parent certifies"),
    ("message Unknown", "every server of the simulator is known to the group"),
    ("message Allocation", "asked by programs that look for holes; the scenario zeros-and-extents does"),
    ("message Allocated", "asked by programs that look for holes; the scenario zeros-and-extents does"),
    (
        "refusal StaleView",
        "a hint: who has an old view has an old epoch or names another copy, which is looked at first",
    ),
    ("refusal NoSpace", "disks of the simulator do not fill up; tests of the chunk server do that"),
    ("refusal Failed", "a server whose disk fails ends"),
    ("branch member.refuse.stale-view", "see the refusal StaleView"),
    ("branch client.limbo-full", "disks of the simulator do not fill up"),
    ("branch pull.no-room", "disks of the simulator do not fill up"),
    ("branch pull.mark-not-taken", "disks of the simulator do not fill up"),
    ("branch sequencer.server-down", "told of deaths that a parent certifies"),
    ("branch sequencer.joiner-far-behind", "32 MiB are more than a run writes"),
    ("branch session.detach-while-holding", "applications of the simulator die, they do not leave"),
    ("branch merge.foreign-ranges", "a leader that sends ranges no record has is a mistake in the leader"),
    ("branch member.append.too-many", "a holder that has too much outstanding is a mistake in the holder"),
    ("branch takeover.below-stable", "no clean copy ends there: a guard behind other rules"),
    ("branch converge.half-filled", "a copy that is being filled is not asked to merge: a guard behind other rules"),
    ("branch sequencer.old-view", "the client compares versions before: a guard behind it"),
    ("branch takeover.older-copy", "the server says that the named copy is lost: a guard behind it"),
    ("branch client.loss-by-number", "the mark of the loss comes with the same grant: a guard behind it"),
    ("branch client.other-session", "a session is given up before another one is asked for: a guard behind it"),
    ("branch replace.heir-half-filled", "a copy that is being filled is not crowned: a guard behind other rules"),
];

/// Counts of one run, or sums over runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    messages: BTreeMap<&'static str, [u64; 6]>,
    refusals: BTreeMap<String, u64>,
    marks: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { messages: BTreeMap::new(), refusals: BTreeMap::new(), marks: vec![0; marks::NAMES.len()] }
    }
}

/// Answers of copies that a message carries.
fn answers(msg: &Msg) -> Vec<&CopyAns> {
    match msg {
        Msg::Read(d) | Msg::Copy(d) => vec![&d.ans],
        Msg::Data(DataCtl::FlushAck { answers, .. }) => answers.iter().collect(),
        Msg::Data(
            DataCtl::Ack(ans)
            | DataCtl::Allocated { ans, .. }
            | DataCtl::State { ans, .. }
            | DataCtl::JoinState { ans, .. }
            | DataCtl::Extents { ans, .. },
        ) => vec![ans],
        _ => Vec::new(),
    }
}

impl Coverage {
    /// Counts what became of a message.
    pub fn message(&mut self, kind: &'static str, fate: Fate) {
        self.messages.entry(kind).or_default()[fate as usize] += 1;
    }
    /// Counts the refusals that a message carries.
    pub fn refusals(&mut self, msg: &Msg) {
        for r in answers(msg).into_iter().filter_map(|a| a.refusal) {
            *self.refusals.entry(format!("{r:?}")).or_default() += 1;
        }
    }
    /// Takes over the marks that this thread has passed since the last call.
    pub fn marks(&mut self) {
        self.marks.iter_mut().zip(marks::take()).for_each(|(sum, n)| *sum += n);
    }
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Coverage) {
        for (kind, counts) in &other.messages {
            let mine = self.messages.entry(kind).or_default();
            mine.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
        }
        for (reason, n) in &other.refusals {
            *self.refusals.entry(reason.clone()).or_default() += n;
        }
        self.marks.iter_mut().zip(&other.marks).for_each(|(a, b)| *a += b);
    }

    fn count(&self, kind: &str, fate: Fate) -> u64 {
        self.messages.get(kind).map_or(0, |c| c[fate as usize])
    }
    /// Everything that never happened: (what, whether there is a reason that it cannot, or a count elsewhere).
    fn never(&self, elsewhere: &Coverage) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for kind in KINDS.iter().filter(|k| self.count(k, Fate::Received) == 0) {
            out.push(reasoned(format!("message {kind}")));
        }
        for reason in REFUSALS.iter().map(|r| format!("{r:?}")).filter(|r| !self.refusals.contains_key(r)) {
            out.push(reasoned(format!("refusal {reason}")));
        }
        for (i, name) in marks::NAMES.iter().enumerate().filter(|(i, _)| self.marks[*i] == 0) {
            match elsewhere.marks[i] {
                0 => out.push(reasoned(format!("branch {name}"))),
                n => out.push((format!("branch {name}"), format!("{n} times by scenarios"))),
            }
        }
        out
    }

    /// The table for people; `scenarios` are the marks that the steered scenarios passed.
    pub fn table(&self, scenarios: &Coverage) -> String {
        let mut out = format!("{:<22}", "message");
        FATES.iter().for_each(|f| write!(out, "{f:>12}").expect("text grows"));
        out.push('\n');
        for kind in KINDS.iter().filter(|k| self.messages.contains_key(*k)) {
            write!(out, "{kind:<22}").expect("text grows");
            self.messages[kind].iter().for_each(|n| write!(out, "{n:>12}").expect("text grows"));
            out.push('\n');
        }
        for (reason, n) in &self.refusals {
            writeln!(out, "refusal {reason:<14}{n:>12}").expect("text grows");
        }
        writeln!(out, "{:<36}{:>12}{:>12}", "branch", "seeds", "scenarios").expect("text grows");
        for (i, name) in marks::NAMES.iter().enumerate() {
            writeln!(out, "{name:<36}{:>12}{:>12}", self.marks[i], scenarios.marks[i]).expect("text grows");
        }
        let never = self.never(scenarios);
        let open = never.iter().filter(|n| n.1.is_empty()).count();
        writeln!(out, "never by seeds: {}; of these {open} by nothing at all", never.len()).expect("text grows");
        for (what, why) in never {
            writeln!(out, "  {what}{}{why}", if why.is_empty() { "" } else { ": " }).expect("text grows");
        }
        out
    }
    /// The same as one line of JSON.
    pub fn json(&self, scenarios: &Coverage) -> String {
        let pairs = |items: Vec<String>| items.join(",");
        let messages = self.messages.iter().map(|(k, c)| {
            let counts = FATES.iter().zip(c).map(|(f, n)| format!("\"{f}\":{n}")).collect();
            format!("\"{k}\":{{{}}}", pairs(counts))
        });
        let refusals = self.refusals.iter().map(|(r, n)| format!("\"{r}\":{n}"));
        let branches = marks::NAMES.iter().enumerate();
        let branches = branches
            .map(|(i, n)| format!("\"{n}\":{{\"seeds\":{},\"scenarios\":{}}}", self.marks[i], scenarios.marks[i]));
        let never =
            self.never(scenarios).into_iter().map(|(what, why)| format!("{{\"what\":\"{what}\",\"why\":\"{why}\"}}"));
        format!(
            "{{\"messages\":{{{}}},\"refusals\":{{{}}},\"branches\":{{{}}},\"never\":[{}]}}",
            pairs(messages.collect()),
            pairs(refusals.collect()),
            pairs(branches.collect()),
            pairs(never.collect())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_hit_is_named() {
        let mut c = Coverage::default();
        let msg = Msg::ToMds(ToMds::Status { id: 1 });
        c.message(kind(&msg), Fate::Sent);
        c.message("Write", Fate::Received);
        let mut other = Coverage::default();
        other.message("Write", Fate::Received);
        other.marks[2] = 5;
        c.add(&other);
        assert_eq!(c.count("Write", Fate::Received), 2);
        let none = Coverage::default();
        let table = c.table(&none);
        assert!(table.contains("  message Status: asked by people"), "{table}");
        assert!(table.contains("  refusal Diverged\n"), "{table}");
        assert!(table.contains(&format!("  branch {}\n", marks::NAMES[0])), "{table}");
        assert!(!table.contains(&format!("  branch {}\n", marks::NAMES[2])), "{table}");
        assert!(!table.contains("  message Write"), "{table}");
        assert!(c.json(&none).contains("\"Write\":{\"sent\":0,\"received\":2"));
        let known = |o: &str| match o.split_once(' ') {
            Some(("message", k)) => KINDS.contains(&k),
            Some(("refusal", r)) => REFUSALS.iter().any(|x| format!("{x:?}") == r),
            Some(("branch", m)) => marks::NAMES.contains(&m),
            _ => false,
        };
        assert!(OUTSIDE.iter().all(|o| known(o.0)));
    }
}
