//! `cargo xtask tidy`: the invariants of the architecture, as sentences about what is absent.

mod files;
mod links;
mod rules;
mod source;

use anyhow::{Result, bail};

use self::{rules::RULES, source::Source};
use crate::workspace::root;

/// Checks every file of the workspace against every rule; prints the sentence of each that is broken, and where.
pub fn run() -> Result<()> {
    let root = root();
    let sources = files::read(&root)?;
    let mut broken = 0;
    for rule in RULES {
        let places: Vec<String> = sources.iter().filter(|s| (rule.covers)(&s.path)).flat_map(|s| found(s, rule.check)).collect();
        if !places.is_empty() {
            eprintln!("{}\n  {}", rule.sentence, places.join("\n  "));
            broken += 1;
        }
    }
    let dead = links::dead(&root, &sources);
    if !dead.is_empty() {
        eprintln!("{}\n  {}", links::SENTENCE, dead.join("\n  "));
        broken += 1;
    }
    let rules = RULES.len() + 1;
    if broken > 0 {
        bail!("{broken} of {rules} rules are broken");
    }
    println!("tidy: {} files keep {rules} rules", sources.len());
    Ok(())
}

fn found(source: &Source, check: rules::Check) -> Vec<String> {
    check.run(source).into_iter().map(|(line, what)| format!("{}:{line}: {what}", source.path)).collect()
}
