//! Links between the documents.

use std::path::Path;

use super::source::Source;

pub const SENTENCE: &str = "Every relative link in a document leads to a file that is there.";

/// Links in Markdown files that lead nowhere: `file:line: target`.
pub fn dead(root: &Path, sources: &[Source]) -> Vec<String> {
    let documents = sources.iter().filter(|s| s.path.ends_with(".md"));
    let links = documents.flat_map(|s| targets(&s.text).into_iter().map(move |(line, target)| (s, line, target)));
    let dead = links.filter(|(s, _, target)| !root.join(&s.path).parent().is_some_and(|folder| folder.join(target).exists()));
    dead.map(|(s, line, target)| format!("{}:{line}: {target}", s.path)).collect()
}

/// Relative targets of `[text](target)`, without their anchors, and the lines that they are in.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, target));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "[a](Cargo.toml) [b](#here)\n[c](https://example.org/x) [d](gone.md#there)";
        let document = [Source::new("README.md", text)];
        assert_eq!(dead(&crate::workspace::root(), &document), ["README.md:2: gone.md"]);
    }
}
