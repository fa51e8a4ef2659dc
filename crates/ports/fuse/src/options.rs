//! Mount options as `-o` takes them.

use rustix::mount::MountFlags;
use std::fmt;

/// How much the kernel may keep of what it was told; the caller decides what each means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing.
    None,
    /// What can be taken back in time.
    #[default]
    Auto,
    /// As `Auto`, and nobody sees anything older than the last change anywhere.
    Strict,
}

/// What a mount is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2).
    pub flags: MountFlags,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// The kernel checks permissions by mode, owner and group before it asks.
    pub default_permissions: bool,
    /// Bytes of the longest read; None: as long as writes.
    pub max_read: Option<u32>,
    /// What the first column of `df` and `mount` shows.
    pub fsname: String,
    /// The type shown is `fuse.` and this.
    pub subtype: String,
    /// How much the kernel may keep.
    pub cache: Cache,
}
impl Default for Options {
    /// Safe for strangers' files: no devices, no set-user-id bits, permissions checked, as `mount` does for users.
    fn default() -> Options {
        Options {
            flags: MountFlags::NODEV | MountFlags::NOSUID,
            allow_other: false,
            default_permissions: true,
            max_read: None,
            fsname: "pstorage".into(),
            subtype: "pstorage".into(),
            cache: Cache::Auto,
        }
    }
}

/// An option that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// As it was given.
    pub option: String,
    /// Why, and what to do.
    pub cause: &'static str,
}
impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount option `{}`: {}", self.option, self.cause)
    }
}
impl std::error::Error for OptionError {}

/// Options that set or clear flags of mount(2).
const FLAGS: [(&str, MountFlags, bool); 19] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
];
/// Said to others than us: mount(8), systemd, fstab.
const IGNORED: [&str; 8] = ["_netdev", "auto", "noauto", "user", "nouser", "users", "nofail", "defaults"];

impl Options {
    /// Is nothing to be changed through the mount?
    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }
    /// Takes one string of options separated by commas; later ones win. Empty ones are skipped.
    pub fn parse(&mut self, text: &str) -> Result<(), OptionError> {
        text.split(',').filter(|o| !o.is_empty()).try_for_each(|o| self.one(o))
    }
    fn one(&mut self, option: &str) -> Result<(), OptionError> {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            self.flags.set(*flag, *on);
            return Ok(());
        }
        if IGNORED.contains(&option) || option.starts_with("x-") {
            return Ok(());
        }
        match option.split_once('=') {
            Some((name, value)) => self.valued(option, name, value),
            None => self.plain(option),
        }
    }
    fn plain(&mut self, option: &str) -> Result<(), OptionError> {
        match option {
            "allow_other" => self.allow_other = true,
            "noallow_other" => self.allow_other = false,
            "default_permissions" => self.default_permissions = true,
            "nodefault_permissions" => self.default_permissions = false,
            "allow_root" => {
                return Err(wrong(
                    option,
                    "the kernel knows no such thing, it was made up by a library that let only root through; use \
                     allow_other, permissions are checked",
                ));
            }
            _ => return Err(wrong(option, "is not known; leave it out")),
        }
        Ok(())
    }
    fn valued(&mut self, option: &str, name: &str, value: &str) -> Result<(), OptionError> {
        match name {
            "fsname" if !value.is_empty() => self.fsname = value.into(),
            "subtype" if is_word(value) => self.subtype = value.into(),
            "subtype" => return Err(wrong(option, "takes letters, digits, `-` and `_`")),
            "fsname" => return Err(wrong(option, "needs a name")),
            "max_read" => match value.parse() {
                Ok(n) if n >= 4096 => self.max_read = Some(n),
                _ => return Err(wrong(option, "takes a number of bytes from 4096 up")),
            },
            "cache" => {
                self.cache = match value {
                    "none" => Cache::None,
                    "auto" => Cache::Auto,
                    "strict" => Cache::Strict,
                    _ => return Err(wrong(option, "takes none, auto or strict")),
                }
            }
            _ => return Err(wrong(option, "is not known; leave it out")),
        }
        Ok(())
    }
    /// What the kernel takes as data of mount(2), for a mount by this process.
    pub(crate) fn kernel_data(&self, fd: i32, uid: u32, gid: u32) -> String {
        let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
        self.push_shared(&mut data);
        data
    }
    fn push_shared(&self, text: &mut String) {
        for (yes, option) in [(self.allow_other, "allow_other"), (self.default_permissions, "default_permissions")] {
            if yes {
                text.push(',');
                text.push_str(option);
            }
        }
        if let Some(n) = self.max_read {
            text.push_str(&format!(",max_read={n}"));
        }
    }
    /// What `fusermount3 -o` takes.
    pub(crate) fn helper_text(&self) -> String {
        let mut text =
            format!("fsname={},subtype={}", self.fsname.replace('\\', "\\\\").replace(',', "\\,"), self.subtype);
        // These are its default for users, so their opposites must be said, and are refused with its own words.
        let flags = [
            ("ro", "rw"),
            ("nodev", "dev"),
            ("nosuid", "suid"),
            ("noexec", "exec"),
            ("noatime", "atime"),
            ("sync", "async"),
        ];
        for (on, off) in flags {
            let flag = FLAGS.iter().find(|f| f.0 == on).map_or(MountFlags::empty(), |f| f.1);
            text.push(',');
            text.push_str(if self.flags.contains(flag) { on } else { off });
        }
        if self.flags.contains(MountFlags::DIRSYNC) {
            text.push_str(",dirsync");
        }
        self.push_shared(&mut text);
        text
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn wrong(option: &str, cause: &'static str) -> OptionError {
    OptionError { option: option.into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Options {
        let mut o = Options::default();
        o.parse(text).unwrap();
        o
    }
    fn refused(text: &str) -> String {
        Options::default().parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_usual_ones() {
        let o = parsed(
            "ro,,allow_other,noatime,suid,dev,noexec,sync,dirsync,fsname=a/b,subtype=x,cache=strict,max_read=4096",
        );
        let flags = MountFlags::RDONLY
            | MountFlags::NOATIME
            | MountFlags::NOEXEC
            | MountFlags::SYNCHRONOUS
            | MountFlags::DIRSYNC;
        assert_eq!(o.flags, flags);
        assert!(o.allow_other && o.default_permissions);
        assert_eq!(
            (o.fsname.as_str(), o.subtype.as_str(), o.cache, o.max_read),
            ("a/b", "x", Cache::Strict, Some(4096))
        );
        let o = parsed("ro,rw,noexec,exec,_netdev,x-systemd.automount,x-y=z,nofail,cache=none");
        assert_eq!(o, Options { cache: Cache::None, ..Options::default() });
    }

    #[test]
    fn others_are_named() {
        assert_eq!(refused("ro,bogus"), "mount option `bogus`: is not known; leave it out");
        assert_eq!(refused("bogus=1"), "mount option `bogus=1`: is not known; leave it out");
        assert!(refused("allow_root").contains("allow_other"));
        assert!(refused("cache=maybe").contains("none, auto or strict"));
        assert!(refused("fsname=").contains("needs a name") && refused("subtype=a.b").contains("letters"));
        assert!(refused("max_read=12").contains("4096"));
    }

    #[test]
    fn as_the_kernel_and_the_helper_take_them() {
        let o = parsed("allow_other,max_read=8192");
        let expected = "fd=5,rootmode=40000,user_id=1,group_id=2,allow_other,default_permissions,max_read=8192";
        assert_eq!(o.kernel_data(5, 1, 2), expected);
        let o = parsed("fsname=a,ro,dirsync");
        let expected = "fsname=a,subtype=pstorage,ro,nodev,nosuid,exec,atime,async,dirsync,default_permissions";
        assert_eq!(o.helper_text(), expected);
        let o = Options { fsname: "a,b\\".into(), ..Options::default() };
        assert!(o.helper_text().starts_with("fsname=a\\,b\\\\,subtype"));
    }
}
