//! A program on a host that does what it reads, line by line, and says what came of it.

use crate::process::wait_until;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The program. Dropping it kills it.
pub struct Player {
    child: Child,
    /// None: there are no more.
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Player {
    /// Starts a command made by [`super::Host::command`].
    pub fn start(mut command: Command) -> Result<Player> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a program on a host")?;
        let orders = Some(child.stdin.take().context("its orders")?);
        let lines = BufReader::new(child.stdout.take().context("its answers")?).lines();
        let (to, answers) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| to.send(l)));
        Ok(Player { child, orders, answers })
    }
    /// Tells it what to do.
    pub fn order(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("there were to be no more orders")?;
        writeln!(orders, "{line}")?;
        Ok(orders.flush()?)
    }
    /// There are no more orders: waits until it has ended.
    pub fn end(mut self, most: Duration) -> Result<()> {
        self.orders = None;
        wait_until("the end of a program on a host", most, || self.child.try_wait().is_ok_and(|s| s.is_some()))?;
        Ok(())
    }
    /// The next line that it says. Errors: none within `most`, or it has ended.
    pub fn hears(&self, most: Duration) -> Result<String> {
        match self.answers.recv_timeout(most) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {:.1} s", most.as_secs_f64()),
            Err(RecvTimeoutError::Disconnected) => bail!("the program is gone"),
        }
    }
}
impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
