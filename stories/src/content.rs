//! Contents that tell where they belong, and comparison of files.

use crate::chance::Chance;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const PIECE: usize = 1 << 20;

/// Writes a file of `mib` MiB that no compression makes smaller and that no other seed gives.
pub fn random_file(path: &Path, mib: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create `{}`", path.display()))?;
    let chance = Chance::of(&[seed, mib]);
    let mut piece = vec![0; PIECE];
    for _ in 0..mib {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&chance.next().to_le_bytes());
        }
        file.write_all(&piece).with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(())
}

/// An error that names the first difference, unless both files hold the same.
pub fn must_be_equal(a: &Path, b: &Path) -> Result<()> {
    let open = |p: &Path| File::open(p).with_context(|| format!("open `{}`", p.display()));
    let (mut fa, mut fb) = (open(a)?, open(b)?);
    let (la, lb) = (fa.metadata()?.len(), fb.metadata()?.len());
    if la != lb {
        bail!("`{}` has {la} bytes, `{}` {lb}", a.display(), b.display());
    }
    let (mut pa, mut pb) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < la {
        let n = (la - at).min(PIECE as u64) as usize;
        fa.read_exact(&mut pa[..n])?;
        fb.read_exact(&mut pb[..n])?;
        if let Some(i) = (0..n).find(|i| pa[*i] != pb[*i]) {
            bail!("`{}` and `{}` differ at byte {}", a.display(), b.display(), at + i as u64);
        }
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_where_it_is() {
        let dir = std::env::temp_dir().join(format!("content-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        random_file(&a, 2, 7).unwrap();
        random_file(&b, 2, 7).unwrap();
        must_be_equal(&a, &b).unwrap();
        let mut bytes = std::fs::read(&b).unwrap();
        bytes[1_500_000] ^= 1;
        std::fs::write(&b, &bytes).unwrap();
        assert!(must_be_equal(&a, &b).unwrap_err().to_string().contains("byte 1500000"));
        bytes.pop();
        std::fs::write(&b, &bytes).unwrap();
        assert!(must_be_equal(&a, &b).unwrap_err().to_string().contains("has 2097152 bytes"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
