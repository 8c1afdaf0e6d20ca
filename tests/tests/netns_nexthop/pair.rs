//! Two namespaces and a cable between them.

use std::{
    fs::File,
    io::Write,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, setns};

pub const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// `lb0` (10.9.0.1/24, fd09::1/64) - `peer0` (10.9.0.2/24, fd09::2/64, fe80::2), each in a namespace of its own, gone when dropped.
pub struct Pair {
    lb: String,
    peer: String,
}

impl Pair {
    pub fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pair = Self { lb: format!("meshnet-lb-{id}"), peer: format!("meshnet-peer-{id}") };
        ip(&["netns", "add", &pair.lb]);
        ip(&["netns", "add", &pair.peer]);
        pair.lb_ip(&["link", "add", "lb0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "peer0", "netns", &pair.peer]);
        pair.peer_ip(&["link", "set", "peer0", "address", "02:00:00:00:00:02"]);
        pair.peer_ip(&["addr", "add", "fe80::2/64", "dev", "peer0", "nodad"]);
        for (host, namespace, device) in [(1, &pair.lb, "lb0"), (2, &pair.peer, "peer0")] {
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&["-n", namespace, "addr", "add", &format!("10.9.0.{host}/24"), "brd", "+", "dev", device]);
            ip(&["-n", namespace, "addr", "add", &format!("fd09::{host}/64"), "dev", device, "nodad"]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
        pair
    }

    /// Runs `ip` in the balancer's namespace.
    pub fn lb_ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.lb], args].concat())
    }

    /// Runs `ip` in the peer's namespace.
    pub fn peer_ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.peer], args].concat())
    }

    /// Many `ip` commands at once in the balancer's namespace.
    pub fn lb_batch(&self, commands: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.lb, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("ip can be run");
        child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("write to ip");
        assert!(child.wait().expect("wait for ip").success());
    }

    /// Sets `net.{ipv4,ipv6}.neigh.lb0.*` in the balancer's namespace.
    pub fn lb_sysctls(&self, settings: &[(&str, u32)]) {
        self.in_lb(async {
            for (key, value) in settings {
                for family in ["ipv4", "ipv6"] {
                    let path = format!("/proc/sys/net/{family}/neigh/lb0/{key}");
                    std::fs::write(&path, value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
                }
            }
        });
    }

    /// Runs a future on a thread that lives in the balancer's namespace.
    pub fn in_lb(&self, work: impl Future<Output = ()> + Send) {
        self.run(work, || ());
    }

    /// The same as user nobody.
    pub fn in_lb_without_privileges(&self, work: impl Future<Output = ()> + Send) {
        self.run(work, || {
            // SAFETY: the system call takes three numbers; called raw, it changes this thread alone, which ends with the test.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(done, 0, "become nobody");
        });
    }

    fn run(&self, work: impl Future<Output = ()> + Send, prepare: impl FnOnce() + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.lb)).expect("the namespace was made");
        let ran = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace: this test needs CAP_SYS_ADMIN");
                prepare();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(work);
            });
            thread.join()
        });
        if let Err(panic) = ran {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.lb, &self.peer] {
            // A test may have failed before it was made.
            let _ = run(&["netns", "del", namespace]);
        }
    }
}

fn ip(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "`ip {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(args: &[&str]) -> Output {
    Command::new("ip").args(args).output().expect("ip can be run")
}
