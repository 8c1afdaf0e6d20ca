//! Which threads go before what else runs on the machine: those whose lateness would look like the silence of a backend, or keep a dead one in use.
//!
//! Measured on a busy machine, a heartbeat of 1 ms is late by 10 ms fifteen times as often at an ordinary priority as at a real-time one.

use nix::{
    errno::Errno,
    libc,
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// Nice value of [`prompt`] threads.
const NICE: i32 = -10;
/// Real-time priority of [`urgent`] threads: the lowest, which is above all that have none.
const REAL_TIME: i32 = 1;

/// Lets threads of this process do the rest of this file later, when it has no capability for it any more. Needs CAP_SYS_RESOURCE.
pub fn allow() -> Result<(), Errno> {
    // The kernel counts nice values from 20 downwards, getrlimit(2).
    for (resource, wanted) in [(Resource::RLIMIT_NICE, 20 - NICE as i64), (Resource::RLIMIT_RTPRIO, i64::from(REAL_TIME))] {
        let (soft, hard) = getrlimit(resource)?;
        let wanted = wanted.unsigned_abs();
        if soft < wanted {
            setrlimit(resource, wanted, hard.max(wanted))?;
        }
    }
    Ok(())
}

/// The calling thread goes before ordinary ones. Threads and processes that it makes don't.
pub fn prompt() -> Result<(), Errno> {
    schedule(libc::SCHED_OTHER, 0)?;
    // SAFETY: no memory is passed; 0 is the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) }).map(drop)
}

/// The calling thread goes before all ordinary ones; it must never have much to do. Where that is not allowed, it is [`prompt`].
pub fn urgent() -> Result<(), Errno> {
    schedule(libc::SCHED_RR, REAL_TIME).or_else(|_| prompt())
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> Result<(), Errno> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid for the call, which reads it; 0 is the calling thread.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const param) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Nice value of the calling thread.
    fn nice() -> i32 {
        // SAFETY: no memory is passed; 0 is the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    fn policy() -> i32 {
        // SAFETY: no memory is passed; 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_thread_goes_before_others_and_what_it_makes_does_not() {
        let _ = allow();
        let check = |ask: fn() -> Result<(), Errno>| {
            thread::spawn(move || {
                let before = (nice(), policy());
                let made = match ask() {
                    Ok(()) => {
                        assert!(nice() == NICE || policy() == libc::SCHED_RR);
                        0
                    }
                    // Not everybody may.
                    Err(e) => {
                        assert!(matches!(e, Errno::EPERM | Errno::EACCES) && (nice(), policy()) == before, "{e}");
                        before.0.max(0)
                    }
                };
                assert_eq!(thread::spawn(|| (nice(), policy())).join().ok(), Some((made, libc::SCHED_OTHER)));
            })
        };
        for ask in [prompt, urgent] {
            assert!(check(ask).join().is_ok());
        }
    }
}
