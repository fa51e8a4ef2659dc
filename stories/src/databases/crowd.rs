//! Writers beside each other. Each drives one database client through a pipe: it says a statement, and the number that the
//! client says behind it is the acknowledgement.

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a client says before its first statement, so that its start is not taken for an answer.
pub const GREETING: &str = "ready";
/// After an accident a client has so long to notice that its database is gone.
const NOTICE_MAX: Duration = Duration::from_secs(10);

/// How a crowd speaks to its clients.
pub struct Speech {
    /// Said once; makes the client say [`GREETING`] on a line of its own.
    pub opening: String,
    /// Commits pair `(client, number)`, and then, only if that succeeded, makes the client say the number.
    pub statement: fn(client: usize, number: u64) -> String,
}

/// Numbers of one client: 1 to `acked` are committed, up to `asked` may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promised {
    /// The last number that was acknowledged.
    pub acked: u64,
    /// The last number that was asked for.
    pub asked: u64,
}
impl Promised {
    /// May a database hold the numbers 1 to `found`, and no others?
    pub fn allows(self, found: u64) -> bool {
        (self.acked..=self.asked).contains(&found)
    }
}

struct Writer {
    client: usize,
    from: u64,
    asked: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    errors: PathBuf,
}

/// All of them.
pub struct Crowd {
    over: Arc<AtomicBool>,
    numbers: Vec<(u64, Arc<AtomicU64>, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<Result<()>>>,
    children: Vec<Child>,
}

impl Crowd {
    /// Starts a client for each number in `from`, the last one that its pairs have now. What they complain about goes to
    /// files in `dir`.
    pub fn start(dir: &Path, client: impl Fn() -> Command, speech: &Speech, from: &[u64]) -> Result<Crowd> {
        let over = Arc::new(AtomicBool::new(false));
        let mut crowd = Crowd { over, numbers: Vec::new(), threads: Vec::new(), children: Vec::new() };
        for (i, from) in from.iter().enumerate() {
            let errors = dir.join(format!("client-{i}.err"));
            let err = File::options().create(true).append(true).open(&errors)?;
            let mut command = client();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(err);
            let name = command.get_program().display().to_string();
            let mut child = command.spawn().with_context(|| format!("start {name}; is it installed?"))?;
            let pipes = (child.stdin.take(), child.stdout.take());
            crowd.children.push(child);
            let (Some(input), Some(output)) = pipes else { bail!("{name} was started without pipes") };
            let [asked, acked] = [*from; 2].map(|n| Arc::new(AtomicU64::new(n)));
            crowd.numbers.push((*from, asked.clone(), acked.clone()));
            let writer = Writer { client: i, from: *from, asked, acked, over: crowd.over.clone(), errors };
            let (opening, statement) = (speech.opening.clone(), speech.statement);
            let work = move || writer.work(input, BufReader::new(output), &opening, statement);
            crowd.threads.push(std::thread::Builder::new().name(format!("writer {i}")).spawn(work)?);
        }
        Ok(crowd)
    }
    /// Waits until each client was acknowledged so many pairs.
    pub fn wait(&mut self, pairs: u64, most: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.numbers.iter().any(|(from, _, acked)| acked.load(Ordering::SeqCst) < from + pairs) {
            self.check()?;
            if begun.elapsed() > most {
                bail!("waited {} s for {pairs} commits of each client; {:?}", most.as_secs(), self.promised());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
    /// An error if one of them ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.threads.iter().position(|t| t.is_finished());
        ended.map_or(Ok(()), |i| join(self.threads.swap_remove(i)))
    }
    /// From now on clients may fail.
    pub fn excuse(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
    /// Their processes.
    pub fn pids(&self) -> Vec<Pid> {
        self.children.iter().map(|c| Pid::from_raw(c.id().cast_signed())).collect()
    }
    /// After [`Crowd::excuse`], and when their database is gone: what they were promised, everything heard that was said.
    pub fn end(mut self) -> Result<Vec<Promised>> {
        let begun = Instant::now();
        while self.threads.iter().any(|t| !t.is_finished()) && begun.elapsed() < NOTICE_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        for t in std::mem::take(&mut self.threads) {
            join(t)?;
        }
        Ok(self.promised())
    }
    fn promised(&self) -> Vec<Promised> {
        let load = |n: &AtomicU64| n.load(Ordering::SeqCst);
        self.numbers.iter().map(|(_, asked, acked)| Promised { acked: load(acked), asked: load(asked) }).collect()
    }
    fn kill(&mut self) {
        for mut c in std::mem::take(&mut self.children) {
            // It has ended, or ends now; both are what is wanted.
            let _ = kill(Pid::from_raw(c.id().cast_signed()), Signal::SIGKILL);
            let _ = c.wait();
        }
    }
}
impl Drop for Crowd {
    fn drop(&mut self) {
        self.excuse();
        self.kill();
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a writer panicked"))?
}

impl Writer {
    fn work(
        &self,
        mut input: impl Write,
        mut output: impl BufRead,
        opening: &str,
        statement: fn(usize, u64) -> String,
    ) -> Result<()> {
        let mut line = String::new();
        let mut say = |text: &str, expected: &str| -> Result<bool> {
            // A client that has ended is told by the end of its output.
            let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
            line.clear();
            output.read_line(&mut line)?;
            // Without its end the line may be the beginning of another number.
            Ok(line.strip_suffix('\n') == Some(expected))
        };
        let mut number = self.from;
        let mut goes = say(opening, GREETING)?;
        while goes {
            number += 1;
            self.asked.store(number, Ordering::SeqCst);
            goes = say(&statement(self.client, number), &number.to_string())?;
            if goes {
                self.acked.store(number, Ordering::SeqCst);
            }
        }
        if self.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let last = errors.lines().last().unwrap_or("nothing").to_owned();
        bail!("client {} failed at number {number}: it said `{}` and complained: {last}", self.client, line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(from: u64, over: bool) -> Writer {
        let [asked, acked] = [from; 2].map(|n| Arc::new(AtomicU64::new(n)));
        Writer { client: 0, from, asked, acked, over: Arc::new(AtomicBool::new(over)), errors: PathBuf::new() }
    }
    fn numbers(w: &Writer) -> Promised {
        Promised { acked: w.acked.load(Ordering::SeqCst), asked: w.asked.load(Ordering::SeqCst) }
    }
    fn played(from: u64, said: &str) -> (Promised, Vec<u8>) {
        let (w, mut heard) = (writer(from, true), Vec::new());
        w.work(&mut heard, said.as_bytes(), "hello\n", |_, n| format!("{n};")).unwrap();
        (numbers(&w), heard)
    }

    #[test]
    fn only_whole_answers_count() {
        assert_eq!(played(0, ""), (Promised { acked: 0, asked: 0 }, b"hello\n".into()));
        assert_eq!(played(7, "ready\n8\n9\n"), (Promised { acked: 9, asked: 10 }, b"hello\n8;9;10;".into()));
        assert_eq!(played(8, "ready\n9\n10").0, Promised { acked: 9, asked: 10 }, "a line without its end");
        assert_eq!(played(8, "ready\n9\nERROR\n").0, Promised { acked: 9, asked: 10 });
        assert!(writer(0, false).work(Vec::new(), &b"ready\n"[..], "", |_, _| String::new()).is_err());
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_nothing_that_was_not_asked_for() {
        let p = Promised { acked: 4, asked: 5 };
        assert_eq!([3, 4, 5, 6].map(|found| p.allows(found)), [false, true, true, false]);
    }
}
