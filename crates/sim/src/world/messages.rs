//! Messages of the simulated world: what becomes of one between its sender and its receiver.

use super::{Event, MS, S, US, World};
use crate::actor::SlotId;
use crate::coverage::{Fate, kind};
use crate::rng::Rng;
use crate::slot::Work;
use host::node::Input;
use types::NodeId;
use wire::{Encoded, Msg};

/// After a refused connection the next attempt waits this long, twice as long each time up to the second value; what is
/// sent meanwhile is dropped.
const BACKOFF: (u64, u64) = (10 * MS, 500 * MS);
/// Frames sent within one simulated second beyond which processes are taken to chase each other for ever.
const RUNAWAY: u64 = 400_000;

/// A message on its way, as a scenario's rule sees it.
pub struct Envelope<'a> {
    /// When it was sent.
    pub now: u64,
    /// Sender's slot.
    pub from: SlotId,
    /// Receiver's slot.
    pub to: SlotId,
    /// Content.
    pub msg: &'a Msg,
}

/// What a scenario's rule does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: the next rule decides, then the network.
    Pass,
    /// Loses it.
    Drop,
    /// Keeps it until [`World::release`].
    Hold,
    /// Delivers it now and once more after this many nanoseconds.
    Double(u64),
    /// Delivers it after this many nanoseconds.
    Delay(u64),
}

/// A scenario's rule about messages.
pub type Rule = Box<dyn FnMut(&Envelope<'_>) -> Verdict>;

impl World {
    /// Adds a rule about messages, after the present ones; returns what [`Self::remove_rule`] takes.
    pub fn add_rule(&mut self, rule: Rule) -> u32 {
        self.next_rule += 1;
        self.rules.push((self.next_rule, rule));
        self.next_rule
    }
    /// Ends a rule. What it held stays held.
    pub fn remove_rule(&mut self, rule: u32) {
        self.rules.retain(|r| r.0 != rule);
    }

    pub(super) fn send(&mut self, from: SlotId, to: NodeId, msg: Msg) {
        let Some(me) = self.slots[from.0].id else { return };
        let now = self.now;
        if self.rate.0 != now / S {
            self.rate = (now / S, 0);
        }
        self.rate.1 += 1;
        if self.rate.1 == RUNAWAY {
            return self
                .violation(format!("runaway: {RUNAWAY} frames within a second, the last one from {me} to {to}"));
        }
        self.slots[from.0].talked.insert(to, now);
        let kind = kind(&msg);
        self.coverage.message(kind, Fate::Sent);
        self.coverage.refusals(&msg);
        let Some(to_slot) = self.names.get(&to).copied() else {
            self.push(now + 200 * US, Event::Reset { to: me, from: to });
            return;
        };
        self.note(|| format!("{me} -> {to} {msg:?}"));
        let mut verdict = Verdict::Pass;
        for (_, rule) in &mut self.rules {
            verdict = rule(&Envelope { now, from, to: to_slot, msg: &msg });
            if verdict != Verdict::Pass {
                self.trace.line(now, || format!("  the last message: {verdict:?}"));
                break;
            }
        }
        let frame = match verdict {
            Verdict::Drop => return self.coverage.message(kind, Fate::Lost),
            Verdict::Hold => return self.held.push((from, to_slot, me, to, msg)),
            _ => msg.encode(),
        };
        match verdict {
            Verdict::Double(later) => {
                self.push(now + 100 * US, Event::Deliver { from: me, to, frame: frame.clone() });
                self.push(now + later, Event::Deliver { from: me, to, frame });
            }
            Verdict::Delay(time) => self.push(now + time, Event::Deliver { from: me, to, frame }),
            _ => {
                let local = self.slots[from.0].host == self.slots[to_slot.0].host;
                let times = self.network.route(now, from, to_slot, local, &mut self.rng);
                self.fate(kind, times);
                for at in times.into_iter().flatten() {
                    let damage = !local && self.rng.ppm(self.network.config.damage);
                    let frame = if damage { flip(&frame, &mut self.rng) } else { frame.clone() };
                    self.push(at, Event::Deliver { from: me, to, frame });
                }
            }
        }
    }

    /// Counts what the network does with a message.
    fn fate(&mut self, kind: &'static str, times: [Option<u64>; 2]) {
        match times {
            [None, _] => self.coverage.message(kind, Fate::Lost),
            [Some(at), again] => {
                if at - self.now > MS {
                    self.coverage.message(kind, Fate::Late);
                }
                if again.is_some() {
                    self.coverage.message(kind, Fate::Twice);
                }
            }
        }
    }

    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, frame: Encoded) {
        let (Some(a), Some(b)) = (self.names.get(&from).copied(), self.names.get(&to).copied()) else { return };
        let s = &self.slots[b.0];
        if s.id != Some(to) || s.node.is_none() {
            if let Ok(msg) = Msg::decode_frame(&frame) {
                self.coverage.message(kind(&msg), Fate::Void);
            }
            let s = &self.slots[b.0];
            // A host without power says nothing; a live one refuses the connection.
            let there = self.hosts[s.host.0].power;
            let (until, wait) = self.refused.get(&(a, to)).copied().unwrap_or((0, BACKOFF.0));
            if there && self.now >= until && !self.network.is_cut(self.now, b, a) && self.rng.percent(90) {
                self.refused.insert((a, to), (self.now + wait, (wait * 2).min(BACKOFF.1)));
                let at = self.now + self.rng.range(50 * US, 2 * MS);
                self.push(at, Event::Reset { to: from, from: to });
            }
            return;
        }
        match Msg::decode_frame(&frame) {
            Ok(msg) => {
                self.refused.remove(&(a, to));
                self.coverage.message(kind(&msg), Fate::Received);
                self.trace.frame(self.now, b.0 as u64, &frame);
                self.note(|| format!("{to} <- {from} {}", brief(&msg)));
                self.slots[b.0].talked.insert(from, self.now);
                self.work(b, Work::Input(Box::new(Input::Message(from, msg))));
            }
            Err(e) if self.network.config.damage == 0 => {
                self.violation(format!("a message of {from} to {to} cannot be read back: {e}"));
            }
            Err(_) => {
                // A damaged frame ends the connection on both sides.
                self.count("frame refused");
                self.push(self.now, Event::Reset { to, from });
                let at = self.now + self.rng.range(50 * US, 2 * MS);
                self.push(at, Event::Reset { to: from, from: to });
            }
        }
    }

    /// How many messages rules hold back.
    pub fn held(&self) -> usize {
        self.held.len()
    }
    /// Delivers held messages that `which` picks, oldest first, or loses them (`deliver` false). Returns how many.
    pub fn release(&mut self, deliver: bool, mut which: impl FnMut(SlotId, SlotId, &Msg) -> bool) -> usize {
        let (go, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|h| which(h.0, h.1, &h.4));
        self.held = stay;
        let n = go.len();
        for (i, (_, _, from, to, msg)) in go.into_iter().enumerate() {
            if deliver {
                let at = self.now + 50 * US + i as u64;
                self.push(at, Event::Deliver { from, to, frame: msg.encode() });
            }
        }
        n
    }
    /// Breaks the connection between two running processes: both sides are told, what is in flight still arrives.
    pub fn reset(&mut self, a: SlotId, b: SlotId) {
        if let (Some(x), Some(y)) = (self.slots[a.0].id, self.slots[b.0].id) {
            let at = self.now + self.rng.range(50 * US, 2 * MS);
            self.push(at, Event::Reset { to: x, from: y });
            self.push(at, Event::Reset { to: y, from: x });
        }
    }
}

/// One bit of the frame changes on the way.
fn flip(frame: &Encoded, rng: &mut Rng) -> Encoded {
    let (mut head, mut payload) = (frame.head.to_vec(), frame.payload.to_vec());
    let at = rng.below((head.len() + payload.len()) as u64) as usize;
    let bit = 1 << rng.below(8);
    let n = head.len();
    if at < n {
        head[at] ^= bit
    } else {
        payload[at - n] ^= bit
    }
    Encoded { head: head.into(), payload: payload.into() }
}

/// Name of a message's kind, for trace lines about its arrival (its content stands in the line about its sending).
fn brief(msg: &Msg) -> String {
    let text = format!("{msg:?}");
    text.chars().take(160).collect()
}
