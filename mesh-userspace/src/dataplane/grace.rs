//! Waiting until every packet that is under way is done.
//!
//! The kernel half runs in softirqs, and no thread preempts those: once a thread of ours has run on each CPU, all that began before is over. That takes
//! well below a millisecond for a thread that goes before others. An RCU grace period, as which membarrier(2) serves, takes some 20 ms, and hundreds on a
//! busy machine; it is what remains where CPUs are out of reach, and where softirqs are preempted (PREEMPT_RT).

use std::{fs, sync::LazyLock};

use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::extents::GRACE;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

static PREEMPTED_SOFTIRQS: LazyLock<bool> =
    LazyLock::new(|| fs::read_to_string("/proc/version").map_or(true, |text| text.contains("PREEMPT_RT")));

/// Waits until no packet is under way that can have read what stood before.
pub fn grace_period() {
    if *PREEMPTED_SOFTIRQS || visit_all().is_err() {
        rcu();
    }
}

/// Runs on each CPU once, and then again where it may.
fn visit_all() -> Result<(), Errno> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|text| cpus(text.trim()));
    let (online, mine) = (online.ok_or(Errno::ENODATA)?, sched_getaffinity(SELF)?);
    let visited = online.into_iter().try_for_each(|cpu| {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        // It returns when the thread runs there.
        sched_setaffinity(SELF, &only)
    });
    visited.and(sched_setaffinity(SELF, &mine))
}

/// `0-3,5`.
fn cpus(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        all.extend(first..=last);
    }
    Some(all)
}

/// Where that is not permitted either, or the machine has CPUs without ticks, time has to do.
fn rcu() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !done {
        std::thread::sleep(GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("0"), Some(vec![0]));
        assert_eq!(cpus("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpus(""), None);
        assert_eq!(cpus("0-x"), None);
    }

    #[test]
    fn who_waits_may_run_afterwards_where_it_might_before() {
        let before = sched_getaffinity(SELF).unwrap();
        grace_period();
        assert_eq!(sched_getaffinity(SELF).unwrap(), before);
    }
}
