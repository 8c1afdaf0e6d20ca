//! `cargo xtask lint`: what a reviewer should not have to say.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    setup::{self, Need},
    tidy,
    workspace::{cargo, run as execute},
};

pub fn run() -> Result<()> {
    setup::ensure(&[Need::Build])?;
    execute(&mut cargo(&["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    tidy::run()?;
    execute(&mut clippy())?;
    kernel_half()
}

fn clippy() -> Command {
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Clippy sees mesh-ebpf as the host does. What the compiler says of it for its own target comes out of the build script, as warnings that no
/// flag turns into errors. Cargo repeats them for as long as they hold, so the second run only reads them.
fn kernel_half() -> Result<()> {
    let output = clippy().output().context("failed to start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let warnings = warnings(&said);
    ensure!(warnings.is_empty(), "the kernel half has warnings:\n{}", warnings.join("\n"));
    Ok(())
}

/// Lines that the build script warned with.
fn warnings(said: &str) -> Vec<&str> {
    said.lines().filter_map(|l| l.strip_prefix("warning: mesh-userspace@")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_the_kernel_half_are_found() {
        let said = "   Compiling a\nwarning: mesh-userspace@0.1.0: unused variable\nwarning: other\n";
        assert_eq!(warnings(said), ["0.1.0: unused variable"]);
    }
}
