//! Named steps: a command or a check, its time, its tests; and the report that sums them up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A command to run.
pub struct Step {
    /// What the report calls it.
    pub name: String,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Minutes it may take; it is killed then.
    pub minutes: Option<f64>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
}

/// The cargo that runs us.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// How a command ended.
pub struct Outcome {
    /// Exit code 0 within its minutes.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// All lines of standard output.
    pub lines: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs a command without input; its output appears as it comes, standard output is also kept.
pub fn execute(root: &Path, step: &Step) -> Outcome {
    let start = Instant::now();
    let fail = |why: String, lines, took| Outcome { ok: false, why, lines, took };
    let mut command = Command::new(&step.program);
    command.args(&step.args).current_dir(root).stdin(Stdio::null()).stdout(Stdio::piped());
    command.envs(step.env.iter().map(|(k, v)| (k, v)));
    // A group of its own, so that a step out of time goes with everything it started.
    let mut child = match command.process_group(0).spawn() {
        Ok(child) => child,
        Err(e) => return fail(format!("cannot start {}: {e}", step.program), Vec::new(), start.elapsed()),
    };
    let out = child.stdout.take().expect("standard output was asked to be piped");
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = step.minutes.map(|m| start + Duration::from_secs_f64(m * 60.0));
    let mut kept = Vec::new();
    loop {
        let left = deadline.map_or(Duration::from_secs(3600), |d| d.saturating_duration_since(Instant::now()));
        match lines.recv_timeout(left) {
            Ok(line) => {
                println!("{line}");
                kept.push(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if deadline.is_some_and(|d| Instant::now() >= d) => {
                kill_group(child.id());
                let _ = child.wait();
                let minutes = step.minutes.unwrap_or_default();
                return fail(format!("took longer than its {minutes} minutes"), kept, start.elapsed());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    // Standard output is closed; a process that lives on without it is still waited for, within its time.
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                return Outcome { ok: true, why: String::new(), lines: kept, took: start.elapsed() };
            }
            Ok(Some(status)) => return fail(format!("ended with {status}"), kept, start.elapsed()),
            Err(e) => return fail(format!("cannot be waited for: {e}"), kept, start.elapsed()),
            Ok(None) if deadline.is_some_and(|d| Instant::now() >= d) => {
                kill_group(child.id());
                let _ = child.wait();
                return fail("closed its output and ran out of time".into(), kept, start.elapsed());
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn kill_group(leader: u32) {
    // The group is ours alone: it was made for this child, which has not been waited for yet.
    if let Err(e) = Command::new("kill").args(["-9", "--", &format!("-{leader}")]).status() {
        eprintln!("cannot run kill: {e}");
    }
}

/// Sums the tests that cargo's test runner reports, passed and failed; None where it reported nothing. Other programs' own
/// totals (seeds, images) are no tests and are left out.
pub fn count_tests(lines: &[String]) -> Option<(u64, u64)> {
    let mut found = None;
    for line in lines.iter().filter_map(|l| l.trim().strip_prefix("test result: ")) {
        let words: Vec<&str> = line.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        let before = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        if let (Some(p), Some(f)) = (before("passed"), before("failed")) {
            let (sum_p, sum_f) = found.unwrap_or((0, 0));
            found = Some((sum_p + p, sum_f + f));
        }
    }
    found
}

#[derive(Debug)]
struct Done {
    name: String,
    took: Duration,
    minutes: Option<f64>,
    passed: u64,
    failed: u64,
    why: String,
}

/// What was run and how it went.
#[derive(Default, Debug)]
pub struct Report {
    quiet: bool,
    done: Vec<Done>,
}

impl Report {
    /// A report that prints nothing of its own: only the exit code tells.
    pub fn quiet() -> Report {
        Report { quiet: true, done: Vec::new() }
    }
    /// Runs a command. A command that counts no tests counts as one.
    pub fn run(&mut self, root: &Path, step: Step) -> bool {
        if !self.quiet {
            println!("== {}: {} {}", step.name, step.program, step.args.join(" "));
        }
        let o = execute(root, &step);
        let (passed, mut failed) = count_tests(&o.lines).unwrap_or((u64::from(o.ok), 0));
        if !o.ok && failed == 0 {
            // It broke otherwise: did not build, was killed, lost its totals.
            failed = 1;
        }
        let ok = o.ok && failed == 0;
        self.push(Done { name: step.name, took: o.took, minutes: step.minutes, passed, failed, why: o.why });
        ok
    }
    /// Runs a check, which returns what it found wrong.
    pub fn check(&mut self, name: &str, minutes: Option<f64>, check: impl FnOnce() -> Vec<String>) -> bool {
        println!("== {name}");
        let start = Instant::now();
        let wrong = check();
        for w in &wrong {
            println!("{w}");
        }
        let took = start.elapsed();
        let late = minutes.is_some_and(|m| took.as_secs_f64() > m * 60.0);
        let why = match (wrong.len(), late) {
            (0, false) => String::new(),
            (0, true) => format!("took longer than its {} minutes", minutes.unwrap_or_default()),
            (n, _) => format!("{n} found"),
        };
        let ok = why.is_empty();
        self.push(Done { name: name.into(), took, minutes, passed: u64::from(ok), failed: u64::from(!ok), why });
        ok
    }
    fn push(&mut self, done: Done) {
        if !self.quiet {
            println!("== {}", line(&done));
        }
        let _ = std::io::stdout().flush();
        self.done.push(done);
    }
    /// Takes over the steps of another report.
    pub fn extend(&mut self, other: Report) {
        self.done.extend(other.done);
    }
    /// Prints all steps and, alone on the last line, the sum of their tests.
    pub fn finish(self) -> ExitCode {
        let passed: u64 = self.done.iter().map(|d| d.passed).sum();
        let failed: u64 = self.done.iter().map(|d| d.failed).sum();
        if !self.quiet {
            println!();
            for d in &self.done {
                println!("{}", line(d));
            }
            println!("{passed} passed, {failed} failed");
        }
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn line(d: &Done) -> String {
    let verdict = if d.failed == 0 { "ok" } else { "FAILED" };
    let of = d.minutes.map_or(String::new(), |m| format!(" of {:.0}", m * 60.0));
    let counts = if d.passed + d.failed > 1 { format!(" [{} + {}]", d.passed, d.failed) } else { String::new() };
    let why = if d.why.is_empty() { String::new() } else { format!(": {}", d.why) };
    format!("{verdict:6} {:18} {:8.1}{of} s{counts}{why}", d.name, d.took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, minutes: Option<f64>) -> Step {
        let args = ["-c", script].map(String::from).to_vec();
        Step { name: "sh".into(), program: "sh".into(), args, minutes, env: Vec::new() }
    }

    #[test]
    fn counts_of_test_runners_are_summed() {
        let lines = [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "300 passed, 0 failed",
            "test result: unreadable",
        ];
        assert_eq!(count_tests(&lines.map(String::from)), Some((14, 3)));
        assert_eq!(count_tests(&["nothing".to_string()]), None);
    }

    #[test]
    fn a_step_that_breaks_counts_as_a_failed_test() {
        let root = std::env::temp_dir();
        let said = |p, f, code| format!("echo 'test result: x. {p} passed; {f} failed; 0 ignored'; exit {code}");
        let mut r = Report::default();
        assert!(r.run(&root, sh("echo fine", None)));
        assert!(r.run(&root, sh(&said(5, 0, 0), None)));
        assert!(!r.run(&root, sh(&said(5, 0, 3), None)));
        assert!(!r.run(&root, sh(&said(5, 2, 0), None)));
        assert!(!r.run(&root, Step { program: "/no/such/program".into(), ..sh("", None) }));
        let sums: Vec<_> = r.done.iter().map(|d| (d.passed, d.failed)).collect();
        assert_eq!(sums, [(1, 0), (5, 0), (5, 1), (5, 2), (0, 1)]);
        assert!(r.done[2].why.contains('3'), "{:?}", r.done[2]);
        assert_eq!(r.finish(), ExitCode::FAILURE);
    }

    #[test]
    fn a_step_out_of_time_is_killed_with_its_children() {
        let start = Instant::now();
        let o = execute(&std::env::temp_dir(), &sh("echo begun; sleep 1000 & sleep 1000", Some(0.005)));
        assert!(!o.ok && o.why.contains("minutes"), "{}", o.why);
        assert_eq!(o.lines, ["begun"]);
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
