//! Connections outlive the loss of the ledger amid a change: a backend that knows nothing of one passes its packets on to who else may have it.

#[path = "netns_second_chance/known.rs"]
mod known;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_common::abi::{LedgerBucket, LedgerEntry, Table};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, Process, mesh_binary, peer_binary, wait_for},
    mapped::pinned,
    netns::Namespace,
    peer::{self, Held, HeldReport},
    stage::{PORT, Stage},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
/// The one that is drained.
const DRAINED: &str = "b2";
const PATIENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A third of them is on slots that the drain moves.
const HELD: usize = 48;
const PAUSE: Duration = Duration::from_millis(20);

/// Where backends run, and what their agents may do.
#[derive(Clone, Copy, Debug)]
struct Setting {
    v6: bool,
    /// Each in a namespace of its own behind a veth of its host, which routes.
    pods: bool,
    /// `--second-chance`.
    chance: &'static str,
}

/// One backend: where it runs, and its agent.
struct Backend {
    agent: Process,
    _servers: Vec<Process>,
    /// A pod's; a host's is an alias.
    ns: Namespace,
}

struct Play {
    // Ends before the namespaces that it runs in.
    daemon: Daemon,
    backends: Vec<(&'static str, Backend)>,
    logs: tempfile::TempDir,
    stage: Stage,
    vip: SocketAddr,
}

/// What an agent tells at its end of packets that came with a list.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    local: u64,
    passed_on: u64,
}

impl Setting {
    fn address(self, number: u8) -> IpAddr {
        match (self.v6, self.pods) {
            (false, false) => Ipv4Addr::new(10, 77, 0, number).into(),
            (false, true) => Ipv4Addr::new(10, 78, number, 2).into(),
            (true, false) => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into(),
            (true, true) => Ipv6Addr::new(0xfd78, number.into(), 0, 0, 0, 0, 0, 2).into(),
        }
    }

    fn vip(self) -> IpAddr {
        if self.v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 100).into() } else { Ipv4Addr::new(10, 77, 0, 100).into() }
    }

    fn backend(self, stage: &Stage, group: &str, (name, number): (&'static str, u8), logs: &tempfile::TempDir) -> Result<Backend> {
        let host = &stage.backends[name].ns;
        let ns = if self.pods { pod(stage, group, (name, number))? } else { host.alias()? };
        if self.chance == "off" {
            // Who gets what it does not know refuses it: a socket of the tuple's last use would say nothing that ends a connection.
            ns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        }
        let mut command = host.command(mesh_binary()?);
        command.args(["agent", "--interface", "eth0", "--vip", &self.vip().to_string(), "--second-chance", self.chance]);
        if self.pods {
            command.arg("--netns").arg(format!("/run/netns/{}", ns.name()));
        }
        let log = fs::File::create(logs.path().join(name))?;
        let agent = Process::spawn(command.stdout(log.try_clone()?).stderr(log))?;
        let (own, vip) = (self.address(number), self.vip());
        wait_for("the agent adds the VIP", || {
            let output = ns.command("ip").args(["-o", "address", "show", "dev", "lo", "to", &vip.to_string()]).output()?;
            Ok(!output.stdout.is_empty())
        })?;
        let servers = [own, vip].map(|addr| serve(&ns, name, (addr, PORT).into())).into_iter().collect::<Result<_>>()?;
        Ok(Backend { agent, _servers: servers, ns })
    }
}

/// A namespace behind a veth of the backend's host; all others reach it by that host.
fn pod(stage: &Stage, group: &str, (name, number): (&'static str, u8)) -> Result<Namespace> {
    let (host, pod) = (&stage.backends[name], Namespace::new(group, &format!("pod{number}"))?);
    host.ns.ip(&format!("link add pod type veth peer name eth0 netns {}", pod.name()))?;
    for (ns, device, last) in [(&host.ns, "pod", 1), (&pod, "eth0", 2)] {
        ns.sysctl(&format!("net/ipv6/conf/{device}/accept_dad"), "0")?;
        ns.ip(&format!("address add 10.78.{number}.{last}/24 dev {device}"))?;
        ns.ip(&format!("address add fd78:{number:x}::{last}/64 dev {device} nodad"))?;
        ns.ip(&format!("link set {device} up"))?;
    }
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.ns.sysctl(key, "1")?;
    }
    for key in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/pod/rp_filter"] {
        host.ns.sysctl(key, "0")?;
    }
    pod.ip(&format!("route add default via 10.78.{number}.1"))?;
    pod.ip(&format!("-6 route add default via fd78:{number:x}::1"))?;
    let others = stage.backends.iter().filter(|(other, _)| **other != name).map(|(_, other)| other);
    for other in others.chain([&stage.balancer, &stage.client]) {
        other.ns.ip(&format!("route add 10.78.{number}.0/24 via {}", host.v4))?;
        other.ns.ip(&format!("-6 route add fd78:{number:x}::/64 via {}", host.v6))?;
    }
    Ok(pod)
}

fn serve(ns: &Namespace, name: &str, at: SocketAddr) -> Result<Process> {
    let server = Process::spawn(ns.command(peer_binary()?).arg(name).arg(at.to_string()))?;
    wait_for("a server answers", || Ok(ns.enter(|| peer::get(at, "/", Duration::from_secs(1)))?.is_ok()))?;
    Ok(server)
}

impl Play {
    /// All is at rest, and every backend gets its share.
    fn new(group: &str, setting: Setting) -> Result<Self> {
        let stage = Stage::build(group, &BACKENDS)?;
        let logs = tempfile::tempdir()?;
        let backends = BACKENDS.map(|backend| Ok((backend.0, setting.backend(&stage, group, backend, &logs)?)));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?;
        let vip: SocketAddr = (setting.vip(), PORT).into();
        let member =
            |(name, number): (&str, u8)| format!("{{name: {name}, address: '{}'}}", SocketAddr::new(setting.address(number), PORT));
        let config = format!(
            "limits: {{ledger: 8192}}\ninterfaces: [{{name: eth0, hook: xdp}}]\nledger: {{handshake: {}s, idle: 120s, patience: 1s}}\nservices:\n  \
             - {{name: web, vip: '{vip}', mode: tunnel, encap: gue, slots: 256, announce: {{address: eth0}}, \
             health: {{type: tcp, interval: 500ms, timeout: 5s}}, backends: [{}]}}\n",
            HANDSHAKE.as_secs(),
            BACKENDS.map(member).join(", "),
        );
        let daemon = Daemon::start(&stage.balancer.ns, &config)?;
        // From then on flows are promised something.
        std::thread::sleep(HANDSHAKE);
        let play = Self { daemon, backends, logs, stage, vip };
        play.daemon.until("every backend gets new connections", || Ok(play.owners()?.len() == BACKENDS.len()))?;
        Ok(play)
    }

    fn owners(&self) -> Result<BTreeSet<String>> {
        let vip = self.vip;
        Ok(self.stage.client.ns.enter(|| (0..40).map(|_| peer::get(vip, "/", PATIENCE)).collect::<Result<_, _>>())??)
    }

    fn hold(&self) -> Result<Held> {
        Held::open(&self.stage.client.ns, self.vip, HELD, PAUSE, PATIENCE)
    }

    /// New connections go elsewhere; those that there are live by their slots' default, and new ones of these slots by the ledger alone.
    fn drain(&self) -> Result<()> {
        self.daemon.ok(&["backend", "drain", "web", DRAINED])?;
        self.daemon.until("new connections go elsewhere", || Ok(!self.owners()?.contains(DRAINED)))
    }

    /// Every place of the ledger gets this claim, as long as `held` have not been asked so many times.
    fn overwrite_ledger(&self, claim: u64, held: &Held, turns: u64) -> Result<()> {
        let (until, end) = (held.turns() + turns, Instant::now() + PATIENCE);
        while held.turns() < until {
            self.fill_ledger(claim)?;
            ensure!(Instant::now() < end, "connections are not asked: {} turns of {until}, {:?}", held.turns(), held.so_far());
        }
        Ok(())
    }

    /// Every place of the ledger gets this claim, once.
    fn fill_ledger(&self, claim: u64) -> Result<()> {
        let ledger = pinned(&self.daemon.pins(), Table::Ledger)?;
        let bucket = LedgerBucket { entries: [LedgerEntry { claim, word: 0 }; 4] };
        (0..ledger.len()).for_each(|index| ledger.set(index, &bucket));
        Ok(())
    }

    fn ns(&self, name: &str) -> Result<&Namespace> {
        let found = self.backends.iter().find(|(known, _)| *known == name);
        Ok(&found.with_context(|| format!("no backend {name}"))?.1.ns)
    }

    /// A counter of a backend's kernel.
    fn count(&self, name: &str, counter: &str) -> Result<u64> {
        count(self.ns(name)?, counter)
    }

    /// Ends the agents, and sums up what they tell.
    fn end(self) -> Result<Told> {
        let mut sum = Told::default();
        for (name, backend) in &self.backends {
            let pid = backend.agent.id().context("the agent runs")?;
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
            let path = self.logs.path().join(name);
            wait_for("the agent tells what it did", || Ok(fs::read_to_string(&path)?.contains("SYN-ACKs clamped")))?;
            let log = fs::read_to_string(&path)?;
            let number = |before: &str| {
                let number = log.split(before).next().and_then(|text| text.split(' ').next_back()).and_then(|n| n.parse::<u64>().ok());
                number.with_context(|| format!("no number before `{before}` in {log}"))
            };
            sum = Told { local: sum.local + number(" were of this node")?, passed_on: sum.passed_on + number(" passed on")? };
        }
        Ok(sum)
    }
}

fn count(ns: &Namespace, counter: &str) -> Result<u64> {
    let output = ns.command("nstat").args(["-az", counter]).output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = told.lines().find_map(|line| line.strip_prefix(counter)?.split_whitespace().next()?.parse::<u64>().ok());
    count.with_context(|| format!("no {counter}: {told}"))
}

fn broken(reports: &[HeldReport]) -> usize {
    reports.iter().filter(|r| r.broken.is_some()).count()
}

/// The ledger is emptied again and again amid a drain: packets of flows that it led elsewhere go to the drained backend.
fn loses_its_ledger(group: &str, setting: Setting) -> Result<()> {
    let play = Play::new(group, setting)?;
    let before = play.hold()?;
    play.drain()?;
    let between = play.hold()?;
    play.overwrite_ledger(0, &between, 10)?;
    let (before, between) = (before.finish(), between.finish());
    // Those live by their slots alone.
    unbroken(&before)?;
    ensure!(before.iter().any(|r| r.owner == DRAINED), "no flow is with {DRAINED}: {before:?}");
    let broken = broken(&between);
    let told = play.end()?;
    println!("{setting:?}: {broken} of {} broken, {told:?}", between.len());
    if setting.chance == "off" {
        ensure!(broken > 0 && told.passed_on == 0, "nothing was lost: {told:?}");
    } else {
        ensure!(broken == 0 && told.passed_on > 0 && told.local > 0, "{broken} broken, {told:?}: {between:?}");
    }
    Ok(())
}

/// A backend that answers by SYN cookies has no socket for a handshake, and yet knows it: its ACK is not passed on to a stranger.
fn knows_its_cookies(group: &str, setting: Setting) -> Result<()> {
    let play = Play::new(group, setting)?;
    // The secret is the kernel's: another one that sends cookies would take these for its own.
    play.ns(DRAINED)?.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let before = play.hold()?;
    play.drain()?;
    // Without room to remember them, new flows stay with the drained one.
    play.overwrite_ledger(LedgerEntry::BUSY, &before, 2)?;
    let during = play.hold()?;
    let told = (before.finish(), during.finish());
    unbroken(&told.0)?;
    unbroken(&told.1)?;
    ensure!(told.1.iter().any(|r| r.owner == DRAINED), "no flow is with {DRAINED}: {:?}", told.1);
    ensure!(play.count(DRAINED, "TcpExtSyncookiesRecv")? > 0, "no cookie came back");
    play.end()?;
    Ok(())
}

#[test]
fn a_host_passes_on_what_it_does_not_know() -> Result<()> {
    loses_its_ledger("mesh-2nd-4", Setting { v6: false, pods: false, chance: "link" })
}

#[test]
fn a_host_passes_on_what_it_does_not_know_by_ipv6() -> Result<()> {
    loses_its_ledger("mesh-2nd-6", Setting { v6: true, pods: false, chance: "link" })
}

#[test]
fn without_it_connections_break() -> Result<()> {
    loses_its_ledger("mesh-2nd-off", Setting { v6: false, pods: false, chance: "off" })
}

#[test]
fn a_pod_passes_on_what_it_does_not_know() -> Result<()> {
    loses_its_ledger("mesh-2nd-p4", Setting { v6: false, pods: true, chance: "10.78.0.0/16" })
}

#[test]
fn a_pod_passes_on_what_it_does_not_know_by_ipv6() -> Result<()> {
    loses_its_ledger("mesh-2nd-p6", Setting { v6: true, pods: true, chance: "fd78::/16" })
}

#[test]
fn without_it_connections_of_pods_break() -> Result<()> {
    loses_its_ledger("mesh-2nd-po", Setting { v6: true, pods: true, chance: "off" })
}

#[test]
fn syn_cookies_are_known() -> Result<()> {
    knows_its_cookies("mesh-2nd-c4", Setting { v6: false, pods: false, chance: "link" })
}

#[test]
fn syn_cookies_are_known_by_ipv6() -> Result<()> {
    knows_its_cookies("mesh-2nd-c6", Setting { v6: true, pods: true, chance: "fd78::/16" })
}
