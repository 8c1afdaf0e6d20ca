//! `cargo xtask lint`: what a reviewer should not have to say.

use std::process::Stdio;

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
    execute(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    kernel_half()
}

/// Clippy sees mesh-ebpf as the host does. What the compiler says of it for its own target comes out of the build script, as warnings that cargo
/// repeats for as long as they hold.
fn kernel_half() -> Result<()> {
    let mut command = cargo(&["check", "--locked", "--workspace"]);
    let output = command.stdin(Stdio::null()).output().context("failed to start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = said.lines().filter_map(|l| l.strip_prefix("warning: mesh-userspace@")).collect();
    ensure!(output.status.success(), "{said}");
    ensure!(warnings.is_empty(), "the kernel half has warnings:\n{}", warnings.join("\n"));
    Ok(())
}
