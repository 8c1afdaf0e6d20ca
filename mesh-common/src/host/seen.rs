use core::cell::Cell;

use crate::{
    abi::Reason,
    account::Watch,
    forward::{Sending, Verdict},
};

/// What was decided, noted.
pub(super) struct Seen<'a>(pub &'a Cell<Verdict>);

impl Watch for Seen<'_> {
    fn ended(&self, service: u32, reason: Reason) {
        self.0.set(Verdict::End { service, reason });
    }

    fn sent(&self, sending: impl FnOnce() -> Sending) {
        self.0.set(Verdict::Send(sending()));
    }
}
