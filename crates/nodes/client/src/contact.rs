//! How long a front end may go on showing what its kernel keeps of files without another word of the group.
//!
//! A host that is cut off cannot be asked to drop its pages, and its kernel shows them without asking anybody. So what it
//! keeps counts only for a while after the last question that a leader answered, reckoned from the sending of the question:
//! such an answer is confirmed by a majority, so there was no other leader when the question was sent, and nobody else had
//! been granted what this client holds. Whoever takes a lease from a holder that does not answer waits longer than that.
//! While something is kept a question is asked every second; a front end that keeps nothing costs no message.

use crate::Client;
use crate::calls::For;
use crate::events::Event;
use marks::mark;
use types::Nanos;
use wire::LeaseKind;
use wire::meta::CONTACT;
use wire::names::MetaOp;

/// From a question that was answered to the next one.
const ASK: Nanos = Nanos::from_secs(1);
#[derive(Debug, Default)]
pub(crate) struct Contact {
    /// When the newest question was sent that has been answered; zero = none was.
    heard: Nanos,
    /// A question for this purpose is open.
    asking: bool,
    /// The front end may keep something.
    keeps: bool,
    /// It was told that it may not any more.
    lost: bool,
}

impl Client {
    /// May what the front end keeps be shown to programs, and may more be kept?
    pub fn in_contact(&self, now: Nanos) -> bool {
        !self.cfg.keeps_pages || !self.cfg.rules.pages_lapse || now < self.contact_until()
    }
    fn contact_until(&self) -> Nanos {
        if self.contact.heard == Nanos::ZERO { Nanos::ZERO } else { self.contact.heard + CONTACT }
    }
    /// A question that was first sent at `asked` has been answered by a leader.
    pub(crate) fn heard_of(&mut self, asked: Nanos) {
        self.contact.heard = self.contact.heard.max(asked);
        self.contact.lost &= !self.in_contact(self.now);
    }
    /// The question for this purpose is answered, or lost with its session.
    pub(crate) fn contact_answered(&mut self) {
        self.contact.asking = false;
    }
    /// The front end holds something back because [`Self::in_contact`] says no: a leader is asked until one answers.
    pub fn seek_contact(&mut self) {
        (self.contact.keeps, self.contact.lost) = (true, true);
        self.wake = Nanos::ZERO;
    }
    /// The front end keeps something from now on.
    pub(crate) fn keeps_pages(&mut self) {
        self.contact.keeps |= self.cfg.keeps_pages;
        self.wake = Nanos::ZERO;
    }
    /// Asks when it is time, and tells the front end when it is too late.
    pub(crate) fn tick_contact(&mut self) {
        if !self.contact.keeps || !self.cfg.rules.pages_lapse {
            return;
        }
        let now = self.now;
        if !self.contact.asking && now >= self.contact.heard + ASK {
            // Out of contact answers are held back until there is one.
            self.contact.keeps = self.contact.lost || self.files.values().any(|f| f.cached);
            if self.contact.keeps {
                self.contact.asking = true;
                self.call(For::Contact, MetaOp::Statfs, LeaseKind::None);
            }
        }
        if !self.contact.lost && !self.in_contact(now) {
            mark!("client.out-of-contact");
            self.contact.lost = true;
            self.events.push(Event::OutOfContact);
        }
    }
    /// When [`Self::tick_contact`] is wanted.
    pub(crate) fn contact_due(&self) -> Nanos {
        let c = &self.contact;
        if !c.keeps {
            return Nanos::NEVER;
        }
        let ask = if c.asking { Nanos::NEVER } else { c.heard + ASK };
        let lapse = if c.lost { Nanos::NEVER } else { self.contact_until() };
        ask.min(lapse)
    }
}
