//! What of a packet chooses its backend: the real daemon and real TCP from several addresses and ports.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged},
    stage::{PORT, Stage},
    world::PATIENCE,
};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt},
    time::{TimeVal, TimeValLike},
};
use serde_json::json;

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
/// VIPs of `nat` and of `dsr`.
const NAT: [&str; 2] = ["10.77.0.100", "fd77::100"];
const DSR: [&str; 2] = ["10.77.0.101", "fd77::101"];
/// The client's addresses, which are as many clients.
const SOURCES: std::ops::Range<u8> = 20..28;
const CONNECTIONS: usize = 6;

fn at(vip: &str) -> Result<SocketAddr> {
    Ok((vip.parse::<IpAddr>()?, PORT).into())
}

fn sources(v6: bool) -> impl Iterator<Item = IpAddr> {
    SOURCES.map(move |n| if v6 { [0xfd77, 0, 0, 0, 0, 0, 0, u16::from(n)].into() } else { [10, 77, 0, n].into() })
}

/// `hash`: a line of the services' keys. With the key of the hash given, the same sources meet the same backends in each run.
fn config(stage: &Stage, hash: &str) -> Result<String> {
    let mut text = "hash_key: 000102030405060708090a0b0c0d0e0f\ninterfaces: [{name: eth0, hook: xdp}]\nservices:\n".to_owned();
    for (v6, family) in [(false, 4), (true, 6)] {
        let backends = BACKENDS.map(|(name, _)| stage.address(name, v6).map(|a| format!("\"{a}\"")));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?.join(", ");
        for (mode, vips) in [("nat", NAT), ("dsr", DSR)] {
            text += &format!(
                "  - {{name: {mode}{family}, vip: \"{}\", port: {PORT}, mode: {mode}, announce: {{address: eth0}}, {hash} backends: [{backends}]}}\n",
                vips[usize::from(v6)]
            );
        }
    }
    Ok(text)
}

fn stage() -> Result<Stage> {
    let mut stage = Stage::build("mesh-hash", &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
        for vip in DSR {
            stage.backends[name].own_quietly(vip.parse()?)?;
            stage.serve_at(name, at(vip)?)?;
        }
    }
    for v6 in [false, true] {
        let more = if v6 { "/64 dev eth0 nodad" } else { "/24 dev eth0" };
        sources(v6).try_for_each(|source| stage.client.ns.ip(&format!("address add {source}{more}")))?;
    }
    Ok(stage)
}

/// Who answers a new connection from `source`, at any port of it.
fn met(source: IpAddr, to: SocketAddr) -> Result<String> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
    setsockopt(&fd, sockopt::SendTimeout, &patience)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).with_context(|| format!("{source} to {to}"))?;
    let mut stream = TcpStream::from(fd);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: mesh\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{source} from {to}"))?;
    let body = answer.split_once("\r\n\r\n").context("an answer without a body")?.1;
    Ok(body.trim().to_owned())
}

/// Who was met by each source's connections.
fn all_met(stage: &Stage, v6: bool, vip: &str) -> Result<Vec<BTreeSet<String>>> {
    let to = at(vip)?;
    stage.client.ns.enter(|| sources(v6).map(|source| (0..CONNECTIONS).map(|_| met(source, to)).collect()).collect())?
}

#[test]
fn one_source_always_meets_one_backend_where_that_is_asked_for() -> Result<()> {
    let stage = stage()?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "hash: [source],")?)?;
    for (v6, family) in [(false, 4), (true, 6)] {
        let [nat, dsr] = [NAT, DSR].map(|vips| all_met(&stage, v6, vips[usize::from(v6)]));
        let nat = nat.logged(&daemon)?;
        ensure!(nat.iter().all(|met| met.len() == 1), "a source has met several backends: {nat:?}");
        ensure!(nat.iter().flatten().collect::<BTreeSet<_>>().len() == BACKENDS.len(), "all sources have met the same ones: {nat:?}");
        // Services with the same backends agree, as nothing that tells them apart is asked for.
        ensure!(nat == dsr.logged(&daemon)?, "the two services differ");
        for (source, met) in sources(v6).zip(&nat) {
            let name = met.first().context("nobody was met")?;
            let told = daemon.json(&["explain", &SocketAddr::new(source, 999).to_string(), &at(DSR[usize::from(v6)])?.to_string()])?;
            ensure!(told["slot"]["fields"] == json!(["source"]), "{told}");
            ensure!(told["backend"]["id"] == json!(stage.address(name, v6)?), "{source} has met {name}: {told}");
        }
        ensure!(daemon.json(&["service", "show", &format!("nat{family}")])?["hash"] == json!(["source"]));
    }
    daemon.write_config(&config(&stage, "")?)?;
    daemon.ok(&["reload"])?;
    for (vip, v6) in NAT.into_iter().zip([false, true]) {
        daemon.until("all of the five-tuple chooses again", || Ok(all_met(&stage, v6, vip)?.iter().all(|met| met.len() > 1)))?;
    }
    Ok(())
}
