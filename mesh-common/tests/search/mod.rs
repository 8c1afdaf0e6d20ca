//! Every world that can come about, each looked at once, nearest first: the search that tests of the ledger's rules share.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt::Debug,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// What is searched.
pub trait World: Copy + Eq + Hash {
    type Event: Copy + Debug;
    type Broken: Debug;

    /// The one world of all that differ from this one by nothing that counts.
    fn canonical(self) -> Self;

    /// All that can happen next, and whether there is room for an entry.
    fn events(&self) -> Vec<(Self::Event, bool)>;

    /// The world after the event.
    fn after(self, event: Self::Event, room: bool) -> Result<Self, Self::Broken>;
}

/// What a search found.
pub struct Found<W: World> {
    pub worlds: usize,
    /// There was nothing more to look at.
    pub complete: bool,
    /// The shortest way to a broken flow, and whether there was room for an entry. Each event names things as the world before it does, see
    /// [`World::canonical`].
    pub broken: Option<(Way<W>, W::Broken)>,
}

impl<W: World> Found<W> {
    /// Tells how many worlds there were. Fails if a flow breaks in one of them.
    pub fn unbroken(&self, name: &str) {
        let Self { worlds, complete, broken } = self;
        println!("{name}: {worlds} worlds, {}", if *complete { "all there are" } else { "and more" });
        assert!(broken.is_none(), "{name}: {broken:?}");
    }

    /// The same, and fails if there was more to look at.
    pub fn unbroken_in_all(&self, name: &str) {
        self.unbroken(name);
        assert!(self.complete, "{name}: there are more than {} worlds", self.worlds);
    }
}

/// How many worlds a search that takes long is to look at, at most; `None`: it is not asked for, and that is said.
pub fn asked_for(name: &str) -> Option<usize> {
    let most = std::env::var("MESH_LEDGER_WORLDS").ok().and_then(|n| n.parse().ok());
    if most.is_none() {
        println!("{name}: looked at if MESH_LEDGER_WORLDS says how many worlds at most");
    }
    most
}

type Way<W> = Vec<(<W as World>::Event, bool)>;
/// Which world each came from, and by what.
type Came<W> = Vec<Option<(u32, <W as World>::Event, bool)>>;

/// Looks at worlds from `first` on until there are no more or `most` of them.
pub fn search<W: World>(first: W, most: usize) -> Found<W> {
    let first = first.canonical();
    let mut numbers: HashMap<W, u32, BuildHasherDefault<Mixed>> = [(first, 0)].into_iter().collect();
    let mut came: Came<W> = vec![None];
    let mut waiting = VecDeque::from([(first, 0)]);
    while let Some((world, number)) = waiting.pop_front() {
        if came.len() >= most {
            return Found { worlds: came.len(), complete: false, broken: None };
        }
        for (event, room) in world.events() {
            match world.after(event, room) {
                Ok(next) => {
                    if let Entry::Vacant(place) = numbers.entry(next.canonical()) {
                        waiting.push_back((*place.key(), came.len() as u32));
                        place.insert(came.len() as u32);
                        came.push(Some((number, event, room)));
                    }
                }
                Err(broken) => {
                    let mut way = way::<W>(&came, number);
                    way.push((event, room));
                    return Found { worlds: came.len(), complete: false, broken: Some((way, broken)) };
                }
            }
        }
    }
    Found { worlds: came.len(), complete: true, broken: None }
}

fn way<W: World>(came: &Came<W>, last: u32) -> Way<W> {
    let mut way = Vec::new();
    let mut number = last;
    while let Some((from, event, room)) = came[number as usize] {
        way.push((event, room));
        number = from;
    }
    way.reverse();
    way
}

/// A hash of small numbers that takes little time: most of what a search does is to ask whether it knows a world.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }
}
