//! Waking on time: the runtime's own timers count whole milliseconds and are up to two late, which is much for a check that has ten.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

/// For longer times the runtime's timers will do, which cost no descriptor.
const SHORT: Duration = Duration::from_millis(100);

/// Returns at `when`. Cancel safe.
pub(super) async fn sleep_until(when: Instant) {
    let wait = when.saturating_duration_since(Instant::now());
    // Where there is no descriptor left, late is better than never.
    if wait <= SHORT
        && let Ok(alarm) = alarm(wait)
        && alarm.readable().await.is_ok()
    {
        return;
    }
    tokio::time::sleep_until(when.into()).await;
}

fn alarm(wait: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    // A time of zero would never ring.
    let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
    timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
    let timer = OwnedFd::from(timer);
    // SAFETY: an OwnedFd names the same open file until it is dropped, and closes it only then.
    let alarm = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    alarm.map_err(|e| e.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_rings_early_nor_never() {
        for ms in [0, 1, 10, 120] {
            let when = Instant::now() + Duration::from_millis(ms);
            let rang = tokio::time::timeout(Duration::from_secs(30), sleep_until(when)).await;
            assert!(rang.is_ok() && Instant::now() >= when, "{ms} ms");
        }
    }
}
