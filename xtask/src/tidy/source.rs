//! A file as the rules see it: as written, and as code without comments, texts and tests.

/// A text file.
pub struct Source {
    /// From the root of the workspace, with slashes.
    pub path: String,
    pub text: String,
    /// Of a Rust file: the text with comments and the insides of literals blanked, line for line.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// The code in front of the file's tests, which stand last. Nothing of a file of tests.
    pub fn code_without_tests(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        let tests = self.code.match_indices("#[cfg(test)]").find(|(at, mark)| {
            let rest = self.code[at + mark.len()..].trim_start();
            rest.starts_with("mod ") && rest.lines().next().is_some_and(|line| line.ends_with('{'))
        });
        tests.map_or(self.code.as_str(), |(at, _)| &self.code[..at])
    }
}

/// Lines (from 1) of `code` where one of these stands, not as part of a longer name.
pub fn places(code: &str, words: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        found.extend(words.iter().filter(|word| stands(line, word)).map(|word| (number + 1, (*word).to_owned())));
    }
    found
}

fn stands(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = |end: Option<char>, edge: Option<char>| !(end.is_some_and(part_of_name) && edge.is_some_and(part_of_name));
        open(before, word.chars().next()) && open(after, word.chars().next_back())
    })
}

/// What stands in the text at a place of it.
enum Piece {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut piece) = (0, Piece::Code);
    while at < chars.len() {
        let (length, shown, next) = step(&chars[at..], at.checked_sub(1).map(|before| chars[before]), &piece);
        for &c in &chars[at..(at + length).min(chars.len())] {
            out.push(if shown || c == '\n' { c } else { ' ' });
        }
        at += length;
        piece = next.unwrap_or(piece);
    }
    out
}

/// How many characters go together here, whether they are code, and what stands after them if that changes.
fn step(rest: &[char], before: Option<char>, piece: &Piece) -> (usize, bool, Option<Piece>) {
    let starts = |mark: &str| mark.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    match piece {
        Piece::Code if starts("//") => (2, false, Some(Piece::LineComment)),
        Piece::Code if starts("/*") => (2, false, Some(Piece::BlockComment(1))),
        Piece::Code if starts("\"") => (1, true, Some(Piece::Text)),
        Piece::Code if starts("'\\") => (literal_length(rest), true, None),
        Piece::Code if starts("'") && rest.get(2) == Some(&'\'') => (3, true, None),
        Piece::Code if starts("r") && !before.is_some_and(|c| c.is_alphanumeric() && c != 'b' && c != 'c' || c == '_') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') { (2 + hashes, true, Some(Piece::RawText(hashes))) } else { (1, true, None) }
        }
        Piece::Code => (1, true, None),
        Piece::LineComment if starts("\n") => (1, true, Some(Piece::Code)),
        Piece::BlockComment(depth) if starts("/*") => (2, false, Some(Piece::BlockComment(depth + 1))),
        Piece::BlockComment(1) if starts("*/") => (2, false, Some(Piece::Code)),
        Piece::BlockComment(depth) if starts("*/") => (2, false, Some(Piece::BlockComment(depth - 1))),
        Piece::Text if starts("\\") => (2, false, None),
        Piece::Text if starts("\"") => (1, true, Some(Piece::Code)),
        Piece::RawText(hashes) if starts("\"") && rest[1..].iter().take_while(|c| **c == '#').count() >= *hashes => {
            (1 + hashes, true, Some(Piece::Code))
        }
        _ => (1, false, None),
    }
}

/// Length of a character literal that begins with an escape: `'\n'`, `'\''`, `'\u{1f}'`.
fn literal_length(rest: &[char]) -> usize {
    rest.iter().skip(3).position(|c| *c == '\'').map_or(rest.len(), |end| end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let rows = [
            ("a // unsafe", "a"),
            ("a /* x /* y */ z */ b", "a                   b"),
            ("f(\"unsafe \\\" x\") + 1", "f(\"           \") + 1"),
            ("r#\"a \" b\"# c", "r#\"     \"# c"),
            ("'\"' x // y", "'\"' x"),
            ("'\\'' x", "'\\'' x"),
            ("fn f<'a>(x: &'a str) // y", "fn f<'a>(x: &'a str)"),
        ];
        for (text, code) in rows {
            assert_eq!(blank(text).trim_end(), code, "{text}");
        }
    }

    #[test]
    fn tests_are_not_the_files_code() {
        let text = "fn a() {}\n#[cfg(test)]\nfn only_then() {}\n#[cfg(test)]\nmod tests {\n    Instant::now();\n}\n";
        let source = Source::new("mesh-userspace/src/table/a.rs", text);
        assert_eq!(source.code_without_tests().lines().count(), 3);
        assert_eq!(Source::new("mesh-userspace/src/table/tests.rs", text).code_without_tests(), "");
    }

    #[test]
    fn words_stand_for_themselves() {
        assert_eq!(places("use aya;\nuse aya_log;", &["aya"]), [(1, "aya".to_owned())]);
        assert_eq!(places("let a = std::fs::read(x);", &["std::fs"]).len(), 1);
        assert!(places("let unsafely = 1;", &["unsafe"]).is_empty());
    }
}
