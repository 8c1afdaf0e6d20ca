//! The contract of mesh's two halves, and the packet engine that both run.
//!
//! No IO, no clock, no maps: everything here is a function of its arguments, so that the host can test and fuzz what the kernel runs.
//!
//! ```text
//! frame -> header -> forward::decide -> Verdict -> rewrite -> account::settle -> Exit
//!            |            |                |
//!          Packet      Tables: VIP, slot, backend, NAT flow
//! ```
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod abi;
pub mod account;
pub mod answer;
pub mod aside;
pub mod checksum;
mod dnat;
pub mod explain;
pub mod flow;
pub mod flow_log;
pub mod forward;
pub mod fragment;
pub mod guard;
pub mod gue;
pub mod handshake;
pub mod hash;
mod header;
#[cfg(not(target_arch = "bpf"))]
pub mod host;
pub mod icmp;
pub mod ledger;
pub mod nat;
mod outline;
pub mod packet;
pub mod patch;
mod quic;
pub mod rewrite;
pub mod schedule;
mod select;
pub mod shared;
pub mod tables;
mod tunnel;

#[cfg(target_endian = "big")]
compile_error!("words of packets and maps are compared as they lie in memory, which is worked out for little-endian machines only");
