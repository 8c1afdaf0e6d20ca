use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Admin, Sparing};
use crate::{
    health::{Health, breaker::Gate},
    model::{BackendState, Weight},
    weights::Factor,
};

/// Why a backend has the state that it has. Where several reasons hold, the first of this list counts: who is not to be reached at all comes before
/// who is only to be spared new flows, because a dead backend's old flows are not saved by the wish to drain it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The operator took it out.
    Maintenance,
    /// Its heartbeat failed.
    Unhealthy,
    /// Never checked so far: gets nothing.
    Unchecked,
    /// The operator drains it.
    Draining,
    /// It is suspected: new flows elsewhere until that is cleared up, old ones stay.
    Suspected,
    /// Its breaker is open: new flows elsewhere, old ones stay.
    Broken,
    /// It has as many flows as it may have: new ones elsewhere, old ones stay.
    Full,
    /// Its weight is 0: no new flows; old ones stay, but as those of a live backend.
    Weightless,
    /// Stands by while enough of the others can be used: no new flows, old ones stay.
    Standby,
    /// Its breaker tries it with a share.
    OnTrial,
    /// Came back a while ago; its share grows.
    Recovering,
    /// Takes its full share.
    Serving,
}

impl Standing {
    /// `ramp`: factor of the slow start. Whether it stands by depends on the others, and is not known here.
    pub fn of(admin: Admin, health: Health, gate: Gate, weight: Weight, ramp: Factor) -> Self {
        match (admin, health) {
            (Admin::Maintenance | Admin::Removed, _) => Self::Maintenance,
            (_, Health::Down) => Self::Unhealthy,
            (_, Health::Unknown) => Self::Unchecked,
            (Admin::Drain, Health::Up | Health::Soft) => Self::Draining,
            (Admin::In, Health::Soft) => Self::Suspected,
            (Admin::In, Health::Up) if gate == Gate::Open => Self::Broken,
            (Admin::In, Health::Up) if gate == Gate::Full => Self::Full,
            (Admin::In, Health::Up) if weight.0 == 0 => Self::Weightless,
            (Admin::In, Health::Up) if matches!(gate, Gate::Trial(_)) => Self::OnTrial,
            (Admin::In, Health::Up) if ramp < Factor::ONE => Self::Recovering,
            (Admin::In, Health::Up) => Self::Serving,
        }
    }

    /// What is published.
    pub fn state(self, sparing: Sparing) -> BackendState {
        match self {
            Self::Maintenance => BackendState::Maintenance,
            Self::Unhealthy | Self::Unchecked => BackendState::Down,
            Self::Draining => BackendState::Draining,
            Self::Suspected | Self::Broken | Self::Full if sparing == Sparing::Drain => BackendState::Draining,
            Self::Suspected | Self::Broken | Self::Full => BackendState::Soft,
            Self::Recovering | Self::OnTrial => BackendState::Recovering,
            Self::Weightless | Self::Standby | Self::Serving => BackendState::Active,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maintenance => "in maintenance",
            Self::Unhealthy => "heartbeat failed",
            Self::Unchecked => "not checked yet",
            Self::Draining => "drained by the operator",
            Self::Suspected => "suspected",
            Self::Broken => "its breaker is open",
            Self::Full => "at its limit of connections",
            Self::Weightless => "weight 0",
            Self::Standby => "stands by: enough of the others can be used",
            Self::OnTrial => "tried with a share",
            Self::Recovering => "coming back",
            Self::Serving => "in service",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination() {
        use {Admin::*, BackendState as S, Gate::*, Health::*};
        let one = (Weight::ONE, Factor::ONE);
        let rows = [
            (Maintenance, Up, Free, one, Standing::Maintenance, S::Maintenance),
            (Maintenance, Down, Free, one, Standing::Maintenance, S::Maintenance),
            (Maintenance, Unknown, Free, one, Standing::Maintenance, S::Maintenance),
            (Removed, Up, Free, one, Standing::Maintenance, S::Maintenance),
            (Drain, Up, Free, one, Standing::Draining, S::Draining),
            (Maintenance, Soft, Free, one, Standing::Maintenance, S::Maintenance),
            (Drain, Soft, Free, one, Standing::Draining, S::Draining),
            (In, Soft, Free, one, Standing::Suspected, S::Soft),
            (In, Soft, Free, (Weight(0), Factor(204)), Standing::Suspected, S::Soft),
            (Drain, Down, Free, one, Standing::Unhealthy, S::Down),
            (Drain, Unknown, Free, one, Standing::Unchecked, S::Down),
            (Drain, Up, Free, (Weight(0), Factor(1)), Standing::Draining, S::Draining),
            (In, Down, Free, one, Standing::Unhealthy, S::Down),
            (In, Unknown, Free, one, Standing::Unchecked, S::Down),
            (In, Up, Free, (Weight(0), Factor(1)), Standing::Weightless, S::Active),
            (In, Up, Free, (Weight(9), Factor(204)), Standing::Recovering, S::Recovering),
            (In, Up, Free, one, Standing::Serving, S::Active),
            (In, Up, Open, one, Standing::Broken, S::Soft),
            (In, Up, Full, one, Standing::Full, S::Soft),
            (In, Up, Open, (Weight(0), Factor(204)), Standing::Broken, S::Soft),
            (In, Up, Trial(Factor(204)), one, Standing::OnTrial, S::Recovering),
            (In, Up, Trial(Factor(204)), (Weight(9), Factor(204)), Standing::OnTrial, S::Recovering),
            (In, Up, Trial(Factor(204)), (Weight(0), Factor::ONE), Standing::Weightless, S::Active),
            (In, Down, Open, one, Standing::Unhealthy, S::Down),
            (In, Soft, Full, one, Standing::Suspected, S::Soft),
            (In, Unknown, Trial(Factor(204)), one, Standing::Unchecked, S::Down),
            (Drain, Up, Open, one, Standing::Draining, S::Draining),
            (Maintenance, Up, Full, one, Standing::Maintenance, S::Maintenance),
        ];
        for (admin, health, gate, (weight, ramp), standing, state) in rows {
            let got = Standing::of(admin, health, gate, weight, ramp);
            for sparing in [Sparing::Slots, Sparing::State] {
                assert_eq!((got, got.state(sparing)), (standing, state), "{admin:?} {health:?} {gate:?} {weight:?} {ramp:?}");
            }
            let led_away = if state == S::Soft { S::Draining } else { state };
            assert_eq!(got.state(Sparing::Drain), led_away, "{got:?}: other nodes know nothing of a suspicion");
        }
    }
}
