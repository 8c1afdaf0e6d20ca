//! Client and server over a real unix socket, up to the seam where the daemon's loop takes commands.

mod access;
mod calls;
mod events;
mod node;
pub(crate) mod sample;
pub(crate) mod seam;
