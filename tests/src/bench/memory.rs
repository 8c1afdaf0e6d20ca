//! What the kernel's maps take: `cargo xtask bench memory`.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use super::scale::charged;
use crate::{
    daemon::Daemon,
    netns::{Fabric, remove_stale},
};

const GROUP: &str = "mesh-memory";
/// Backends of each service, and slots of its table.
const BACKENDS: usize = 10;
const SLOTS: usize = 2048;
/// The least that a daemon accepts, where translation is not what is asked about.
const FEW_FLOWS: usize = 4096;
const MANY_FLOWS: usize = 1 << 20;

/// One daemon's maps.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// As in `limits`: what there is room for.
    pub services: usize,
    pub backends: usize,
    pub slots: usize,
    pub nat_flows: usize,
    pub bytes: u64,
    /// As the kernel accounts for them.
    pub maps: BTreeMap<String, u64>,
}

/// Loads the data plane with room for so much, as its daemon does, for 1, 100 and 10,000 services and for a million translated flows.
pub fn measure(mut tell: impl FnMut(&Memory) -> Result<()>) -> Result<()> {
    remove_stale(GROUP)?;
    for (services, nat_flows) in [(1, FEW_FLOWS), (100, FEW_FLOWS), (10_000, FEW_FLOWS), (1, MANY_FLOWS)] {
        tell(&one(services, nat_flows).with_context(|| format!("{services} services, {nat_flows} flows"))?)?;
    }
    Ok(())
}

fn one(services: usize, nat_flows: usize) -> Result<Memory> {
    let fabric = Fabric::new(GROUP)?;
    let host = fabric.host("balancer", 2)?;
    let (backends, slots) = ((services * BACKENDS).next_power_of_two(), (services * SLOTS).next_power_of_two());
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nlimits: {{services: {services}, slots: {slots}, backends: {backends}, nat_flows: {nat_flows}}}\n\
         services:\n- {{name: web, vip: '10.77.0.100:80', health: none, backends: [10.77.0.11]}}\n"
    );
    let daemon = Daemon::start(&host.ns, &config)?;
    let maps = maps(&daemon.pins())?;
    Ok(Memory { services, backends, slots, nat_flows, bytes: maps.values().sum(), maps })
}

/// Bytes of every map that is pinned there.
fn maps(pins: &Path) -> Result<BTreeMap<String, u64>> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(pins).with_context(|| format!("failed to list {}", pins.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Programs and links are pinned beside them, by names in small letters.
        if !name.contains(|c: char| c.is_ascii_lowercase()) {
            maps.insert(name, charged(&entry.path())?);
        }
    }
    anyhow::ensure!(!maps.is_empty(), "no map is pinned in {}", pins.display());
    Ok(maps)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Self { services, backends, slots, nat_flows, bytes, maps } = self;
        write!(f, "{services:>6} services, {backends:>7} backends, {slots:>9} slots, {nat_flows:>8} flows: {:>7.1} MiB", mib(*bytes))?;
        let mut largest: Vec<_> = maps.iter().collect();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        for (name, bytes) in largest.iter().take(5) {
            write!(f, "  {name} {:.1}", mib(**bytes))?;
        }
        Ok(())
    }
}
