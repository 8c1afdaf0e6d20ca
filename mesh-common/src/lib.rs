//! The contract of mesh's two halves, and the packet engine that both run.
//!
//! No IO, no clock, no maps: everything here is a function of its arguments, so that the host can test and fuzz what the kernel runs.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
