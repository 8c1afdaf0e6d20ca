//! A bench in a machine whose clock counts instructions.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    Scratch, kernel, pack_modules, pack_programs,
    qemu::{self, Machine},
};
use crate::{
    binaries::{self, Binary},
    workspace,
};

const BENCH: &str = "mesh-bench";

/// Runs `mesh-bench <arguments>` in a stock kernel of this version with the modules of IPVS and these tools; the figures that it told.
pub fn counted(version: &str, arguments: &[String], tools: &[&str]) -> Result<Vec<String>> {
    let own = binaries::own()?;
    let cache = workspace::target().join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("failed to make {}", cache.display()))?;
    let modules = [kernel::MODULES, kernel::IPVS_MODULES].concat();
    let kernel = kernel::get(version, &cache, &modules)?;
    let work = Scratch::new(&cache)?;
    let (initramfs, console) = (work.0.join("initramfs"), work.0.join("console"));
    let bench = [Binary { name: BENCH.to_owned(), path: own.join(BENCH), folder: own.clone() }];
    pack_programs(&bench, arguments, tools, &own, &initramfs, &work.0).context("failed to pack the guest's programs")?;
    pack_modules(&kernel, File::options().append(true).open(&initramfs)?)?;
    let report =
        qemu::boot(&Machine { image: &kernel.image, initramfs: Path::new(&initramfs), console, name: &kernel.name, counted: true })?;
    report.ran()?;
    Ok(report.figures().to_vec())
}
