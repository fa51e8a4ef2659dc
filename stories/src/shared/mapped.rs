//! A file that one host changes, and another has mapped into memory all the time.

use super::verdict::Verdict;
use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;

/// Blocks are changed on two hosts in turn, by write(2), a third one sees it in its memory.
pub(super) fn mapped(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("mapped").display().to_string();
    ground.shells[0].must(&format!("truncate -s {} {file}", BLOCK * BLOCKS), PATIENCE)?;
    let mut reader = Reader::start(ground, HOSTS, &file)?;
    let chance = Chance::of(&[a.seed, 3]);
    let mut right = vec![checksum::crc32c(&[0; BLOCK]); BLOCKS];
    let mut verdict = Verdict::default();
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        let changer = (round % (HOSTS as u64 - 1)) as usize;
        let at = chance.below(BLOCKS as u64) as usize;
        let direct = if chance.one_in(4) { "oflag=direct" } else { "" };
        let dd = format!(
            "yes 'round {round:06}' | head -c {BLOCK} \
             | dd of={file} bs={BLOCK} seek={at} conv=notrunc iflag=fullblock {direct} status=none"
        );
        ground.shells[changer].must(&dd, PATIENCE)?;
        verdict.step(format!("host{}: dd seek={at} {direct}", changer + 1));
        let mut block = format!("round {round:06}\n").repeat(BLOCK / 13 + 1).into_bytes();
        block.truncate(BLOCK);
        right[at] = checksum::crc32c(&block);
        let told: Vec<String> = right.iter().map(|c| format!("{c:08x}")).collect();
        verdict.look("its mapping", &format!("host{HOSTS}"), reader.look()?.as_bytes(), told.join(" ").as_bytes());
    }
    Ok(format!("{rounds} changes, {} looks at a mapping", verdict.end()?))
}

/// The example `mapped` on a host.
struct Reader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}
impl Reader {
    fn start(ground: &mut Ground, host: usize, file: &str) -> Result<Reader> {
        let program = tools::example("stories", "mapped")?;
        let mut command = ground.hosts.host(host).command(program)?;
        command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a reader of a mapping")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        Ok(Reader { child, input, output: BufReader::new(output) })
    }
    /// Checksums of all blocks, as its memory shows them now.
    fn look(&mut self) -> Result<String> {
        self.input.write_all(b"\n").context("ask the reader of a mapping")?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the reader of a mapping ended with {}", self.child.wait()?);
        }
        Ok(line.trim_end().into())
    }
}
impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
