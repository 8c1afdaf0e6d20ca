//! The demo: mesh's main job on real packets, shown and checked.

mod acts;
mod scoreboard;
mod screen;
mod summary;

pub use acts::{Options, clean, perform};
pub use summary::Summary;
