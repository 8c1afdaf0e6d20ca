//! What the binary knows of itself: the configuration's schema and keys, completions for shells, man pages.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::Cli;
use crate::config::{self, keys};

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON schema of the configuration
    Schema,
    /// Print every key of the configuration and what it means
    Keys {
        /// As a document
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Shell that completes
    pub shell: Shell,
}

#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Directory that the pages are written to, one for each command; without it the first page is printed
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// What `mesh config ...` prints.
pub fn configuration(command: &ConfigCommand) -> serde_json::Result<String> {
    let schema = config::schema();
    match command {
        ConfigCommand::Schema => Ok(format!("{}\n", serde_json::to_string_pretty(&schema)?)),
        ConfigCommand::Keys { markdown: false } => Ok(keys::lines(&keys::tables(&schema))),
        ConfigCommand::Keys { markdown: true } => Ok(keys::markdown(&keys::tables(&schema))),
    }
}

/// Script that has `shell` complete the command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mesh", &mut script);
    script
}

/// The page `mesh(1)`.
pub fn man_page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page)?;
    Ok(page)
}

/// Writes `mesh.1` and a page for each command below it.
pub fn man_pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = String::from_utf8(completions(shell)).unwrap();
            for word in ["drain", "completions", "output"] {
                assert!(script.contains(word), "{shell} does not complete {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path()).unwrap();
        for (page, word) in [("mesh.1", "Exit codes"), ("mesh-run.1", "config"), ("mesh-backend-drain.1", "Send new flows elsewhere")] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.starts_with(".ie") || text.contains(".TH"), "{page} is no man page");
            assert!(text.contains(word), "{page} says nothing of {word}");
        }
        assert!(std::fs::read(directory.path().join("mesh.1")).unwrap() == man_page().unwrap());
    }

    #[test]
    fn the_schema_is_data_and_the_keys_are_text() {
        let schema: serde_json::Value = serde_json::from_str(&configuration(&ConfigCommand::Schema).unwrap()).unwrap();
        assert_eq!(schema["properties"]["services"]["type"], "array");
        assert_eq!(schema["additionalProperties"], false);
        let keys = configuration(&ConfigCommand::Keys { markdown: false }).unwrap();
        assert!(keys.lines().any(|line| line.starts_with("services[].vip ")), "{keys}");
    }
}
