//! One host changes a file, another looks at once: appended to, cut, replaced by another one, removed and made again, and
//! past the host's cache on one side.

use super::files::Shared;
use super::{Ground, HOSTS, ROUNDS};
use crate::arguments::Arguments;
use crate::chance::Chance;
use anyhow::Result;

/// Longer files are cut.
const LONG: usize = 20_000;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 16;

/// Who changes and who looks in this round: each pair in turn.
fn pair(round: u64) -> (usize, usize) {
    let changer = (round % HOSTS as u64) as usize;
    let other = (changer + 1 + (round / HOSTS as u64) as usize % (HOSTS - 1)) % HOSTS;
    (changer + 1, other + 1)
}

/// `date >>`, cuts to less and to more, a change in the middle; `cat` and sizes elsewhere.
pub(super) fn grow(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let chance = Chance::of(&[a.seed, 1]);
    let mut f = Shared::new(ground, "grow");
    f.change(1, ": > $F")?;
    f.right = Some(Vec::new());
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        let (changer, looker) = pair(round);
        let len = f.len();
        match chance.below(10) {
            _ if len > LONG => cut(&mut f, changer, chance.below(3000) as usize)?,
            0 => cut(&mut f, changer, chance.below(len as u64 + 1) as usize)?,
            1 => cut(&mut f, changer, len + chance.below(9000) as usize)?,
            2 if len > 10 => {
                let at = chance.below(len as u64 - 10) as usize;
                f.change(changer, &format!("printf %08d {round} | dd of=$F bs=1 seek={at} conv=notrunc status=none"))?;
                f.model(at, format!("{round:08}").as_bytes());
            }
            _ => {
                let said = f.change(changer, "D=$(date +%FT%T.%N); echo \"$D\" >> $F; echo \"$D\"")?;
                f.model(len, &said);
            }
        }
        let len = f.len().to_string();
        match chance.below(4) {
            0 => f.look_for(looker, "stat -c %s $F", &len)?,
            1 => f.look_for(looker, "wc -c < $F", &len)?,
            _ => {}
        }
        f.look(looker, "cat $F")?;
    }
    Ok(format!("{rounds} changes, {} looks", f.verdict.end()?))
}
fn cut(f: &mut Shared<'_>, host: usize, len: usize) -> Result<()> {
    f.change(host, &format!("truncate -s {len} $F"))?;
    f.right.get_or_insert_default().resize(len, 0);
    Ok(())
}

/// A file that another one takes the name of.
pub(super) fn replace(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let mut f = Shared::new(ground, "replace");
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        let (changer, looker) = pair(round);
        let lines = 1 + Chance::of(&[a.seed, round]).below(400);
        let text = format!("round {round}\n").repeat(lines as usize);
        f.change(changer, &format!("yes 'round {round}' | head -n {lines} > $F.{changer}; mv $F.{changer} $F"))?;
        f.right = Some(text.into_bytes());
        f.look(looker, "cat $F")?;
        let len = f.len().to_string();
        f.look_for(looker, "stat -c %s $F", &len)?;
    }
    Ok(format!("{rounds} renames over it, {} looks", f.verdict.end()?))
}

/// A file that is removed, and made again.
pub(super) fn recreate(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let mut f = Shared::new(ground, "recreate");
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        let (changer, looker) = pair(round);
        if f.right.take().is_some() {
            f.change(changer, "rm $F")?;
            f.look(looker, "cat $F")?;
        }
        // Whoever looked makes it, every other time.
        let maker = if round % 2 == 0 { changer } else { looker };
        let other = if round % 2 == 0 { looker } else { changer };
        f.change(maker, &format!("echo 'round {round}' > $F"))?;
        f.right = Some(format!("round {round}\n").into_bytes());
        f.look(other, "cat $F")?;
        f.look_for(other, "ls -l $F | wc -l", "1")?;
    }
    Ok(format!("{rounds} files of one name, {} looks", f.verdict.end()?))
}

/// Blocks written past the cache and read through it, and the other way round.
pub(super) fn direct(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let chance = Chance::of(&[a.seed, 2]);
    let mut f = Shared::new(ground, "direct");
    f.change(1, &format!("truncate -s {} $F", BLOCKS as usize * BLOCK))?;
    f.right = Some(vec![0; BLOCKS as usize * BLOCK]);
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        let (changer, looker) = pair(round);
        let at = chance.below(BLOCKS);
        let (out, inn) = if round % 2 == 0 { ("oflag=direct", "") } else { ("", "iflag=direct") };
        f.change(
            changer,
            &format!(
                "yes 'round {round:06}' | head -c {BLOCK} \
                 | dd of=$F bs={BLOCK} seek={at} conv=notrunc iflag=fullblock {out} status=none"
            ),
        )?;
        let mut block = format!("round {round:06}\n").repeat(BLOCK / 13 + 1).into_bytes();
        block.truncate(BLOCK);
        f.model(at as usize * BLOCK, &block);
        f.look(looker, &format!("dd if=$F bs={BLOCK} {inn} status=none"))?;
    }
    Ok(format!("{rounds} blocks with O_DIRECT on one side, {} looks", f.verdict.end()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_hosts_has_its_turn() {
        let pairs: std::collections::BTreeSet<_> = (0..6).map(pair).collect();
        assert_eq!(pairs.len(), HOSTS * (HOSTS - 1));
        assert!(pairs.iter().all(|(a, b)| a != b));
    }
}
