//! Switches for rules, all on in what ships: a test turns one off and must notice.

/// Makes a struct of switches in which each is written down once: field, value in the product, name and the way to it.
///
/// The struct has `ALL` (everything on, and its default), `NAMES`, and `without(name)`.
#[macro_export]
macro_rules! switches {
    ($(#[doc = $about:literal])+ $all:ident { $($(#[doc = $text:literal])+ $name:ident,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $all {
            $($(#[doc = $text])+ pub $name: bool,)+
        }

        impl $all {
            /// Everything on.
            pub const ALL: $all = $all { $($name: true,)+ };
            /// Names of all switches, as [`Self::without`] takes them.
            pub const NAMES: &[&str] = &[$(stringify!($name),)+];

            /// All rules but one; None if there is no such rule.
            pub fn without(name: &str) -> Option<$all> {
                let switches: &[fn(&mut $all) -> &mut bool] = &[$(|r| &mut r.$name,)+];
                let at = $all::NAMES.iter().position(|n| *n == name)?;
                let mut rules = $all::ALL;
                *switches[at](&mut rules) = false;
                Some(rules)
            }
        }

        impl Default for $all {
            fn default() -> Self {
                $all::ALL
            }
        }
    };
}
