//! The data plane on a real kernel: hooks, pins, publication, adoption, and packets that go on while no daemon is there.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use mesh::{
    dataplane::{
        Dataplane, DataplaneError, Hook, HookChoice, InterfaceOptions, Limits, NatOptions, Options,
        net::nexthop::{NextHop, Resolution},
    },
    model::{BackendId, BackendState, Mode, Proto, VipAddr, Weight},
    plan::{Plan, PlannedBackend, ServicePlan, Standing},
    table::{NONE, Table},
    weights::{Factor, Parts},
};
use mesh_common::abi::Reason;
use mesh_tests::netns::{Fabric, Host, when_free};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const VIP: &str = "10.77.0.100";
/// For how long something is waited for that has to come, ...
const PATIENCE: Duration = Duration::from_secs(10);
/// ... and an answer that must not come.
const SILENCE: Duration = Duration::from_secs(1);

/// Runs `f` in the host's network namespace with mounts of its own, so that the bpf file system mounted there goes when `f` is done.
fn privately<T: Send>(host: &Host, f: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    let dir = tempfile::tempdir()?;
    host.ns.enter(|| {
        unshare(CloneFlags::CLONE_NEWNS).context("failed to get mounts of our own")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        f(dir.path())
    })?
}

fn options(bpffs: &Path, hook: HookChoice) -> Options {
    Options {
        bpffs: bpffs.to_owned(),
        interfaces: vec![InterfaceOptions { name: "eth0".to_owned(), hook }],
        limits: Limits { services: 16, slots: 1 << 12, backends: 128, nat_flows: 1 << 10, ledger: 1 << 10, flows: 1 << 10 },
        ..Options::new("test")
    }
}

fn link_id(path: &Path) -> Result<(u32, u32)> {
    let info = FdLink::from(PinnedLink::from_pin(path)?).info()?;
    Ok((info.id(), info.program_id()))
}

fn pins(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("mesh/test/v{}", mesh_common::abi::VERSION))
}

fn service(port: u16, backends: &[(SocketAddr, BackendState)]) -> ServicePlan {
    let member = |(addr, state): &(SocketAddr, BackendState)| PlannedBackend {
        id: BackendId(*addr),
        name: None,
        state: *state,
        standing: Standing::Serving,
        configured: Weight::ONE,
        factor: Factor::ONE,
        effective: 2048,
        parts: Parts::ONE,
        capacity: None,
        backup: 0,
        quic: None,
        sparing: Default::default(),
    };
    let members: Vec<_> = backends.iter().map(member).collect();
    let takes: Vec<u16> = (0..members.len() as u16).filter(|i| members[usize::from(*i)].state.takes_new()).collect();
    let owner = (0..64).map(|slot| takes.get(slot % takes.len().max(1)).copied().unwrap_or(NONE)).collect();
    ServicePlan {
        name: format!("s{port}").parse().unwrap(),
        vip: VipAddr { addr: VIP.parse().unwrap(), port, proto: Proto::Udp },
        mode: Mode::Nat,
        ways: mesh::model::Ways::default(),
        when_empty: Default::default(),
        announce: None,
        no_backends: takes.is_empty(),
        members,
        table: Arc::new(Table { log2_slots: 6, owner, secondary: vec![NONE; 64] }),
        problem: None,
    }
}

fn plan(services: impl IntoIterator<Item = ServicePlan>) -> Plan {
    Plan { services: services.into_iter().map(Arc::new).collect(), replan_at: None }
}

fn mac(host: &Host) -> Result<[u8; 6]> {
    let mut ip = host.ns.command("ip");
    let said = ip.args(["-o", "link", "show", "eth0"]).output()?;
    let said = String::from_utf8(said.stdout)?;
    let text = said.split("link/ether ").nth(1).and_then(|t| t.split_whitespace().next()).context("eth0 has no address")?;
    let bytes = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no Ethernet address"))
}

fn hops(lb: &Host, backends: &[&Host]) -> Result<BTreeMap<IpAddr, Resolution>> {
    let src_mac = mac(lb)?;
    let ifindex = lb.ns.enter(|| nix::net::if_::if_nametoindex("eth0"))??;
    let hop = |dst_mac| NextHop { ifindex, ifname: "eth0".to_owned(), src_mac, dst_mac, source: lb.v4.into(), gateway: None, mtu: 1500 };
    backends.iter().map(|b| Ok((b.v4.into(), Resolution::Ready(hop(mac(b)?))))).collect()
}

/// What TC is on this kernel: tcx links came with 6.6, before that there are filters only.
fn tc_hook() -> Result<Hook> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(if version >= (6, 6) { Hook::Tcx } else { Hook::Clsact })
}

/// One after the other, each in the place of the one before; [`forwards`] shows what a hook does, and that the next daemon has it again.
#[test]
fn each_hook_is_had_and_left() -> Result<()> {
    let fabric = Fabric::new("mesh-plane-hooks")?;
    let lb = fabric.host("lb", 1)?;
    let cases = [
        (HookChoice::Native, Hook::XdpNative),
        (HookChoice::Generic, Hook::XdpGeneric),
        (HookChoice::Tc, tc_hook()?),
        (HookChoice::TcFilter, Hook::Clsact),
        (HookChoice::Auto, Hook::XdpNative),
    ];
    privately(&lb, |bpffs| {
        for (choice, hook) in cases {
            let (plane, adopted) = Dataplane::open(&options(bpffs, choice))?;
            ensure!(plane.interfaces()[0].hook == hook, "{choice:?} got {:?}", plane.interfaces());
            ensure!(plane.interfaces()[0].note.is_none() && adopted.services.is_empty());
        }
        let detached = Dataplane::detach(bpffs, "test")?;
        ensure!(detached.interfaces == ["eth0"] && detached.objects > 0, "{detached:?}");
        ensure!(!bpffs.join("mesh").exists());
        ensure!(Dataplane::detach(bpffs, "test")? == Default::default(), "a second time there is nothing to do");
        Ok(())
    })
}

#[test]
fn a_hook_that_another_owns_is_left_alone() -> Result<()> {
    let fabric = Fabric::new("mesh-plane-owned")?;
    let lb = fabric.host("lb", 1)?;
    lb.occupy_xdp()?;
    privately(&lb, |bpffs| {
        let refused = Dataplane::open(&options(bpffs, HookChoice::Native)).map(drop);
        ensure!(matches!(refused, Err(DataplaneError::Owned { .. })), "{refused:?}");
        let (plane, _) = Dataplane::open(&options(bpffs, HookChoice::Auto))?;
        let eth0 = &plane.interfaces()[0];
        ensure!(eth0.hook == tc_hook()?, "{eth0:?}");
        ensure!(eth0.note.as_ref().is_some_and(|n| n.contains("program")), "{eth0:?}");
        drop(plane);
        Dataplane::detach(bpffs, "test")?;
        Ok(())
    })?;
    let shown = lb.ns.command("ip").args(["link", "show", "eth0"]).output()?;
    ensure!(String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"), "the other's program is gone");
    Ok(())
}

#[test]
fn what_is_published_is_adopted() -> Result<()> {
    let fabric = Fabric::new("mesh-plane-adopt")?;
    let lb = fabric.host("lb", 1)?;
    let at = |i: u8, port| SocketAddr::from(([10, 77, 0, i], port));
    let first = plan([
        service(80, &[(at(11, 8080), BackendState::Active), (at(12, 8080), BackendState::Down)]),
        service(81, &[(at(11, 8081), BackendState::Active), (at(13, 8081), BackendState::Draining)]),
    ]);
    privately(&lb, |bpffs| {
        let (mut plane, _) = Dataplane::open(&options(bpffs, HookChoice::Auto))?;
        let held = Dataplane::open(&options(bpffs, HookChoice::Auto)).map(drop);
        ensure!(matches!(held, Err(DataplaneError::Running(_))), "{held:?}");
        let published = plane.apply(&first, &BTreeMap::new());
        ensure!(published.refused.is_empty() && published.slots_written == 128 && published.epoch.0 == 1, "{published:?}");
        drop(plane);

        let (mut plane, adopted) = Dataplane::open(&options(bpffs, HookChoice::Auto))?;
        let found: Vec<_> = adopted.services.iter().map(|s| (s.vip, s.mode, s.slots.len())).collect();
        ensure!(found == first.services.iter().map(|s| (s.vip, s.mode, 64)).collect::<Vec<_>>(), "{adopted:?}");
        let states: Vec<_> = adopted.services[0].backends.iter().flatten().copied().collect();
        ensure!(states == [(BackendId(at(11, 8080)), BackendState::Active), (BackendId(at(12, 8080)), BackendState::Down)], "{states:?}");
        ensure!(plane.apply(&first, &BTreeMap::new()).ops == 0, "what stands there is written again");

        let second = plan([service(81, &[(at(13, 8081), BackendState::Active)])]);
        ensure!(plane.apply(&second, &BTreeMap::new()).slots_written == 64);
        let deadline = Instant::now() + PATIENCE;
        let mut freed = 0;
        while freed < 3 {
            ensure!(Instant::now() < deadline, "only {freed} backends were freed");
            freed += plane.sweep(Instant::now())?.freed;
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(plane.counters()?.services.len() == 1);
        drop(plane);

        let larger =
            Options { limits: Limits { slots: 1 << 13, ..options(bpffs, HookChoice::Auto).limits }, ..options(bpffs, HookChoice::Auto) };
        let refused = Dataplane::open(&larger).map(drop).map_err(|e| e.to_string());
        ensure!(refused.as_ref().is_err_and(|e| e.contains("mesh detach") && e.contains("SLOTS")), "{refused:?}");
        Ok(())
    })
}

/// What has been logged in this process.
struct Said(Mutex<Vec<String>>);

static SAID: Said = Said(Mutex::new(Vec::new()));

impl log::Log for Said {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

#[test]
fn what_the_kernel_half_says_is_logged() -> Result<()> {
    log::set_logger(&SAID).map_err(|e| anyhow::anyhow!("{e}"))?;
    log::set_max_level(log::LevelFilter::Warn);
    let fabric = Fabric::new("mesh-plane-log")?;
    let (lb, client, b1) = (fabric.host("lb", 1)?, fabric.host("client", 2)?, fabric.host("b1", 11)?);
    lb.ns.ip(&format!("address add {VIP}/32 dev eth0"))?;
    let hops = hops(&lb, &[&b1])?;
    let web = plan([service(80, &[(SocketAddr::new(b1.v4.into(), 9000), BackendState::Active)])]);
    privately(&lb, |bpffs| {
        let nat = NatOptions { half_open_limit: Some(0), ..NatOptions::default() };
        let (mut plane, _) = Dataplane::open(&Options { nat, ..options(bpffs, HookChoice::Auto) })?;
        plane.apply(&web, &hops);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let _reader = plane.kernel_log()?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                ask(&client, 20_000, SocketAddr::new(VIP.parse()?, 80), SILENCE)?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let said = SAID.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if said.iter().any(|line| line.contains("WARN") && line.contains("too many flows")) {
                    break;
                }
                ensure!(Instant::now() < deadline, "the kernel half said {said:?}; {:?}", plane.counters()?.services);
            }
            anyhow::Ok(())
        })?;
        let refused = plane.counters()?.services[0].reasons[Reason::HalfOpenLimit as usize].packets;
        ensure!(refused > 0, "no packet was refused");
        drop(plane);
        Dataplane::detach(bpffs, "test")?;
        Ok(())
    })
}

/// One request from the client; who has answered within `patience`.
fn ask(client: &Host, from: u16, vip: SocketAddr, patience: Duration) -> Result<Option<String>> {
    client.ns.enter(|| {
        let socket = when_free(|| UdpSocket::bind((client.v4, from)))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(b"who", vip)?;
        let mut answer = [0; 64];
        match socket.recv_from(&mut answer) {
            Ok((len, peer)) => {
                ensure!(peer == vip, "the answer comes from {peer}");
                Ok(Some(String::from_utf8_lossy(&answer[..len]).into_owned()))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) => Err(e.into()),
        }
    })?
}

/// Answers with its name, until the namespace goes.
fn answer(host: &Host, name: &'static str, port: u16) -> Result<()> {
    let socket = host.ns.enter(|| UdpSocket::bind((host.v4, port)))??;
    std::thread::spawn(move || {
        let mut request = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut request) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    });
    Ok(())
}

#[test]
fn packets_go_on_without_a_daemon() -> Result<()> {
    let cases = [
        (HookChoice::Auto, Hook::XdpNative),
        (HookChoice::Generic, Hook::XdpGeneric),
        (HookChoice::Tc, tc_hook()?),
        (HookChoice::TcFilter, Hook::Clsact),
    ];
    for (choice, hook) in cases {
        forwards(choice, hook).with_context(|| format!("by {hook:?}"))?;
    }
    Ok(())
}

fn forwards(choice: HookChoice, hook: Hook) -> Result<()> {
    let fabric = Fabric::new("mesh-plane-go")?;
    let (lb, client, b1, b2) = (fabric.host("lb", 1)?, fabric.host("client", 2)?, fabric.host("b1", 11)?, fabric.host("b2", 12)?);
    lb.ns.ip(&format!("address add {VIP}/32 dev eth0"))?;
    answer(&b1, "b1", 9000)?;
    answer(&b2, "b2", 9000)?;
    let at = |host: &Host| SocketAddr::new(host.v4.into(), 9000);
    let both = plan([service(80, &[(at(&b1), BackendState::Active), (at(&b2), BackendState::Active)])]);
    let one = plan([service(80, &[(at(&b1), BackendState::Draining), (at(&b2), BackendState::Active)])]);
    let hops = hops(&lb, &[&b1, &b2])?;
    let vip = SocketAddr::new(VIP.parse()?, 80);
    privately(&lb, |bpffs| {
        let link = pins(bpffs).join("link_eth0");
        let (mut plane, adopted) = Dataplane::open(&options(bpffs, choice))?;
        ensure!(plane.interfaces()[0].hook == hook && plane.interfaces()[0].note.is_none(), "{choice:?} got {:?}", plane.interfaces());
        ensure!(!adopted.reused && adopted.services.is_empty());
        plane.apply(&both, &hops);
        let mut who = BTreeMap::new();
        for port in 20_000..20_032 {
            let name = ask(&client, port, vip, PATIENCE)?;
            let name = name.with_context(|| format!("request from port {port} got no answer: {:?}", plane.counters()))?;
            who.insert(port, name);
        }
        ensure!(who.values().any(|n| n == "b1") && who.values().any(|n| n == "b2"), "{who:?}");
        let report = plane.sweep(Instant::now())?;
        ensure!(report.flows == 32 && report.half_open == 0 && report.backends.len() == 2, "{report:?}");

        // Nobody is there, and packets go on.
        drop(plane);
        for (&port, name) in &who {
            let who = ask(&client, port, vip, PATIENCE)?;
            ensure!(who.as_ref() == Some(name), "flow from {port} has left {name} for {who:?}");
        }
        let before = (hook != Hook::Clsact).then(|| link_id(&link)).transpose()?;
        let (mut plane, adopted) = Dataplane::open(&options(bpffs, choice))?;
        ensure!(adopted.reused && adopted.services.len() == 1 && plane.interfaces()[0].hook == hook);
        if let Some((id, program)) = before {
            let (same, newer) = link_id(&link)?;
            ensure!(id == same && program != newer, "{choice:?}: link {id} with program {program} became {same} with {newer}");
        }
        // A draining backend keeps its flows, and gets none.
        plane.apply(&one, &hops);
        for (&port, name) in &who {
            let who = ask(&client, port, vip, PATIENCE)?;
            ensure!(who.as_ref() == Some(name), "flow from {port} has left {name} for {who:?}");
        }
        for port in 21_000..21_016 {
            let who = ask(&client, port, vip, PATIENCE)?;
            ensure!(who.as_deref() == Some("b2"), "a new flow went to {who:?}, and b1 drains");
        }
        let counters = plane.counters()?;
        let web = &counters.services[0];
        ensure!(web.reasons[Reason::Forwarded as usize].packets == 112 && web.reasons[Reason::Replied as usize].packets == 112, "{web:?}");
        ensure!(web.backends.iter().map(|(_, b)| b.flows).sum::<u64>() == 48, "{web:?}");
        let ended: u64 = counters.no_service.iter().chain(&web.reasons).map(|r| r.packets).sum();
        ensure!(counters.rx.packets >= ended, "{counters:?}");

        // The service goes: its flows go with it, and its places come back.
        plane.apply(&Plan::default(), &hops);
        ensure!(ask(&client, 20_000, vip, SILENCE)?.is_none(), "a removed service answers");
        let deadline = Instant::now() + PATIENCE;
        while !plane.counters()?.services.is_empty() {
            ensure!(Instant::now() < deadline, "the service is never forgotten");
            plane.sweep(Instant::now())?;
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(plane.sweep(Instant::now())?.flows == 0);
        drop(plane);
        Dataplane::detach(bpffs, "test")?;
        ensure!(!fs::exists(pins(bpffs))?);
        Ok(())
    })
}
