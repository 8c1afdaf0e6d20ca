//! The only room that knows aya and netlink: load, attach, pins, and the reconciliation of a plan with the maps.

pub mod net;
