//! Evidence as recorded: one line of JSON for each measurement, only ever appended.

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which line of the table.
    pub id: String,
    /// What it shows.
    pub what: String,
    /// The command, as typed.
    pub command: String,
    /// The commit it ran at.
    pub commit: String,
    /// Whether the tree was that commit and nothing else.
    pub clean: bool,
    /// What came out, in the words of the command.
    pub figure: String,
    /// Load averages of the machine when it began.
    pub load: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether it held.
    pub pass: bool,
    /// Why not.
    pub why: String,
    /// When it began, seconds since 1970.
    pub at: u64,
}

/// The file of a name.
pub fn path(root: &Path, name: &str) -> PathBuf {
    root.join("docs/evidence").join(format!("{name}.jsonl"))
}

/// Whether a line says that `id` held at exactly this commit. What is no such line proves nothing.
pub fn proven(path: &Path, id: &str, commit: &str) -> Result<bool, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    Ok(text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .any(|v| v["id"] == id && v["commit"] == commit && v["clean"] == true && v["pass"] == true))
}

/// Appends one line; it is on disk when this returns, so that a run that is cut off loses nothing that was measured.
pub fn append(path: &Path, r: &Record) -> Result<(), String> {
    let line = json!({
        "id": r.id, "what": r.what, "command": r.command, "commit": r.commit, "clean": r.clean, "figure": r.figure,
        "load": r.load, "seconds": (r.seconds * 10.0).round() / 10.0, "pass": r.pass, "why": r.why, "at": r.at,
    });
    let write = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // A line cut off by a crash must not swallow the next one.
        let torn = std::fs::read(path).is_ok_and(|b| b.last().is_some_and(|c| *c != b'\n'));
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{}{line}\n", if torn { "\n" } else { "" }).as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_pass_at_the_commit_proves() {
        let path = std::env::temp_dir().join(format!("ledger-{}/x.jsonl", std::process::id()));
        assert_eq!(proven(&path, "a", "c1"), Ok(false));
        let r = Record {
            id: "a".into(),
            what: "it holds".into(),
            command: "true".into(),
            commit: "c1".into(),
            clean: true,
            figure: "5 \"of\" 5".into(),
            load: "0.1 0.2 0.3".into(),
            seconds: 1.26,
            pass: false,
            why: "no".into(),
            at: 7,
        };
        append(&path, &r).unwrap();
        assert_eq!(proven(&path, "a", "c1"), Ok(false));
        append(&path, &Record { pass: true, clean: false, ..r.clone() }).unwrap();
        assert_eq!(proven(&path, "a", "c1"), Ok(false));
        std::fs::File::options().append(true).open(&path).unwrap().write_all(b"{\"id\":\"a\",\"comm").unwrap();
        append(&path, &Record { pass: true, ..r.clone() }).unwrap();
        assert_eq!(proven(&path, "a", "c1"), Ok(true));
        assert_eq!((proven(&path, "a", "c2"), proven(&path, "b", "c1")), (Ok(false), Ok(false)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains(r#""figure":"5 \"of\" 5""#) && text.contains(r#""seconds":1.3"#), "{text}");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
