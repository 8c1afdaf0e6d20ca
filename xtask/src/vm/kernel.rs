//! Kernels to boot: a folder, a package, or a version that Debian has a cloud image of.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    setup::refresh_packages,
    workspace::{output, run},
};

/// Modules that the tests use, in the order of their dependencies. One that a kernel has built in, or doesn't have, is left out.
pub const MODULES: &[&str] = &["llc", "stp", "bridge", "veth", "dummy", "sch_ingress", "cls_bpf"];

/// Those that IPVS needs besides.
pub const IPVS_MODULES: &[&str] = &["libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "ip_tunnel", "ip_vs", "ip_vs_rr"];

/// A kernel, unpacked.
#[derive(Debug)]
pub struct Kernel {
    /// As it was asked for.
    pub name: String,
    pub image: PathBuf,
    /// Files of the modules that there are, in the order to load them.
    pub modules: Vec<PathBuf>,
}

/// Finds the kernel that `wanted` names, and downloads it into `cache` if need be. `modules`: names of those to load.
pub fn get(wanted: &str, cache: &Path, modules: &[&str]) -> Result<Kernel> {
    let path = Path::new(wanted);
    let folder = if path.is_dir() {
        path.to_path_buf()
    } else if wanted.ends_with(".deb") {
        unpack(path, cache)?
    } else {
        unpack(&download(wanted, cache)?, cache)?
    };
    in_folder(&folder, wanted, modules)
}

/// The kernel in a folder that holds what a package holds: `boot/vmlinuz-VERSION` and `lib/modules/VERSION`.
fn in_folder(folder: &Path, name: &str, wanted: &[&str]) -> Result<Kernel> {
    let image = entries(&folder.join("boot"))?.into_iter().find(|p| file_name(p).starts_with("vmlinuz-"));
    let image = image.with_context(|| format!("no boot/vmlinuz-* in {}", folder.display()))?;
    let version = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
    let modules = ["lib/modules", "usr/lib/modules"].map(|m| folder.join(m).join(&version));
    let modules = modules.iter().find(|m| m.is_dir()).with_context(|| format!("no modules of {version} in {}", folder.display()))?;
    let mut files = HashMap::new();
    index(&modules.join("kernel"), &mut files)?;
    let modules = wanted.iter().filter_map(|name| files.remove(*name)).collect();
    Ok(Kernel { name: name.to_owned(), image, modules })
}

/// Downloads the newest cloud image of a version; the package's file.
fn download(version: &str, cache: &Path) -> Result<PathBuf> {
    let mut packages = search(version)?;
    if packages.is_empty() {
        refresh_packages()?;
        packages = search(version)?;
    }
    let remedy = || format!("no package of a cloud kernel {version}: name a folder or a .deb file by --kernel");
    let package = packages.into_iter().max_by_key(|name| numbers(name)).with_context(remedy)?;
    let debs = cache.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("failed to make {}", debs.display()))?;
    let find = || Ok::<_, anyhow::Error>(entries(&debs)?.into_iter().find(|p| file_name(p).starts_with(&format!("{package}_"))));
    if let Some(deb) = find()? {
        return Ok(deb);
    }
    run(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download", &package]).current_dir(&debs))?;
    find()?.with_context(|| format!("apt-get left no file of {package}"))
}

fn search(version: &str) -> Result<Vec<String>> {
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let pattern = format!(r"^linux-image-{}\.[0-9.]+[-+][0-9a-z+.-]*cloud-{arch}$", version.replace('.', r"\."));
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    Ok(found.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
}

/// The numbers in a package's name, by which versions compare.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Unpacks a package into a folder of the cache, once.
fn unpack(deb: &Path, cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(deb.file_stem().with_context(|| format!("{} is no package", deb.display()))?);
    if !folder.exists() {
        let part = folder.with_extension(format!("part-{}", std::process::id()));
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&part))?;
        // Whole or not at all: an interrupted run leaves no folder by the name that counts.
        fs::rename(&part, &folder).with_context(|| format!("failed to rename {}", part.display()))?;
    }
    Ok(folder)
}

/// Modules below a folder by name; file names may have dashes where modules have underscores, and end in `.ko`, `.ko.xz` or the like.
fn index(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = file_name(&path).split_once(".ko") {
            files.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    Ok(list.flatten().map(|entry| entry.path()).collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let names =
            ["linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.20+deb12-cloud-amd64"];
        assert_eq!(names.into_iter().max_by_key(|n| numbers(n)), Some(names[1]));
    }
}
