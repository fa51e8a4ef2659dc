//! A bar on a terminal with rate and time to go; nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar for `bytes`; 0 = not known yet.
pub fn bar(quiet: bool, bytes: u64, what: &'static str) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
    }
    let b = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    );
    b.set_style(style.expect("the template is right"));
    b.set_message(what);
    b
}
