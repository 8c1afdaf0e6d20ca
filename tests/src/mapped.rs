//! Memory of the kernel's mmapable arrays, as slices.

use std::{marker::PhantomData, os::fd::AsFd, path::Path, slice};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use bytemuck::{AnyBitPattern, Pod};
use memmap2::{MmapOptions, MmapRaw};
use mesh::dataplane::{image::Row, tables::Tables};
use mesh_common::abi::Table;

/// All elements of one array map.
#[derive(Debug)]
pub struct Mapped<T> {
    memory: MmapRaw,
    len: usize,
    element: PhantomData<T>,
}

impl<T: AnyBitPattern> Mapped<T> {
    /// Maps the memory of the object's array `name`.
    pub fn open(ebpf: &Ebpf, name: &str) -> Result<Self> {
        let Map::Array(data) = ebpf.map(name).with_context(|| format!("the object has no map {name}"))? else {
            anyhow::bail!("{name} is no array");
        };
        let info = data.info()?;
        ensure!(info.value_size() as usize == size_of::<T>(), "{name} has values of {} bytes, not {}", info.value_size(), size_of::<T>());
        Self::of(data, name, info.max_entries() as usize)
    }

    /// Maps the memory of a table.
    pub fn table(tables: &Tables, table: Table) -> Result<Self> {
        let data = tables.map(table)?;
        Self::of(data, table.name(), entries::<T>(data, table)?)
    }

    fn of(data: &MapData, name: &str, len: usize) -> Result<Self> {
        ensure!(size_of::<T>().is_multiple_of(8), "the kernel rounds values of {name} up to 8 bytes");
        let memory = MmapOptions::new()
            .len((len * size_of::<T>()).next_multiple_of(4096))
            .map_raw(&data.fd().as_fd())
            .with_context(|| format!("failed to mmap {name}"))?;
        Ok(Self { memory, len, element: PhantomData })
    }

    /// The elements, for as long as no program runs over them: between test runs.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the mapping is as long as `len` elements, page-aligned, lives as long as `self`, is borrowed once, and any bytes are a `T`.
        // The programs that share it run only within the system calls of this thread.
        unsafe { slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }

    /// The elements as they stand.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

/// The entries of a table that a daemon has pinned.
pub fn pinned<T: Pod>(pins: &Path, table: Table) -> Result<Row<T>> {
    let path = pins.join(table.name());
    let data = MapData::from_pin(&path).with_context(|| format!("failed to open {}", path.display()))?;
    Row::map(data.fd().as_fd(), entries::<T>(&data, table)?).with_context(|| format!("failed to map {}", table.name()))
}

/// How many entries a table has, in one value or in as many.
fn entries<T>(data: &MapData, table: Table) -> Result<usize> {
    let (name, size) = (table.name(), size_of::<T>());
    ensure!(table.entry_size() == size, "{name} has entries of {} bytes, not {size}", table.entry_size());
    let info = data.info()?;
    let bytes = info.value_size() as usize * info.max_entries() as usize;
    ensure!(bytes.is_multiple_of(size), "{name} has {bytes} bytes, no whole number of {size}");
    Ok(bytes / size)
}
