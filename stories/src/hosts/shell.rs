//! A shell on a host that does one thing after the other as it is told, so that a command takes no longer than its program.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Stands in front of the status of a command that has ended.
const END: &[u8] = b"\x01end ";

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Standard output and standard error as they came.
    pub out: Vec<u8>,
    /// How it ended, as a shell tells it.
    pub status: i32,
    /// How long it took.
    pub took: Duration,
}
impl Told {
    /// What it said, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end().to_string()
    }
}

/// The shell. Dropping it ends it.
pub struct Shell {
    host: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<(Vec<u8>, i32)>,
}

impl Shell {
    /// Starts `command`, which is a shell.
    pub(super) fn start(host: &str, mut command: Command) -> Result<Shell> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("start a shell on {host}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the shell on {host} was started without pipes")
        };
        let (send, answers) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Some(answer) = answer(&mut output)
                && send.send(answer).is_ok()
            {}
        });
        Ok(Shell { host: host.into(), child, input, answers })
    }
    /// Runs a script in a process of its own, whatever comes of it. Longer than `most`: an error, and the shell is of no use
    /// any more.
    pub fn run(&mut self, script: &str, most: Duration) -> Result<Told> {
        let begun = Instant::now();
        let gone = || format!("the shell on {} has ended before `{script}`", self.host);
        writeln!(self.input, "( {script}\n) 2>&1 </dev/null; printf '\\1end %d\\n' $?").with_context(gone)?;
        self.input.flush().with_context(gone)?;
        match self.answers.recv_timeout(most) {
            Ok((out, status)) => Ok(Told { out, status, took: begun.elapsed() }),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{}: `{script}` did not end within {:.1} s", self.host, most.as_secs_f64())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("{}: the shell ended in `{script}`", self.host),
        }
    }
    /// The same; an error unless it succeeds.
    pub fn must(&mut self, script: &str, most: Duration) -> Result<Told> {
        let told = self.run(script, most)?;
        if told.status != 0 {
            bail!("{}: `{script}` ended with {}: {}", self.host, told.status, told.text());
        }
        Ok(told)
    }
}
impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads up to the end of one command. None: the shell has ended.
fn answer(output: &mut impl BufRead) -> Option<(Vec<u8>, i32)> {
    let mut out = Vec::new();
    loop {
        if output.read_until(b'\n', &mut out).ok()? == 0 {
            return None;
        }
        if let Some(at) = out.windows(END.len()).rposition(|w| w == END)
            && out.ends_with(b"\n")
        {
            let status = std::str::from_utf8(&out[at + END.len()..]).ok()?.trim().parse().ok()?;
            out.truncate(at);
            return Some((out, status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    #[test]
    fn one_command_after_the_other() {
        let mut s = Shell::start("here", Command::new("sh")).unwrap();
        let told = s.run("printf 'a\\nb'; exit 3", MOST).unwrap();
        assert_eq!((told.out.as_slice(), told.status), (&b"a\nb"[..], 3));
        assert_eq!(s.must("cat; echo said >&2", MOST).unwrap().text(), "said", "no input, one output");
        assert!(s.must("false", MOST).unwrap_err().to_string().contains("`false` ended with 1"));
        assert_eq!(s.run("head -c 200000 /dev/zero", MOST).unwrap().out.len(), 200_000);
        assert!(s.run("sleep 5", Duration::from_millis(50)).unwrap_err().to_string().contains("did not end"));
    }
}
