//! All schedulers one after the other, with TCP connections of both families held through all of it, in each mode: none breaks.

use std::{
    net::{IpAddr, SocketAddr},
    process::Stdio,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, Logged, Process, mesh_binary},
    peer::Held,
    stage::Stage,
};

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
const PORT: u16 = 8080;
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);
/// A slot is on its way no sooner than a handshake may take; the flows that it had are remembered then.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// Ways to fill the table, of which each moves slots, and ways to choose for each flow.
const ROUND: [(&str, bool); 11] = [
    ("maglev", true),
    ("ring", true),
    ("random", false),
    ("round-robin", false),
    ("least-connections", false),
    ("least-response-time", false),
    ("two-choices", false),
    ("hash-unless-crowded", false),
    ("random, affinity: {timeout: 1m}", false),
    ("maglev", true),
    ("consistent-hash", true),
];

fn config(stage: &Stage, mode: &str, scheduler: &str) -> Result<String> {
    let ledger = format!("ledger: {{handshake: {}s, idle: 10s, patience: 1s}}", HANDSHAKE.as_secs());
    let mut text = format!("interfaces: [{{name: eth0, hook: xdp}}]\n{ledger}\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        let backends = BACKENDS.iter().map(|(name, _)| Ok(format!("{{name: {name}, address: \"{}\"}}", stage.address(name, v6)?)));
        text += &format!(
            "  - {{name: web{}, vip: \"{vip}\", port: {PORT}, mode: {mode}, {via}slots: 256, scheduler: {scheduler}, announce: {{address: eth0}}, \
             health: {{type: tcp, interval: 500ms, timeout: 5s}}, backends: [{}]}}\n",
            if v6 { 6 } else { 4 },
            backends.collect::<Result<Vec<_>>>()?.join(", ")
        );
    }
    Ok(text)
}

fn vips() -> Result<Vec<SocketAddr>> {
    VIPS.into_iter().map(|vip| Ok((vip.parse::<IpAddr>()?, PORT).into())).collect()
}

/// What the mode wants of backends; what is returned runs beside them.
fn prepare(stage: &mut Stage, mode: &str) -> Result<Vec<Process>> {
    let mut agents = Vec::new();
    for (name, _) in BACKENDS {
        stage.serve(name)?;
        let host = &stage.backends[name];
        match mode {
            "nat" => continue,
            "dnat" => {
                host.lead_back(stage.client.addresses(), &stage.balancer)?;
                continue;
            }
            "tunnel" => {
                let mut agent = host.ns.command(mesh_binary()?);
                agent.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
                agents.push(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?);
                vips()?.into_iter().try_for_each(|vip| host.until_owned(vip))?;
            }
            _ => vips()?.iter().try_for_each(|vip| host.own_quietly(vip.ip()))?,
        }
        stage.serve_at_all(name, &vips()?)?;
    }
    Ok(agents)
}

fn number(daemon: &Daemon, at: &str) -> Result<u64> {
    let status = daemon.json(&["status"])?;
    status.pointer(at).and_then(serde_json::Value::as_u64).with_context(|| format!("the status does not tell {at}: {status}"))
}

fn switched(group: &str, mode: &str) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    let agents = prepare(&mut stage, mode)?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, mode, "consistent-hash")?)?;
    // From then on flows are promised something.
    sleep(2 * HANDSHAKE);
    let vips = vips()?;
    let hold = |count: usize| vips.iter().map(move |vip| (count, *vip));
    let open = |count: usize| -> Result<Vec<Held>> {
        hold(count).map(|(count, vip)| Held::open(&stage.client.ns, vip, count, PAUSE, PATIENCE)).collect()
    };
    let mut held = open(6)?;
    for (scheduler, fills) in ROUND {
        let before = number(&daemon, "/scheduling/chosen")?;
        daemon.write_config(&config(&stage, mode, scheduler)?)?;
        daemon.ok(&["reload"])?;
        let shown = daemon.json(&["service", "show", "web6"])?;
        ensure!(scheduler.starts_with(shown["scheduler"].as_str().unwrap_or("?")), "{scheduler}: {shown}");
        held.extend(open(3)?);
        if fills {
            // Slots move beneath all that are open.
            sleep(2 * HANDSHAKE);
            ensure!(number(&daemon, "/scheduling/chosen")? == before, "{scheduler}: only a table says");
        } else if scheduler.contains("affinity") {
            daemon.until("the source has been led", || Ok(number(&daemon, "/scheduling/affine")? >= 2))?;
        } else {
            daemon.until("the scheduler has chosen", || Ok(number(&daemon, "/scheduling/chosen")? >= before + 6))?;
        }
    }
    let turns: Vec<u64> = held.iter().map(Held::turns).collect();
    daemon.until("all are asked again", || Ok(held.iter().zip(&turns).all(|(h, t)| h.turns() > t + 20)))?;
    let events = daemon.json(&["events"])?;
    let moved = events.as_array().into_iter().flatten().filter(|e| e["event"] == "slots_moved" && e["moved"].as_u64() > Some(0)).count();
    ensure!(moved >= 6, "{moved} times slots have moved: {events}");
    let reports: Vec<_> = held.into_iter().flat_map(Held::finish).collect();
    ensure!(reports.len() == 2 * (6 + 3 * ROUND.len()), "{}", reports.len());
    unbroken(&reports).logged(&daemon)?;
    drop(agents);
    Ok(())
}

#[test]
fn a_whole_round_breaks_nothing_in_nat() -> Result<()> {
    switched("mesh-sw-nat", "nat")
}

#[test]
fn a_whole_round_breaks_nothing_in_dnat() -> Result<()> {
    switched("mesh-sw-dnat", "dnat")
}

#[test]
fn a_whole_round_breaks_nothing_in_dsr() -> Result<()> {
    switched("mesh-sw-dsr", "dsr")
}

#[test]
fn a_whole_round_breaks_nothing_in_a_tunnel() -> Result<()> {
    switched("mesh-sw-tun", "tunnel")
}
