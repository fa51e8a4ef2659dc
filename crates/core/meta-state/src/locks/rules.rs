//! Switches for the rules of locks, all on in the product: the simulator turns one off at a time and must then notice.

marks::switches! {
    /// Which rules of locks hold in the state. [`LockRules::ALL`] is what ships.
    LockRules {
    /// Nobody holds a lock beside one of somebody else that it conflicts with (P2).
    locks_conflict,
    /// Two owners of one session are two (P1).
    owners_apart,
    /// Who gives up a part of a range keeps the rest (P3).
    rest_is_kept,
    /// A lock on a whole file that has to wait for its change into the other kind is given up first (P3).
    changes_let_go,
    /// What is given up goes to those who wait for it (P4).
    waiters_served,
    /// Who would wait for itself is refused (P5).
    circles_refused,
    /// The end of a session is the end of its locks (P7).
    locks_end_with_session,
    /// … and of its waits (P7).
    waits_end_with_session,
    /// A repeated operation on locks is carried out once.
    lock_retries_known,
    }
}
