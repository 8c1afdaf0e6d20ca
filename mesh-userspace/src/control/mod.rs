//! The daemon: one loop that owns the state.
//!
//! ```text
//! reload, endpoints, health, next hops, orders -> core (pure) -> plan -> data plane
//!                                                  core -> wanted -> monitor, next hops, announcements, watch of files
//! ```

mod agents;
mod announcing;
mod answers;
mod asking;
mod beating;
mod breaking;
mod changes;
mod clusters;
mod core;
mod daemon;
mod detach;
mod draining;
mod drains;
mod error;
pub mod explaining;
mod following;
mod handle;
mod health_view;
mod inputs;
mod ledger_view;
mod made_up;
mod merge;
mod observing;
mod orders;
mod peers_view;
mod planning;
mod publishing;
mod report;
mod roll;
mod saver;
mod scheduling_view;
mod shutdown;
mod sourcing;
mod stale;
mod startup;
#[cfg(test)]
mod tests;
pub mod view;
mod weighing;
mod weight_view;
mod whatif;

pub use self::core::{Adopted, Core, Wanted};
pub use detach::detach;
pub use drains::{DrainEnd, DrainOrder, DrainSpec, DrainState, DrainView, Then};
pub use error::ControlError;
pub use explaining::ExplainView;
pub use handle::{BackendSpec, Command, Handle, ServiceSpec};
pub use made_up::{PacketSpec, TcpFlag};
pub(crate) use shutdown::{Asked, Signals};
pub use startup::run;
pub use weight_view::WeightView;
pub use whatif::{Intention, PlanView};
