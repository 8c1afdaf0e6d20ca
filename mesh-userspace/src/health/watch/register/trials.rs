//! Checks that are made at once, because somebody doubts the target.

use std::{sync::Arc, time::Instant};

use super::Register;
use crate::health::{
    Check,
    watch::{TargetId, target::Trial},
};

impl Register {
    /// Targets to be checked at once, because somebody doubts them, with the checks to make: `most` of them, by turns.
    pub fn take_doubted(&mut self, now: Instant, most: usize) -> Vec<(TargetId, Arc<Check>)> {
        let mut taken = Vec::new();
        let mut first = std::mem::take(&mut self.doubted);
        let then = first.split_off(&(self.tried + 1));
        for id in then.into_iter().chain(first) {
            let Some(target) = self.by_id.get(&id).and_then(|key| self.targets.get_mut(key)) else { continue };
            match target.trial {
                Trial::From(when) if when <= now && taken.len() < most => {
                    (target.trial, self.tried) = (Trial::UnderWay, id);
                    taken.push((id, target.trial_check()));
                }
                Trial::From(_) => {
                    self.doubted.insert(id);
                }
                Trial::UnderWay => {}
            }
        }
        taken
    }

    /// When the next trial is due.
    pub fn next_trial(&self) -> Option<Instant> {
        let due = |id: &TargetId| match self.target(*id)?.trial {
            Trial::From(when) => Some(when),
            Trial::UnderWay => None,
        };
        self.doubted.iter().filter_map(due).min()
    }

    pub fn has_doubts(&self) -> bool {
        !self.doubted.is_empty()
    }
}
