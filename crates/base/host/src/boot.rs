//! Which boot of the host this is: memory outlives a process exactly as long as this does not change.

use std::path::Path;
use std::{fmt, fs, io};

/// Where the kernel tells it. Read through the path, so that a mount namespace can put another file there.
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
const LONGEST: usize = 64;

/// The kernel's boot id as it prints it: letters, digits and dashes, at most 64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootId(String);

impl BootId {
    /// The running kernel's. Errors when the file cannot be read or holds something else.
    pub fn read() -> io::Result<BootId> {
        Self::read_from(Path::new(BOOT_ID_PATH))
    }
    /// As [`Self::read`] from another file of the same form.
    pub fn read_from(path: &Path) -> io::Result<BootId> {
        let text = fs::read_to_string(path).map_err(|e| {
            io::Error::new(e.kind(), format!("read boot id from `{}`: {e}; mount /proc here", path.display()))
        })?;
        let id = text.trim_end_matches('\n');
        if id.is_empty() || id.len() > LONGEST || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` holds no boot id (letters, digits and dashes, at most {LONGEST})", path.display()),
            ));
        }
        Ok(BootId(id.into()))
    }
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_and_refuses_other_things() {
        let id = BootId::read().unwrap();
        assert_eq!(id, BootId::read().unwrap());
        assert_eq!(id.as_str().len(), 36);
        let path = std::env::temp_dir().join(format!("pstorage-boot-{}", std::process::id()));
        for bad in ["", "\n", "a/b\n", "../x", "two words\n", &"a".repeat(65)] {
            fs::write(&path, bad).unwrap();
            let e = BootId::read_from(&path).unwrap_err().to_string();
            assert!(e.contains("holds no boot id"), "{e}");
        }
        fs::write(&path, "0b-1\n").unwrap();
        assert_eq!(BootId::read_from(&path).unwrap().as_str(), "0b-1");
        fs::remove_file(&path).unwrap();
        assert!(BootId::read_from(&path).unwrap_err().to_string().contains("mount /proc"));
    }
}
