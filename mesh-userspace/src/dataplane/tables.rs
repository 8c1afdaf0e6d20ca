//! Tables that the programs reach by their address ([`Table`]): made before the object is loaded, and put into it.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapError};
use aya_obj::Map;
use bytemuck::Pod;
use mesh_common::abi::{Fact, Table};
use nix::errno::Errno;

use super::{error::DataplaneError, image::Row, pins};

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const KEY_SIZE: u32 = size_of::<u32>() as u32;
/// Bytes that a program can have an index into (`BPF_MAX_VAR_OFF`).
const FAR: usize = 1 << 29;

/// Opcode of the instruction that loads 64 bits, which takes the place of two.
const LOAD: u8 = 0x18;
/// What its constant is: a number, a map, or the place in a map's only value (`BPF_PSEUDO_MAP_FD`, `BPF_PSEUDO_MAP_VALUE`).
const NUMBER: u8 = 0;
const MAP: u8 = 1;
const MAP_VALUE: u8 = 2;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// How programs reach the entries of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// By address, where the kernel lets a table of that size be the only value of its map.
    Address,
    /// By a call of the kernel's.
    Call,
}

/// All of them, as maps.
#[derive(Debug)]
pub struct Tables(Vec<Made>);

#[derive(Debug)]
struct Made {
    table: Table,
    map: MapData,
    entries: u32,
    /// The table is the only value of its map.
    addressed: bool,
}

impl Tables {
    /// Makes tables of so many entries, for nobody else.
    pub fn make(entries: impl Fn(Table) -> u32, reach: Reach) -> Result<Self, DataplaneError> {
        Table::ALL.iter().map(|table| Made::new(*table, entries(*table), reach)).collect::<Result<_, _>>().map(Self)
    }

    /// Takes over those that are pinned, and makes and pins those that are not. Tells whether there were some.
    pub fn open(entries: impl Fn(Table) -> u32, pin: impl Fn(&'static str) -> PathBuf) -> Result<(Self, bool), DataplaneError> {
        let mut found = false;
        let mut open = |table: Table| {
            let path = pin(table.name());
            if path.exists() {
                found = true;
                return Made::pinned(table, entries(table), &path);
            }
            let made = Made::new(table, entries(table), Reach::Address)?;
            made.map.pin(&path).map_err(|source| DataplaneError::Pin { path, source })?;
            Ok(made)
        };
        let tables = Table::ALL.iter().map(|table| open(*table)).collect::<Result<_, _>>()?;
        Ok((Self(tables), found))
    }

    /// A table's memory.
    pub fn row<T: Pod>(&self, table: Table) -> Result<Row<T>, DataplaneError> {
        let made = self.of(table)?;
        Row::map(made.map.fd().as_fd(), made.entries as usize).map_err(|source| DataplaneError::Mapping { name: table.name(), source })
    }

    /// The map that a table is.
    pub fn map(&self, table: Table) -> Result<&MapData, DataplaneError> {
        self.of(table).map(|made| &made.map)
    }

    /// An object that reaches these tables. They have to stay until its programs are loaded, which hold them from then on.
    pub fn object(&self, object: &[u8]) -> Result<Vec<u8>, DataplaneError> {
        let mut object = object.to_vec();
        let mut at = 0;
        while let Some(load) = object.get_mut(at..at + 2 * INSTRUCTION) {
            if let Some((table, fact)) = asked(load) {
                self.of(table)?.answer(fact, load);
            }
            at += INSTRUCTION;
        }
        Ok(object)
    }

    fn of(&self, table: Table) -> Result<&Made, DataplaneError> {
        self.0.iter().find(|made| made.table == table).ok_or(DataplaneError::Object { kind: "table", name: table.name() })
    }
}

impl Made {
    fn new(table: Table, entries: u32, reach: Reach) -> Result<Self, DataplaneError> {
        let create = |size: usize, entries| {
            let map = Map::new_from_params(BPF_MAP_TYPE_ARRAY, KEY_SIZE, size as u32, entries, BPF_F_MMAPABLE);
            MapData::create(map, table.name(), None).map_err(|source| DataplaneError::Make { name: table.name(), source })
        };
        let bytes = table.entry_size().saturating_mul(entries as usize);
        if bytes < FAR && reach == Reach::Address {
            match create(bytes, 1) {
                // Kernels before 6.6 take values of 4 MiB at most.
                Err(DataplaneError::Make { source: MapError::CreateError { io_error, .. }, .. })
                    if io_error.raw_os_error() == Some(Errno::E2BIG as i32) => {}
                made => return made.map(|map| Self { table, map, entries, addressed: true }),
            }
        }
        create(table.entry_size(), entries).map(|map| Self { table, map, entries, addressed: entries == 1 })
    }

    fn pinned(table: Table, entries: u32, path: &Path) -> Result<Self, DataplaneError> {
        let refused = |source| DataplaneError::Map { name: table.name(), source };
        let map = MapData::from_pin(path).map_err(refused)?;
        let info = map.info().map_err(refused)?;
        let addressed = info.max_entries() == 1;
        let entry_size = table.entry_size() as u32;
        let (pinned, rest) =
            if addressed { (info.value_size() / entry_size, info.value_size() % entry_size) } else { (info.max_entries(), 0) };
        let fields = [
            ("map type", info.map_type().map_err(refused)? as u32, BPF_MAP_TYPE_ARRAY),
            ("key size", info.key_size(), KEY_SIZE),
            ("value size", if addressed { entry_size + rest } else { info.value_size() }, entry_size),
            ("number of elements", pinned, entries),
            ("flags", info.map_flags(), BPF_F_MMAPABLE),
        ];
        pins::compare(path, &fields)?;
        Ok(Self { table, map, entries, addressed })
    }

    /// Puts a fact into the instruction that loads it.
    fn answer(&self, fact: Fact, load: &mut [u8]) {
        let map = self.map.fd().as_fd().as_raw_fd().cast_unsigned();
        let (kind, low) = match (fact, self.addressed) {
            (Fact::Address, true) => (MAP_VALUE, map),
            (Fact::Entries, true) => (NUMBER, self.entries),
            (Fact::Map, false) => (MAP, map),
            // What the programs don't come to.
            _ => (NUMBER, 0),
        };
        load[1] = load[1] & 0x0f | kind << 4;
        put(load, u64::from(low));
    }
}

/// What an instruction asks for, if it loads one of the constants that stand for a fact.
fn asked(load: &[u8]) -> Option<(Table, Fact)> {
    let [LOAD, _, 0, 0, a, b, c, d, 0, 0, 0, 0, high @ ..] = load else { return None };
    let high = u32::from_le_bytes(high.try_into().ok()?);
    Table::of_constant(u64::from(high) << 32 | u64::from(u32::from_le_bytes([*a, *b, *c, *d])))
}

/// Has an instruction load a number.
fn put(load: &mut [u8], number: u64) {
    load[4..8].copy_from_slice(&(number as u32).to_le_bytes());
    load[12..16].copy_from_slice(&((number >> 32) as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::{super::load::OBJECT, *};

    fn load(register: u8, constant: i64) -> Vec<u8> {
        let mut load = vec![LOAD, register, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        put(&mut load, constant.cast_unsigned());
        load
    }

    #[test]
    fn only_what_stands_for_a_fact_is_asked() {
        let constant = Table::Slots.constant(Fact::Entries);
        assert_eq!(asked(&load(3, constant)), Some((Table::Slots, Fact::Entries)));
        let mut other = load(3, constant);
        other[0] = 0xb7;
        assert_eq!(asked(&other), None, "another instruction");
        let mut other = load(3, constant);
        other[8] = LOAD;
        assert_eq!(asked(&other), None, "two instructions");
        assert_eq!(asked(&load(3, 0x1234)), None, "another constant");
        assert_eq!(asked(&load(3, constant)[..12]), None, "the end of the object");
    }

    #[test]
    fn the_object_asks_for_every_table() {
        let asks = |wanted| OBJECT.windows(2 * INSTRUCTION).step_by(INSTRUCTION).any(|load| asked(load) == Some(wanted));
        for table in Table::ALL.iter().copied() {
            assert!(asks((table, Fact::Address)), "{} is not reached", table.name());
            assert_eq!(asks((table, Fact::Entries)), asks((table, Fact::Map)), "{} is reached in one way only", table.name());
        }
    }
}
