//! Every world that can come about, each looked at once.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{
    event::{Broken, Event},
    world::World,
};

/// What a search found.
pub struct Found {
    pub worlds: usize,
    /// There was nothing more to look at.
    pub complete: bool,
    /// The shortest way to a broken flow, and whether there was room for an entry. Each event names things as the world before it does, see
    /// [`World::canonical`].
    pub broken: Option<(Vec<(Event, bool)>, Broken)>,
}

/// Looks at worlds from `first` on, nearest first, until there are no more or `most` of them.
pub fn search<const FLOWS: usize>(first: World<FLOWS>, most: usize) -> Found {
    let first = first.canonical();
    let mut numbers = HashMap::from([(first, 0)]);
    // Which world each came from, and by what.
    let mut came: Vec<Option<(u32, Event, bool)>> = vec![None];
    let mut waiting = VecDeque::from([(first, 0)]);
    while let Some((world, number)) = waiting.pop_front() {
        if came.len() >= most {
            return Found { worlds: came.len(), complete: false, broken: None };
        }
        for (event, full) in steps(&world) {
            match (World { full, ..world }).after(event) {
                Ok(next) => {
                    let next = World { full: false, ..next }.canonical();
                    if let Entry::Vacant(place) = numbers.entry(next) {
                        place.insert(came.len() as u32);
                        waiting.push_back((next, came.len() as u32));
                        came.push(Some((number, event, full)));
                    }
                }
                Err(broken) => {
                    let mut way = way(&came, number);
                    way.push((event, full));
                    return Found { worlds: came.len(), complete: false, broken: Some((way, broken)) };
                }
            }
        }
    }
    Found { worlds: came.len(), complete: true, broken: None }
}

/// All that can happen next; what may have to be remembered, with room and without.
fn steps<const FLOWS: usize>(world: &World<FLOWS>) -> impl Iterator<Item = (Event, bool)> {
    let events = world.events();
    let without: Vec<Event> = events.iter().copied().filter(|event| world.may_remember(*event)).collect();
    events.into_iter().map(|event| (event, false)).chain(without.into_iter().map(|event| (event, true)))
}

fn way(came: &[Option<(u32, Event, bool)>], last: u32) -> Vec<(Event, bool)> {
    let mut way = Vec::new();
    let mut number = last;
    while let Some((from, event, full)) = came[number as usize] {
        way.push((event, full));
        number = from;
    }
    way.reverse();
    way
}
