//! The container image, run as deploy/daemonset.yaml says: just its capabilities, and real packets.

#[path = "image_pod/binary.rs"]
mod binary;
#[path = "image_pod/engine.rs"]
mod engine;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use engine::{Engine, Pod};
use mesh_tests::{
    deploy, netns,
    peer::{self, Held, Load},
    stage::Stage,
};

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
const VIPS: [&str; 2] = ["10.77.0.100:80", "[fd77::100]:80"];
const PATIENCE: Duration = Duration::from_secs(5);

/// Kernel's numbers of the capabilities that are asked for.
const NUMBERS: [(&str, u32); 4] = [("NET_ADMIN", 12), ("NET_RAW", 13), ("PERFMON", 38), ("BPF", 39)];

fn config(stage: &Stage) -> Result<String> {
    let mut text = String::from("interfaces: [{name: eth0, hook: xdp}]\nbpffs: /bpf\nmetrics: {listen: 127.0.0.1:9108}\nservices:\n");
    for (family, vip) in VIPS.iter().enumerate() {
        text += &format!(
            "  - {{name: web{family}, vip: \"{vip}\", mode: nat, announce: {{address: eth0}}, health: {{type: http, interval: 200ms}}, backends: ["
        );
        for (name, _) in BACKENDS {
            text += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, family == 1)?);
        }
        text += "]}\n";
    }
    Ok(text)
}

fn stage(group: &str) -> Result<Stage> {
    netns::remove_stale(group)?;
    let mut stage = Stage::build(group, &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
    }
    // As systemd sets it on every node: anyone may ping.
    stage.balancer.ns.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    Ok(stage)
}

/// Who answers the client at a VIP, in a number of requests of which none may fail.
fn answers(stage: &Stage, vip: &str, requests: usize) -> Result<BTreeSet<String>> {
    let to: SocketAddr = vip.parse()?;
    (0..requests).map(|_| stage.client.ns.enter(|| peer::get(to, "/", PATIENCE))?.with_context(|| format!("a request to {vip}"))).collect()
}

fn all_capabilities() -> Result<Vec<String>> {
    Ok(deploy::container()?.security_context.capabilities.add)
}

#[test]
fn the_pod_forwards_with_just_its_capabilities() -> Result<()> {
    let engine = Engine::new()?;
    engine.pack(&binary::built()?)?;
    ensure!(engine.files()? == ["mesh"], "the image holds more than the binary: {:?}", engine.files()?);
    ensure!(engine.once(&["--version"])?.starts_with("mesh "), "the binary must run without any library");

    let stage = stage("mesh-image")?;
    let (config, capabilities) = (config(&stage)?, all_capabilities()?);
    let mut pod = engine.start(&stage.balancer.ns, &config, &capabilities)?;
    pod.wait_ready()?;
    confined(&pod, &capabilities)?;
    for vip in VIPS {
        ensure!(answers(&stage, vip, 60)?.len() == BACKENDS.len(), "every backend answers at {vip}");
    }
    pod.http("/livez")?;
    let metrics = pod.http("/metrics")?;
    ensure!(metrics.contains("mesh_build_info") && metrics.contains("mesh_received_packets_total"), "{metrics}");
    pod.cli(&["backend", "drain", "web0", "b1"])?;
    let until = Instant::now() + PATIENCE;
    while answers(&stage, VIPS[0], 60)?.len() != BACKENDS.len() - 1 {
        ensure!(Instant::now() < until, "b1 still gets flows");
    }

    // The next pod takes over what this one leaves, programs, maps and what the operator did: where it was killed, and in a rolling update.
    let load = Load::start(&stage.client.ns, VIPS[0].parse()?, 2, Duration::from_millis(5), PATIENCE)?;
    let held = Held::open(&stage.client.ns, VIPS[0].parse()?, 8, Duration::from_millis(10), PATIENCE)?;
    pod.kill()?;
    std::thread::sleep(Duration::from_millis(500));
    let mut pod = engine.start(&stage.balancer.ns, &config, &capabilities)?;
    pod.wait_ready()?;
    pod.terminate()?;
    let mut pod = engine.start(&stage.balancer.ns, &config, &capabilities)?;
    pod.wait_ready()?;
    let (answered, held) = (load.finish(), held.finish());
    let failed: Vec<_> = answered.iter().filter_map(|a| a.from.as_ref().err()).collect();
    ensure!(answered.len() > 100 && failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), answered.len());
    let broken: Vec<_> = held.iter().filter(|report| report.broken.is_some()).collect();
    ensure!(held.len() == 8 && broken.is_empty(), "{broken:?} broke");
    ensure!(answers(&stage, VIPS[0], 60)?.len() == BACKENDS.len() - 1, "b1 is still drained");
    Ok(())
}

/// Each capability is taken away in turn, and what then doesn't work is what it is there for.
#[test]
fn no_capability_is_asked_for_in_vain() -> Result<()> {
    let engine = Engine::new()?;
    engine.pack(&binary::built()?)?;
    let all = all_capabilities()?;
    for missing in &all {
        let stage = stage(&format!("mesh-without-{}", missing.to_lowercase().replace('_', "-")))?;
        let rest: Vec<String> = all.iter().filter(|c| *c != missing).cloned().collect();
        let mut pod = engine.start(&stage.balancer.ns, &config(&stage)?, &rest)?;
        let ready = pod.wait_ready();
        match missing.as_str() {
            "NET_RAW" => {
                ready.context("NET_RAW is for announcing alone")?;
                ensure!(pod.log().contains("CAP_NET_RAW"), "the log should say what can't be announced:\n{}", pod.log());
                ensure!(answers(&stage, VIPS[0], 60)?.len() == BACKENDS.len());
            }
            _ => {
                let error = ready.err().with_context(|| format!("the pod is ready without {missing}"))?;
                ensure!(format!("{error:#}").contains(missing), "the log should name what is missing, {missing}: {error:#}");
            }
        }
        pod.kill()?;
        engine.forget()?;
    }
    Ok(())
}

/// What the kernel says of the process: of what it was given at the start, just NET_ADMIN is left, and nothing can come back.
fn confined(pod: &Pod<'_>, capabilities: &[String]) -> Result<()> {
    let number = |name: &String| NUMBERS.iter().find(|(n, _)| n == name).map(|(_, bit)| 1_u64 << bit);
    let wanted = capabilities.iter().map(|name| number(name).with_context(|| format!("unknown capability {name}"))).sum::<Result<u64>>()?;
    let left = number(&"NET_ADMIN".to_owned()).context("NET_ADMIN has no number")?;
    for (set, wanted) in [("CapEff", left), ("CapPrm", left), ("CapInh", 0), ("CapAmb", 0), ("CapBnd", wanted)] {
        let mask = u64::from_str_radix(&pod.proc_status(set)?, 16)?;
        ensure!(mask == wanted, "{set} is {mask:#x}, but {wanted:#x} is expected");
    }
    ensure!(pod.proc_status("NoNewPrivs")? == "1");
    Ok(())
}
