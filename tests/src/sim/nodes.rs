//! Balancers that each count the requests that they have sent themselves, and choose by that.

use super::{policy::Policy, random::Random};

/// How many there are where it is not one that sees all.
pub const NODES: usize = 8;
/// What one tells the others is so old at most, seconds.
const GOSSIP: f64 = 0.1;

/// Open requests by balancer and backend.
#[derive(Debug)]
pub struct Nodes {
    open: Vec<Vec<u32>>,
    /// The same as all were told it last.
    told: Vec<Vec<u32>>,
    told_at: f64,
    /// Requests, and those that went elsewhere than the table says.
    pub chosen: [u64; 2],
}

/// What a table and its weights say for a request.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub owner: usize,
    pub secondary: usize,
}

impl Nodes {
    pub fn new(nodes: usize, backends: usize) -> Self {
        let none = vec![vec![0; backends]; nodes];
        Self { open: none.clone(), told: none, told_at: 0.0, chosen: [0; 2] }
    }

    /// The balancer that a request comes to.
    pub fn meet(&self, random: &mut Random) -> usize {
        if self.open.len() > 1 { (random.word() % self.open.len() as u64) as usize } else { 0 }
    }

    pub fn begin(&mut self, node: usize, backend: usize) {
        self.open[node][backend] += 1;
    }

    pub fn end(&mut self, node: usize, backend: usize) {
        self.open[node][backend] -= 1;
    }

    /// Fewest open requests for what each can do.
    pub fn least(&self, node: usize, capacity: &[f64]) -> usize {
        let load = |i: usize| f64::from(self.open[node][i] + 1) / capacity[i];
        (0..capacity.len()).min_by(|a, b| load(*a).total_cmp(&load(*b))).unwrap_or(0)
    }

    /// The one with fewer open requests of two that are drawn.
    pub fn of_two(&self, node: usize, random: &mut Random) -> usize {
        let backends = self.open[node].len() as u64;
        let [a, b] = [0; 2].map(|_| (random.word() % backends) as usize);
        if self.open[node][b] < self.open[node][a] { b } else { a }
    }

    /// The slot's owner, or its secondary where the owner has `beyond` times as many open requests for its weight as all have on average, and more than
    /// the secondary. `told`: counts of the others count too, as old as they are.
    pub fn unless_crowded(&mut self, node: usize, slot: Slot, weights: &[f64], beyond: f64, told: Option<f64>) -> usize {
        if told.is_some_and(|now| now - self.told_at >= GOSSIP) {
            (self.told, self.told_at) = (self.open.clone(), told.unwrap_or_default());
        }
        let others = |i: usize| -> u32 { (0..self.told.len()).filter(|n| *n != node).map(|n| self.told[n][i]).sum() };
        let open = |i: usize| self.open[node][i] + if told.is_some() { others(i) } else { 0 };
        let cost = |i: usize| f64::from(open(i) + 1) / weights[i];
        let usual = (0..weights.len()).map(|i| f64::from(open(i) + 1)).sum::<f64>() / weights.iter().sum::<f64>();
        self.chosen[0] += 1;
        if cost(slot.owner) > beyond * usual && cost(slot.secondary) < cost(slot.owner) {
            self.chosen[1] += 1;
            return slot.secondary;
        }
        slot.owner
    }
}

/// How many balancers there are under a policy.
pub fn count(policy: Policy) -> usize {
    match policy {
        Policy::LeastLocal | Policy::TwoChoices | Policy::Crowded | Policy::CrowdedTold => NODES,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_crowded_is_passed_over() {
        let mut nodes = Nodes::new(2, 3);
        let slot = Slot { owner: 0, secondary: 1 };
        let weights = [1.0; 3];
        assert_eq!(nodes.unless_crowded(0, slot, &weights, 1.5, None), 0);
        (0..3).for_each(|_| nodes.begin(0, 0));
        assert_eq!(nodes.unless_crowded(0, slot, &weights, 1.5, None), 1);
        assert_eq!(nodes.unless_crowded(1, slot, &weights, 1.5, None), 0, "the other one has sent nothing");
        assert_eq!(nodes.unless_crowded(1, slot, &weights, 1.5, Some(0.05)), 0, "and was not told yet");
        assert_eq!(nodes.unless_crowded(1, slot, &weights, 1.5, Some(0.1)), 1);
        assert_eq!(nodes.unless_crowded(0, slot, &[3.0, 1.0, 1.0], 1.5, None), 0, "it can do more");
        assert_eq!((nodes.least(0, &weights), nodes.chosen), (1, [6, 2]));
        (0..3).for_each(|_| nodes.end(0, 0));
        assert_eq!(nodes.least(0, &weights), 0);
    }
}
