//! `cargo xtask generate`: what is written by machines for people to read, written anew. Tests say when that is due.
//!
//! The configuration's document comes from the binary, and so from its types; the plain manifests come from the chart.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::{
    setup::{self, Need},
    workspace::{cargo, output, root},
};

const HEAD: &str = "# mesh on every node: `kubectl apply -f daemonset.yaml`, after the configuration in the ConfigMap has become yours.
# This is what the chart beside it renders (`cargo xtask generate`); change the chart.
";

pub fn run() -> Result<()> {
    setup::ensure(&[Need::Build])?;
    write("docs/configuration.md", &mesh(&["config", "keys", "--markdown"])?)?;
    setup::ensure_python()?;
    write("deploy/daemonset.yaml", &manifests()?)
}

fn mesh(args: &[&str]) -> Result<String> {
    output(cargo(&["run", "--locked", "--quiet", "--package", "mesh-userspace", "--"]).args(args))
}

/// The chart as one list of manifests, the namespace first.
fn manifests() -> Result<String> {
    let mut python = Command::new(setup::python());
    python.arg(root().join("tests/src/helm.py")).args(["template"]).arg(root().join("deploy/chart")).args(["mesh", "mesh-system"]);
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("failed to start Python")?;
    child.stdin.take().context("no pipe")?.write_all(br#"{"createNamespace": true}"#)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the chart can't be rendered: {}", output.status);
    let rendered: Map<String, Value> = serde_json::from_slice(&output.stdout)?;
    let order = ["namespace", "rbac", "config", "daemonset"];
    let parts: Vec<&str> = order.iter().filter_map(|name| rendered.get(&format!("mesh/templates/{name}.yaml"))?.as_str()).collect();
    ensure!(parts.len() == order.len(), "the chart has other templates than {order:?}");
    Ok(format!("{HEAD}{}\n", parts.iter().map(|part| part.trim()).collect::<Vec<_>>().join("\n---\n")))
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = root().join(Path::new(name));
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        println!("{name}: as it was");
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    println!("{name}: written anew");
    Ok(())
}
