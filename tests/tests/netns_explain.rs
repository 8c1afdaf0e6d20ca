//! `mesh explain` by the real daemon: what it tells of a flow before the flow begins is what becomes of it.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::world::World;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::Value;

const VIP: &str = "10.77.0.100:8080";

/// Connects from this port, so that the flow is known before it begins.
fn connect_from(client: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(client, port)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(VIP.parse::<SocketAddrV4>()?))?;
    Ok(TcpStream::from(fd))
}

#[test]
fn a_flow_goes_as_was_told_and_a_look_leaves_no_trace() -> Result<()> {
    let world = World::new("mesh-explain", "")?;
    let (daemon, client) = (&world.daemon, world.stage.client.v4);
    let explain = |port: u16, more: &[&str]| daemon.json(&[&["explain", &format!("{client}:{port}"), VIP][..], more].concat());
    let counted = || daemon.json(&["service", "show", "web"]);
    let flows = || -> Result<u64> { daemon.json(&["status"])?["nat"]["flows"]["used"].as_u64().context("no flows") };

    let (before, flows_before) = (counted()?, flows()?);
    let told: Vec<Value> = (40_001..40_021).map(|port| explain(port, &[])).collect::<Result<_>>()?;
    ensure!(told.iter().all(|t| t["verdict"] == "forward" && t["entry"] == "new" && t["service"] == "web"), "{told:?}");
    let backends: std::collections::BTreeSet<String> = told.iter().map(|t| t["backend"]["id"].to_string()).collect();
    ensure!(backends.len() > 1, "twenty flows go to {backends:?} alone");
    // The daemon counts flows every second.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    ensure!((counted()?, flows()?) == (before, flows_before), "a look was counted: {}", counted()?);

    for told in told.iter().take(3) {
        let port = told["packet"]["source"].as_str().and_then(|s| s.rsplit_once(':')).context("no source")?.1.parse()?;
        let held = world.stage.client.ns.enter(|| connect_from(client, port))??;
        let found = explain(port, &["--flags", "ack"])?;
        ensure!(found["entry"] == "found" && found["backend"]["id"] == told["backend"]["id"], "{told} before, then {found}");
        ensure!(found["rewrite"] == told["rewrite"], "{told} before, then {found}");
        drop(held);
    }
    let stray = explain(50_000, &["--flags", "ack"])?;
    ensure!(stray["reason"] == "no_flow" && stray["entry"] == "none", "{stray}");
    let foreign = daemon.json(&["explain", &format!("{client}:1"), "10.77.0.100:81/udp"])?;
    ensure!(foreign["verdict"] == "pass" && foreign.get("service").is_none(), "{foreign}");
    let text = daemon.ok(&["explain", &format!("{client}:40001"), "10.77.0.100:8080/tcp"])?;
    ensure!(text.contains("verdict    forward (forwarded)"), "{text}");
    Ok(())
}
