//! Knot with live updates, and dnsmasq.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Process,
    registry::{Ground, knot::Knot},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::follower::{Follower, Times};

const NAMES: &str = "{type: dns, name: web.test, servers: ['127.0.0.1:5300'], min_refresh: 50ms, timeout: 1s}";
const SERVICES: &str = "{type: dns, name: _http._tcp.test, record: srv, servers: ['127.0.0.1:5300'], min_refresh: 50ms, timeout: 1s}";

#[test]
fn knot_addresses_follow_live_updates_death_and_return() -> Result<()> {
    let ground = Ground::new("knot-a")?;
    let mut knot = Knot::start(&ground, 1)?;
    ground.play(async || {
        let mut follower = Follower::of(NAMES)?;
        // That the name is not there is a fact.
        follower.has(&[]).await?;
        ensure!(follower.is_live() && follower.status().error.is_none(), "{:?}", follower.status());
        knot.update("add web.test. 1 A 10.0.0.1\nadd web.test. 1 A 10.0.0.2\nadd web.test. 1 AAAA 2001:db8::1")?;
        follower.has(&["10.0.0.1:80", "10.0.0.2:80"]).await?;
        let mut sixth = Follower::at("[2001:db8:1::10]:443", NAMES)?;
        sixth.has(&["[2001:db8::1]:443"]).await?;
        drop(sixth);
        knot.update("del web.test. A 10.0.0.1")?;
        follower.has(&["10.0.0.2:80"]).await?;

        knot.process.kill()?;
        follower.stale("").await?;
        follower.rest(Duration::from_secs(2)).await?;
        ensure!(follower.list() == ["10.0.0.2:80"], "kept: {:?}", follower.list());
        let failures = follower.status().failures;
        ensure!((1..30).contains(&failures), "{failures} failures: the server is asked too rarely or too often");

        drop(knot);
        let knot = Knot::start(&ground, 1)?;
        knot.update("del web.test. A\nadd web.test. 1 CNAME b.test.\nadd b.test. 1 A 10.0.0.3")?;
        follower.has(&["10.0.0.3:80"]).await?;
        // NODATA and NXDOMAIN: the last one has gone.
        knot.update("del b.test. A\nadd b.test. 1 TXT none")?;
        follower.has(&[]).await?;
        Ok(())
    })
}

#[test]
fn knot_service_records_have_priorities_weights_and_ports() -> Result<()> {
    let ground = Ground::new("knot-srv")?;
    let knot = Knot::start(&ground, 1)?;
    ground.play(async || {
        let mut follower = Follower::of(SERVICES)?;
        follower.has(&[]).await?;
        knot.update(
            "add a.test. 1 A 10.0.0.1\nadd b.test. 1 A 10.0.0.2\nadd c.test. 1 A 10.0.0.3\n\
             add _http._tcp.test. 1 SRV 10 60 8080 a.test.\nadd _http._tcp.test. 1 SRV 10 20 8081 b.test.\n\
             add _http._tcp.test. 1 SRV 20 1 8082 c.test.",
        )?;
        follower.has(&["10.0.0.1:8080*60", "10.0.0.2:8081*20"]).await?;
        ensure!(follower.endpoint("10.0.0.1:8080")?.name.as_deref() == Some("a.test"));
        // The first group has lost its addresses: the next one counts.
        knot.update("del a.test. A\ndel b.test. A")?;
        follower.has(&["10.0.0.3:8082"]).await?;
        knot.update("del _http._tcp.test. SRV\nadd _http._tcp.test. 1 SRV 0 0 1 .")?;
        follower.has(&[]).await?;
        Ok(())
    })
}

#[test]
fn knot_tells_a_thousand_changes_over_tcp() -> Result<()> {
    let ground = Ground::new("knot-mass")?;
    let knot = Knot::start(&ground, 1)?;
    ground.play(async || {
        let mut follower = Follower::of(NAMES)?;
        follower.has(&[]).await?;
        let thousand = |verb: &str| {
            (0..1000)
                .map(|i| format!("{verb} web.test. {}A 10.1.{}.{}\n", if verb == "add" { "1 " } else { "" }, i / 250, i % 250 + 1))
                .collect::<String>()
        };
        // 16 kB of addresses: no datagram of 1232 bytes holds them.
        knot.update(&thousand("add"))?;
        let took = follower.counts(1000).await?;
        println!("dns, knot 3.2: 1000 addresses in one update, told {:.0} ms after it (time to live 1 s)", took.as_secs_f64() * 1e3);
        knot.update(&thousand("del"))?;
        follower.has(&[]).await?;
        let mut times = Times::default();
        knot.update("add web.test. 0 A 10.2.0.1")?;
        follower.counts(1).await?;
        for i in 2..=21 {
            knot.update(&format!("add web.test. 0 A 10.2.0.{i}"))?;
            times.push(follower.counts(i).await?);
        }
        times.report("dns, knot 3.2, time to live 0, min_refresh 50ms: update -> told");
        Ok(())
    })
}

#[test]
fn dnsmasq_hosts_and_services_follow_its_files() -> Result<()> {
    let ground = Ground::new("dnsmasq")?;
    let hosts = ground.write("hosts", "10.0.0.1 web.test\n10.0.0.5 a.test\n2001:db8::7 web.test\n")?;
    let command = || -> Command {
        let mut command = ground.ns.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--port=5300",
            "--listen-address=127.0.0.1",
        ]);
        command.args(["--bind-interfaces", "--user=root", "--local=/test/", "--local-ttl=1", "--log-facility=-", "--pid-file="]);
        command.args(["--srv-host=_http._tcp.test,a.test,8080,5,3"]).arg(format!("--addn-hosts={}", hosts.display()));
        command
    };
    let mut dnsmasq = ground.start("dnsmasq", &mut command())?;
    ground.play(async || {
        let mut follower = Follower::of(NAMES)?;
        follower.has(&["10.0.0.1:80"]).await?;
        let mut services = Follower::of(SERVICES)?;
        services.has(&["10.0.0.5:8080*3"]).await?;
        fs::write(&hosts, "10.0.0.1 web.test\n10.0.0.2 web.test\n")?;
        hang_up(&dnsmasq)?;
        follower.has(&["10.0.0.1:80", "10.0.0.2:80"]).await?;
        // The target of the record has no address any more.
        services.has(&[]).await?;
        dnsmasq.kill()?;
        follower.stale("").await?;
        fs::write(&hosts, "10.0.0.3 web.test\n")?;
        let _again = ground.start("dnsmasq", &mut command())?;
        follower.has(&["10.0.0.3:80"]).await?;
        Ok(())
    })
}

fn hang_up(process: &Process) -> Result<()> {
    let pid = process.id().context("it has ended")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGHUP).context("failed to signal the server")
}
