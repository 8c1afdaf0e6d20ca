//! What the daemon may do: all that it was given while it starts, the least that it needs from then on.
//!
//! Capabilities belong to threads, and a new thread has those of the one that made it. So a thread of its own, the [`Opener`], keeps what was given
//! and does what needs it; the main thread limits itself before it makes any other, and when the opener ends nothing is left to be misused.

use std::{io, sync::mpsc, thread};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::{
    prctl,
    socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

type Job = Box<dyn FnOnce() + Send>;

/// The one thread that keeps every capability. It ends with this value.
#[derive(Debug)]
pub struct Opener {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("failed to start the thread that opens what needs privileges: {0}")]
    Thread(#[from] io::Error),
    #[error("failed to give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    #[error("failed to forbid programs that the daemon starts to gain privileges: {0}")]
    NoNewPrivileges(#[from] nix::errno::Errno),
    #[error("the thread that opens what needs privileges has ended before its time; the log above says why")]
    Gone,
}

/// What a running daemon needs, of what it was given.
pub fn needed() -> CapsHashSet {
    // Keeps neighbours resolved, adds and removes announced addresses, and keeps TC filters: all by netlink.
    let mut needed = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    if !may_ping() {
        // `health: icmp` then has nothing but raw sockets.
        needed.insert(Capability::CAP_NET_RAW);
    }
    needed
}

/// Whether `net.ipv4.ping_group_range` lets this process have echo sockets without privileges.
fn may_ping() -> bool {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).is_ok()
}

/// Leaves the calling thread, and all that it will make, with no more than these. Returns what is left.
///
/// What is given up can't come back by a program that is started either: the bounding set shrinks where CAP_SETPCAP allows it (it does not in a
/// container), and else no program may gain what its parent has not (`no_new_privs`).
pub fn keep_only(wanted: &CapsHashSet) -> Result<CapsHashSet, PrivilegeError> {
    let kept: CapsHashSet = caps::read(None, CapSet::Permitted)?.intersection(wanted).copied().collect();
    let bounded = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
    if bounded {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    } else {
        prctl::set_no_new_privs()?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(kept)
}

/// For people: `NET_ADMIN NET_RAW`, or `none`.
pub fn names(capabilities: &CapsHashSet) -> String {
    let mut names: Vec<String> = capabilities.iter().map(|c| c.to_string().trim_start_matches("CAP_").to_owned()).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

impl Opener {
    /// Starts the thread; it has what the calling thread has.
    pub fn spawn() -> Result<Self, PrivilegeError> {
        // Jobs come one at a time, and whoever sends one waits for its end: the channel never holds more than that one.
        let (jobs, waiting) = mpsc::channel::<Job>();
        let run = move || waiting.into_iter().for_each(|job| job());
        let thread = thread::Builder::new().name("opener".into()).spawn(run)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does something with every privilege, and waits for it. Threads that the job starts keep the privileges: it must start none that stay.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PrivilegeError> {
        let (tell, told) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // An error means that nobody waits any more.
            let _ = tell.send(job());
        });
        self.jobs.as_ref().ok_or(PrivilegeError::Gone)?.send(job).map_err(|_| PrivilegeError::Gone)?;
        told.recv().map_err(|_| PrivilegeError::Gone)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was told already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opener_keeps_what_others_give_up() {
        let alone = thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            let opener = Opener::spawn().unwrap();
            let kept = keep_only(&CapsHashSet::from([Capability::CAP_NET_ADMIN])).unwrap();
            assert!(kept.iter().all(|c| *c == Capability::CAP_NET_ADMIN));
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert_eq!(caps::read(None, set).unwrap(), kept);
            }
            assert_eq!(thread::spawn(|| caps::read(None, CapSet::Permitted).unwrap()).join().unwrap(), kept);
            assert_eq!(opener.run(|| caps::read(None, CapSet::Permitted).unwrap()).unwrap(), before);
        });
        alone.join().unwrap();
    }

    #[test]
    fn what_is_given_up_does_not_come_back_by_a_program() {
        let alone = thread::spawn(|| {
            let kept = keep_only(&CapsHashSet::new()).unwrap();
            assert_eq!(names(&kept), "none");
            let status = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
            let status = String::from_utf8(status.stdout).unwrap();
            for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
                assert!(status.contains(line), "{line} is not in\n{status}");
            }
        });
        alone.join().unwrap();
    }

    #[test]
    fn a_job_that_dies_is_an_error() {
        let opener = Opener::spawn().unwrap();
        assert_eq!(opener.run(|| 7).unwrap(), 7);
        assert!(matches!(opener.run(|| std::panic::resume_unwind(Box::new(()))), Err::<(), _>(PrivilegeError::Gone)));
        assert!(matches!(opener.run(|| 7), Err(PrivilegeError::Gone)));
    }
}
