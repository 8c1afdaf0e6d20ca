//! The Debian package, installed by dpkg over this very system in a mount namespace that is thrown away.

use std::{env, process::Command};

use anyhow::{Context, Result, ensure};
use mesh_tests::deploy;
use tempfile::TempDir;

/// Lays an overlay over `/`, installs, uses, removes and purges; says `INSTALLED`, `REMOVED` and `PURGED` as it gets there. What is changed is memory.
const LIFE: &str = r#"
set -eu
mount -t tmpfs tmpfs "$1/room"
mkdir "$1/room/upper" "$1/room/work" "$1/room/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/room/upper,workdir=$1/room/work" "$1/room/root"
root="$1/room/root"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
cp "$1/mesh.deb" "$root/mesh.deb"
inside() { chroot "$root" "$@"; }
export DEBIAN_FRONTEND=noninteractive
inside dpkg --install /mesh.deb
inside dpkg --verify mesh
inside mesh check /etc/mesh/mesh.yaml
inside systemctl is-enabled mesh.service || true
inside bash -c 'source /usr/share/bash-completion/completions/mesh && complete -p mesh'
inside sh -c 'zcat -f /usr/share/man/man1/mesh-backend-drain.1*' | grep -q 'Send new flows elsewhere'
echo INSTALLED
inside dpkg --remove mesh
test ! -e "$root/usr/bin/mesh" -a -e "$root/etc/mesh/mesh.yaml"
echo REMOVED
inside dpkg --purge mesh
test ! -e "$root/etc/mesh/mesh.yaml" -a ! -e "$root/usr/lib/systemd/system/mesh.service"
echo PURGED
"#;

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}:\n{out}\n{err}", output.status);
    Ok(format!("{out}{err}"))
}

/// The package that `cargo xtask test image` has made, in a folder with room for an overlay.
fn package() -> Result<TempDir> {
    let package = env::var_os("MESH_DEB").context("run this by `cargo xtask test image`, or name a package by MESH_DEB")?;
    let directory = tempfile::Builder::new().prefix("mesh-deb-").tempdir()?;
    std::fs::create_dir(directory.path().join("room"))?;
    std::fs::copy(&package, directory.path().join("mesh.deb")).with_context(|| format!("failed to copy {}", package.display()))?;
    Ok(directory)
}

#[test]
fn dpkg_installs_removes_and_purges_it() -> Result<()> {
    let directory = package()?;
    let deb = directory.path().join("mesh.deb");
    let info = said(Command::new("dpkg-deb").arg("--info").arg(&deb))?;
    for line in ["Package: mesh", "Section: net", "Maintainer: ", "libc6"] {
        ensure!(info.contains(line), "the package should say `{line}`:\n{info}");
    }
    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(&deb))?;
    #[rustfmt::skip]
    let files = [
        "./usr/bin/mesh", "./usr/lib/systemd/system/mesh.service", "./etc/mesh/mesh.yaml", "./usr/share/man/man1/mesh.1",
        "./usr/share/bash-completion/completions/mesh", "./usr/share/zsh/vendor-completions/_mesh", "./usr/share/fish/vendor_completions.d/mesh.fish",
        "./usr/share/doc/mesh/configuration.md", "./usr/share/doc/mesh/copyright",
    ];
    for file in files {
        ensure!(contents.contains(file), "the package lacks {file}:\n{contents}");
    }
    // Without a network: what removing the package detaches is nobody's.
    let life = said(Command::new("unshare").args(["--mount", "--net", "sh", "-c", LIFE, "sh"]).arg(directory.path()))?;
    for word in ["INSTALLED", "REMOVED", "PURGED", "good: 1 interfaces, 1 services, 2 backends", "disabled", "-F _mesh mesh"] {
        ensure!(life.contains(word), "{word} is not in\n{life}");
    }
    Ok(())
}

#[test]
fn systemd_rates_the_unit_as_safe() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("mesh.service");
    std::fs::write(&unit, deploy::UNIT)?;
    let rated = said(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(&unit))?;
    let score =
        rated.lines().find_map(|line| line.split_once("exposure level for mesh.service: ")?.1.split(' ').next()?.parse::<f64>().ok());
    ensure!(score.with_context(|| format!("no score in\n{rated}"))? <= 3.5, "{rated}");
    Ok(())
}
