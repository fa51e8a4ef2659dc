//! Who holds a chunk.

use crate::ids::{CopyId, CsId, ViewVer};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// One copy that is a member of a view, or is about to join it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Where it stands.
    pub cs: CsId,
    /// Which copy of that server.
    pub copy: CopyId,
}
impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.cs.0, self.copy.0)
    }
}

/// The committed members of a chunk. Never smaller than the layout's `min`; changed only by a commit of the group.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct View {
    /// Counts the changes.
    pub ver: ViewVer,
    /// Members in order; the first one sequences in mode S.
    pub members: Vec<Member>,
    /// At most one copy that is joining.
    pub joiner: Option<Member>,
}

impl View {
    /// Is this very copy a member?
    pub fn has(&self, m: Member) -> bool {
        self.members.contains(&m)
    }
    /// The member on server `cs`, if any.
    pub fn on(&self, cs: CsId) -> Option<Member> {
        self.members.iter().copied().find(|m| m.cs == cs)
    }
}
