//! Services of several ports in the modes that translate them: real TCP and UDP, each at the port that the client asked for.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged},
    peer,
    stage::{PORT, Stage},
};

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const PATIENCE: Duration = Duration::from_secs(20);
/// Where backends listen. The first two are of the first range, the last one is of the second.
const LISTENING: [u16; 3] = [8000, 8100, 9000];
/// Nobody listens there.
const DEAF: u16 = 8050;

/// A service of each family and protocol.
struct Kind {
    name: &'static str,
    vips: [&'static str; 2],
    mode: &'static str,
    ports: &'static str,
    /// Of those where backends listen.
    served: &'static [u16],
}

/// The last two have the same backends, whose answers are told apart by their ports.
const KINDS: [Kind; 3] = [
    Kind { name: "any", vips: ["10.77.0.103", "fd77::103"], mode: "nat", ports: "any", served: &LISTENING },
    Kind { name: "low", vips: ["10.77.0.104", "fd77::104"], mode: "dnat", ports: "8000-8100", served: &[8000, 8100] },
    Kind { name: "high", vips: ["10.77.0.105", "fd77::105"], mode: "dnat", ports: "8101-9000", served: &[9000] },
];

fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok((address.parse::<IpAddr>()?, port).into())
}

fn stage(group: &str) -> Result<Stage> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
        for v6 in [false, true] {
            let own = stage.address(name, v6)?.ip();
            stage.serve_at_all(name, &LISTENING.map(|port| (own, port).into()))?;
        }
        // Answers of `dnat` go back by the balancer.
        let host = &stage.backends[name];
        host.lead_back(stage.client.addresses(), &stage.balancer)?;
    }
    Ok(stage)
}

fn config(stage: &Stage, hook: &str) -> Result<String> {
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (kind, v6) in KINDS.iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if kind.mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        let backends = BACKENDS.iter().map(|(name, _)| Ok(format!("\"{}\"", stage.address(name, v6)?.ip())));
        let backends = backends.collect::<Result<Vec<_>>>()?.join(", ");
        for protocol in ["tcp", "udp"] {
            text += &format!(
                "  - {{name: {}-{protocol}{}, vip: \"{}\", ports: {}, protocol: {protocol}, mode: {}, {via}announce: {{address: eth0}}, \
                 health: {{type: tcp, port: {PORT}}}, backends: [{backends}]}}\n",
                kind.name,
                if v6 { 6 } else { 4 },
                kind.vips[usize::from(v6)],
                kind.ports,
                kind.mode,
            );
        }
    }
    Ok(text)
}

/// Both backends answer at this port of the VIP, by TCP and UDP.
fn both_answer(stage: &Stage, to: SocketAddr) -> Result<()> {
    let ask = |i| peer::get(to, "/", PATIENCE).with_context(|| format!("request {i} to {to}"));
    let who = stage.client.ns.enter(|| (0..30).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 30 requests to {to} only {who:?} answered");
    let ask = |i| peer::ask_udp(to, &format!("question {i}"), 1, PATIENCE).with_context(|| format!("datagram {i} to {to}"));
    let who = stage.client.ns.enter(|| (0..30).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 30 datagrams to {to} only {who:?} answered");
    let body = stage.client.ns.enter(|| peer::get(to, "/bytes/500000", PATIENCE))??;
    ensure!(body.len() == 500_000, "{} bytes of 500,000", body.len());
    Ok(())
}

fn serves(group: &str, hook: &str) -> Result<()> {
    let stage = stage(group)?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook)?)?;
    for kind in &KINDS {
        for vip in kind.vips {
            for &port in kind.served {
                let to = at(vip, port)?;
                both_answer(&stage, to).with_context(|| format!("{to} ({})", kind.mode)).logged(&daemon)?;
            }
            // The backend says so, or, beyond the range, the host.
            let others = if kind.name == "high" { [8000, 8100] } else { [DEAF, 7999] };
            for port in others {
                let answer = stage.client.ns.enter(|| peer::get(at(vip, port)?, "/", PATIENCE).map_err(anyhow::Error::from))?;
                let refused =
                    |e: &anyhow::Error| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused);
                ensure!(answer.as_ref().is_err_and(refused), "{vip} port {port}: {answer:?}");
            }
        }
    }
    let told = daemon.json(&["explain", &format!("{}:1000", stage.client.v4), "10.77.0.104:8100"])?;
    ensure!(told["service"] == "low-tcp4" && told["verdict"] == "forward", "{told}");
    Ok(())
}

#[test]
fn each_port_is_served_by_xdp() -> Result<()> {
    serves("mesh-portsx", "xdp")
}

#[test]
fn each_port_is_served_by_tc() -> Result<()> {
    serves("mesh-portst", "tc")
}
