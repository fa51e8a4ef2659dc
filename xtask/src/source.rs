//! Reads Rust just far enough for the checks: what is code and what is comment or text, and which lines are tests.

/// A file of Rust.
pub struct Source {
    /// The file with comments, strings and characters blanked out; same length, same lines.
    pub code: String,
    /// For each line whether it belongs to an item under `#[cfg(test)]` or `#[test]`.
    pub in_test: Vec<bool>,
}

impl Source {
    /// Never fails: what is no Rust gives some answer.
    pub fn parse(text: &str) -> Source {
        let code = blank(text);
        let mut in_test = vec![false; text.lines().count()];
        for mark in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
            for (at, _) in code.match_indices(mark) {
                let end = item_end(&code, at);
                let first = code[..at].matches('\n').count();
                let last = first + code[at..end].matches('\n').count();
                in_test.iter_mut().take(last + 1).skip(first).for_each(|l| *l = true);
            }
        }
        Source { code, in_test }
    }
    /// Lines outside tests.
    pub fn lines_without_tests(&self) -> usize {
        self.in_test.iter().filter(|t| !**t).count()
    }
    /// Numbers, from 1, of the lines outside tests whose code contains `what`.
    pub fn lines_with(&self, what: &str) -> Vec<usize> {
        let lines = self.code.lines().zip(&self.in_test).enumerate();
        lines.filter(|(_, (l, t))| !**t && l.contains(what)).map(|(i, _)| i + 1).collect()
    }
}

/// Where the item that starts with the attribute at `at` ends: behind its block, or its semicolon.
fn item_end(code: &str, at: usize) -> usize {
    let mut depth = 0usize;
    for (i, b) in code.bytes().enumerate().skip(at) {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            b';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes.get(i + 1) == Some(&b'/') => find(bytes, i, b"\n"),
            b'/' if bytes.get(i + 1) == Some(&b'*') => block_comment_end(bytes, i),
            b'"' => string_end(bytes, i),
            b'r' if raw_hashes(bytes, i).is_some() && !is_word_before(bytes, i) => raw_end(bytes, i),
            b'\'' => char_end(bytes, i),
            _ => i,
        };
        if end > i {
            out[i..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
            i = end;
        } else {
            i += 1;
        }
    }
    // Whole characters were replaced byte by byte, the rest is untouched, so this is UTF-8 still.
    String::from_utf8_lossy(&out).into_owned()
}
fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..].windows(what.len()).position(|w| w == what).map_or(bytes.len(), |p| from + p)
}
fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut i, mut depth) = (from, 0usize);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    i
}
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut i = from + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}
/// How many hashes a raw string that starts with the `r` at `at` has.
fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}
fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = raw_hashes(bytes, at).unwrap_or(0);
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    (find(bytes, at + 2 + hashes, &close) + close.len()).min(bytes.len())
}
fn is_word_before(bytes: &[u8], at: usize) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    match at.checked_sub(1).map(|i| bytes[i]) {
        // br"…" and cr"…" are raw strings, bar"…" is none.
        Some(b'b' | b'c') => at >= 2 && word(&bytes[at - 2]),
        Some(b) => word(&b),
        None => false,
    }
}
/// The end of a character, or `at` itself for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => find(bytes, (at + 3).min(bytes.len()), b"'") + 1,
        Some(b'\'') | None => at,
        Some(first) => {
            let len = match first {
                0..0x80 => 1,
                0x80..0xE0 => 2,
                0xE0..0xF0 => 3,
                _ => 4,
            };
            if bytes.get(at + 1 + len) == Some(&b'\'') { at + 2 + len } else { at }
        }
    }
    .min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_code() {
        let cases = [
            "a /* x /* y */ z */ b",
            "a // unwrap()\nb",
            r#"f("a \" .unwrap()", 'x', '\'', '"') b"#,
            "fn f<'a>(x: &'a str) -> &'a str { x }",
            "r#\"one \" two\"# + br\"x\" b",
            "'ä' b \"ä",
        ];
        let blanked = cases.map(|c| {
            let b = blank(c);
            assert_eq!(b.len(), c.len());
            b.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        assert_eq!(blanked, ["a b", "a b", "f( , , , ) b", cases[3], "+ b b", "b"]);
    }

    #[test]
    fn lines_of_tests_are_known() {
        let text = "fn a() { x.unwrap() }\n\
                    #[cfg(test)]\nuse std::fs;\n\
                    fn b() { \"}\"; y.unwrap() }\n\
                    #[cfg(test)]\nmod tests {\n    fn c() { z.unwrap() }\n}\n\
                    fn d() {}\n";
        let s = Source::parse(text);
        assert_eq!(s.lines_with(".unwrap()"), [1, 4]);
        assert_eq!(s.lines_without_tests(), 3);
    }

    #[test]
    fn any_bytes_are_survived() {
        for text in ["'", "\"", "r#", "r\"", "/*", "'\\", "#[cfg(test)]", "b'", "'ä", "*/", "}", "r###\"x\"#", "'\\u"]
        {
            for n in 0..=text.len() {
                if text.is_char_boundary(n) {
                    Source::parse(&text[..n]);
                    Source::parse(&format!("x{}", &text[n..]));
                }
            }
        }
    }
}
