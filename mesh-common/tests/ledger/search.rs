//! Every world that can come about, each looked at once.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::world::{Broken, Event, World};

/// What a search found.
pub struct Found {
    pub worlds: usize,
    /// There was nothing more to look at.
    pub complete: bool,
    /// The shortest way to a broken flow.
    pub broken: Option<(Vec<Event>, Broken)>,
}

/// Looks at worlds from `first` on, nearest first, until there are no more or `most` of them.
pub fn search<const FLOWS: usize>(first: World<FLOWS>, health: bool, most: usize) -> Found {
    let mut came: HashMap<World<FLOWS>, Option<(World<FLOWS>, Event)>> = HashMap::from([(first, None)]);
    let mut waiting = VecDeque::from([first]);
    while let Some(world) = waiting.pop_front() {
        if came.len() >= most {
            return Found { worlds: came.len(), complete: false, broken: None };
        }
        for event in world.events(health) {
            match world.after(event) {
                Ok(next) => {
                    if let Entry::Vacant(place) = came.entry(next) {
                        place.insert(Some((world, event)));
                        waiting.push_back(next);
                    }
                }
                Err(broken) => {
                    let mut way = way(&came, world);
                    way.push(event);
                    return Found { worlds: came.len(), complete: false, broken: Some((way, broken)) };
                }
            }
        }
    }
    Found { worlds: came.len(), complete: true, broken: None }
}

fn way<const FLOWS: usize>(came: &HashMap<World<FLOWS>, Option<(World<FLOWS>, Event)>>, last: World<FLOWS>) -> Vec<Event> {
    let mut way = Vec::new();
    let mut world = last;
    while let Some(Some((from, event))) = came.get(&world) {
        way.push(*event);
        world = *from;
    }
    way.reverse();
    way
}
