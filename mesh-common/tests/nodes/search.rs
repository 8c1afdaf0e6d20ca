//! Every world that can come about, each looked at once, nearest first.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
};

use crate::world::{Broken, Event, World};

pub struct Found {
    pub worlds: usize,
    /// There was nothing more to look at.
    pub complete: bool,
    /// The shortest way to a broken flow; `false`: there was no room. Each event names things as the world before it does.
    pub broken: Option<(Vec<(Event, bool)>, Broken)>,
}

pub fn search<const FLOWS: usize>(first: World<FLOWS>, most: usize) -> Found {
    let first = first.canonical();
    let mut numbers: HashMap<World<FLOWS>, u32, BuildHasherDefault<Mixed>> = [(first, 0)].into_iter().collect();
    let mut came: Vec<Option<(u32, Event, bool)>> = vec![None];
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
                    let mut way = way(&came, number);
                    way.push((event, room));
                    return Found { worlds: came.len(), complete: false, broken: Some((way, broken)) };
                }
            }
        }
    }
    Found { worlds: came.len(), complete: true, broken: None }
}

fn way(came: &[Option<(u32, Event, bool)>], last: u32) -> Vec<(Event, bool)> {
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
