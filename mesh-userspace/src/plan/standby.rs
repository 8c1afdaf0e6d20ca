use super::{PlannedBackend, Standing};

/// Has backups stand by that are not needed. Levels are the backups' numbers, from 0 (no backup) on: the next one joins while those before have less than
/// `below` percent of the weight of level 0 in use, or nothing at all.
pub fn stand_by<'a>(members: impl Iterator<Item = &'a mut PlannedBackend>, below: u8) {
    let mut members: Vec<_> = members.collect();
    members.sort_by_key(|m| m.backup);
    if members.last().is_none_or(|m| m.backup == 0) {
        return;
    }
    let weight = |m: &PlannedBackend| u64::from(m.configured.0);
    let needed: u64 = members.iter().filter(|m| m.backup == 0).map(|m| weight(m)).sum::<u64>() * u64::from(below.min(100));
    let mut used = 0u64;
    for level in members.chunk_by_mut(|a, b| a.backup == b.backup) {
        let joins = level.first().is_some_and(|m| m.backup == 0) || used == 0 || used * 100 < needed;
        if joins {
            // Who is on trial gets a share to see how it does, and can't be relied on.
            used += level.iter().filter(|m| m.factor.0 > 0 && m.standing != Standing::OnTrial).map(|m| weight(m)).sum::<u64>();
        } else {
            level.iter_mut().filter(|m| m.factor.0 > 0).for_each(|m| m.stand_by());
        }
    }
}

impl PlannedBackend {
    fn stand_by(&mut self) {
        self.standing = Standing::Standby;
        self.state = self.standing.state(self.sparing);
        self.weigh(self.parts);
    }
}
