//! The slot ledger: how a slot changes its owner without a flow being torn from its backend.
//!
//! A slot at rest owns its flows by arithmetic alone. While it moves, a flow that must not follow it is named by an entry, and a flow is led
//! elsewhere only if that can be remembered: *owner(f) = entry(f), else the slot's default*. The default changes only when every flow that lives by
//! it is dead, named by an entry, or idle for longer than is promised.
//!
//! [`rules`] is what a packet does, [`change`] what the daemon does; both are pure, and are searched together in `tests/ledger`. [`places`] is where
//! entries lie, [`second`] who is asked where they were lost, and [`among`] what other balancers of the same services have to say in it.

pub mod among;
pub mod change;
pub mod places;
pub mod rules;
pub mod second;
