//! Fuzz targets: any bytes are an input, and nothing may panic or break what holds for all inputs.
//!
//! `cargo xtask fuzz` looks for new ones with the coverage of the code to guide it. What it kept lies in `tests/fuzz/TARGET`, is run in every
//! test of the host, and by the kernel where it is about packets.

mod corpus;
mod draw;
mod orders;
mod script;
mod seeds;
mod text;

pub use corpus::{read, write};
pub use draw::Mutator;
pub use script::Script;

/// What is fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Target {
    /// Frames, to maps as the daemon writes them.
    Packet,
    /// Frames, to maps that are overwritten in places.
    Maps,
    /// The configuration, in YAML, JSON or TOML.
    Config,
    /// Bodies of requests to the API.
    Api,
}

impl Target {
    pub const ALL: [Self; 4] = [Self::Packet, Self::Maps, Self::Config, Self::Api];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Maps => "maps",
            Self::Config => "config",
            Self::Api => "api",
        }
    }

    /// Runs one input. Panics if it shows a fault.
    pub fn run(self, input: &[u8]) {
        match self {
            Self::Packet => script::run(&Script::read(input, false)),
            Self::Maps => script::run(&Script::read(input, true)),
            Self::Config => text::run(input),
            Self::Api => orders::run(input),
        }
    }

    /// Inputs to begin with, made of what the other tests use.
    pub fn seeds(self) -> Vec<Vec<u8>> {
        match self {
            Self::Packet | Self::Maps => seeds::scripts(),
            Self::Config => seeds::texts(),
            Self::Api => seeds::requests(),
        }
    }
}
