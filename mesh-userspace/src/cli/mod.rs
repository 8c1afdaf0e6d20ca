//! The command line: what can be said, and how it is answered.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such thing, 4 contradicts what is there or can't be, 5 no daemon answers, 6 not allowed.

mod args;
pub mod documents;
mod drain;
mod explain;
mod failure;
mod output;
mod plan;
mod query;
mod service_spec;
mod tables;
mod why;

pub use args::{
    AgentArgs, BackendCommand, CheckArgs, Cli, Command, DetachArgs, EventsArgs, Query, RunArgs, ServiceCommand, SourceCommand, Target,
};
pub use failure::Failure;
pub use output::Format;
pub use query::{answer, execute};

#[cfg(test)]
mod answers;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
