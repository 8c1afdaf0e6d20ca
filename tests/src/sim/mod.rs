//! What decides, without a network and by the project's own code: failure detection, slots that move, weights.

pub mod breaking;
pub mod churn;
pub mod draw;
pub mod fleet;
pub mod keepers;
mod nodes;
pub mod noise;
mod optimum;
mod policy;
pub mod queue;
pub mod random;
pub mod rules;
pub mod show;
pub mod weights;
