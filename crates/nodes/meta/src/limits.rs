//! Times and bounds of a metadata server, and how they relate.

use types::Nanos;
use wire::meta::CONTACT;

/// One tick of the consensus.
pub const TICK: Nanos = Nanos::from_millis(50);
/// A session as the leader counts it: 1.12 × 30 s, from its last answer.
pub const SESSION_KEPT: Nanos = Nanos::from_millis(33_600);
/// A holder that is to give a lease back may be silent for so long.
pub const RECALL: Nanos = Nanos::from_millis(3_000);
/// One that says how much it has left to write out may take so long to come further: the server that it waits for may have
/// to be found dead first.
pub const RECALL_STUCK: Nanos = Nanos::from_millis(10_000);
/// … and so long however far it comes before.
pub const RECALL_MOST: Nanos = Nanos::from_secs(30);
/// … and so long when its connection is broken.
pub const RECALL_RESET: Nanos = Nanos::from_millis(300);
/// A session whose connection broke may take so long to come back before it is over, if somebody waits for its locks.
pub const LEFT: Nanos = Nanos::from_millis(500);
/// One that keeps nothing in memory may be silent for so long: it loses no more than what is under way.
pub const RECALL_SILENT: Nanos = Nanos::from_millis(500);
/// A deposed holder may take so long to say that it is gone before everything it held is fenced.
pub const GONE: Nanos = Nanos::from_millis(500);
/// … and one that keeps nothing in memory so long.
pub const GONE_BARE: Nanos = Nanos::from_millis(300);
/// After a silent holder's lease was taken the kernel of its host may show what it kept for so long: 1.12 × [`CONTACT`].
pub const CONTACT_KEPT: Nanos = Nanos::from_millis(2_800);
/// A new leader waits so long for sessions to attach before it fences those that did not, if someone waits (L6). Those whom
/// the leader before it answered last show nothing any more by then.
pub const ATTACH: Nanos = CONTACT_KEPT;
/// A server whose connection broke is dead unless it comes back within this.
pub const DEAD_AFTER_RESET: Nanos = Nanos::from_millis(200);
/// A server that was not heard of for so long is dead.
pub const SERVER_SILENT: Nanos = Nanos::from_millis(2_000);
/// A member accused for so long is dropped although its server seems well.
pub const ACCUSED: Nanos = Nanos::from_millis(2_000);
/// … if it is accused again within this, each time.
pub const ACCUSATION_KEPT: Nanos = Nanos::from_millis(1_000);
/// Messages to peers are repeated after this.
pub const AGAIN: Nanos = Nanos::from_millis(300);
/// A metadata server that was not heard of for so long is not counted on.
pub const MDS_SILENT: Nanos = Nanos::from_millis(1_000);
/// … and after so long another one stands in, where there is one to spare.
pub const MDS_SWAP: Nanos = Nanos::from_secs(60);
/// A leader that is to stop waits so long for another one to lead.
pub const HAND_OVER: Nanos = Nanos::from_millis(1_500);
/// Takeovers under way at once.
pub const TAKEOVERS_MAX: usize = 64;
/// … and with so many nothing is begun that nobody waits for: some may have to wait for servers themselves.
pub const TAKEN_MAX: usize = 16;
/// Chunks of which is remembered what a takeover did to the members that answered, when one was silent.
pub const SEALS_MAX: usize = 100_000;
/// Joins under way at once.
pub const JOINS_MAX: usize = 32;
/// Chunks that a grant brings along; the rest come by Map.
pub const GRANT_CHUNKS: usize = 64;
/// Chunks answered by one Map.
pub const MAP_CHUNKS: u32 = 256;
/// … so many when they are no repair: what is under way then must not be in the way of those.
pub const MOVES_MAX: usize = 8;
/// Chunks with one member too many beyond which nothing is moved: first these are to lose it.
pub const SURPLUS_MAX: usize = 64;
/// Members that are to vouch for their copies are asked again after this.
pub const VOUCH: Nanos = Nanos::from_millis(2_000);
/// Chunks that lack copies, or have one too many, looked at in one turn.
pub const LACK_LOOKS: usize = 128;
/// Chunks of one server that is to leave.
pub const LEAVE_LOOKS: usize = 64;
/// Chunks of all, where servers have come or gone or fill is uneven.
pub const DRIFT_LOOKS: usize = 256;
/// A join that does not end within this is cancelled.
pub const JOIN_TIMEOUT: Nanos = Nanos::from_secs(60);
/// A joiner whose holder has not finished within this is looked after by the leader.
pub const JOIN_IDLE: Nanos = Nanos::from_secs(10);
/// A snapshot of the state is taken after so many entries.
pub const SNAPSHOT_EVERY: u64 = 20_000;
/// Rows and chunks removed by one command of those that clean up.
pub const REAP_STEPS: u32 = 256;
/// Inodes without a name that a session is reminded of at a time.
pub const NAMELESS_MAX: usize = 1024;
/// Deletions asked of one server at a time.
pub const DELETES_MAX: usize = 256;

const _: () = assert!(SESSION_KEPT.0 > 30_000_000_000 + 30_000_000_000 / 10, "clocks may differ by 5 %, twice");
const _: () = assert!(CONTACT_KEPT.0 > CONTACT.0 + CONTACT.0 / 10, "clocks may differ by 5 %, twice");
const _: () = assert!(GONE.0 < RECALL.0 && DEAD_AFTER_RESET.0 < SERVER_SILENT.0);
