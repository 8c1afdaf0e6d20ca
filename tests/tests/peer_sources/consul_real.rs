//! Consul itself, where it could be had: `cargo xtask test peers` says where it is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use mesh_tests::registry::{
    Ground,
    consul::{ask, check, deregister, maintain, program, register, register_many, start},
};

use crate::follower::{Follower, Times};

const WEB: &str = "{type: consul, service: web, tags: [v1], timeout: 2s}";

#[test]
fn instances_checks_maintenance_death_and_return() -> Result<()> {
    let Some(program) = program() else { return not_there() };
    let ground = Ground::new("consul-real")?;
    let mut consul = start(&ground, &program)?;
    ground.play(async || {
        println!("consul {}", ask("GET", "/v1/agent/self", None)?["Config"]["Version"]);
        let mut follower = Follower::of(WEB)?;
        follower.has(&[]).await?;
        register("a", "10.0.0.1")?;
        register("b", "10.0.0.2")?;
        follower.has(&["10.0.0.1:8080*10", "10.0.0.2:8080*10"]).await?;
        ensure!(follower.endpoint("10.0.0.1:8080")?.name.as_deref() == Some("a"));
        check("warn", "a")?;
        maintain("b", true)?;
        follower.has(&["10.0.0.1:8080*2", "10.0.0.2:8080*10 drains"]).await?;
        check("fail", "a")?;
        maintain("b", false)?;
        follower.has(&["10.0.0.2:8080*10"]).await?;
        check("pass", "a")?;
        ask("PUT", "/v1/agent/maintenance?enable=true", None)?;
        follower.has(&["10.0.0.1:8080*10 drains", "10.0.0.2:8080*10 drains"]).await?;
        ask("PUT", "/v1/agent/maintenance?enable=false", None)?;
        deregister("b")?;
        follower.has(&["10.0.0.1:8080*10"]).await?;

        consul.kill()?;
        follower.stale("").await?;
        follower.rest(Duration::from_secs(2)).await?;
        ensure!(follower.list() == ["10.0.0.1:8080*10"], "kept: {:?}", follower.list());
        let _again = start(&ground, &program)?;
        register("c", "10.0.0.3")?;
        // Checks by time are critical from a restart on until they are told of.
        check("pass", "a")?;
        follower.has(&["10.0.0.1:8080*10", "10.0.0.3:8080*10"]).await?;
        Ok(())
    })
}

#[test]
fn a_thousand_instances_in_a_second() -> Result<()> {
    let Some(program) = program() else { return not_there() };
    let ground = Ground::new("consul-mass")?;
    let _consul = start(&ground, &program)?;
    ground.play(async || {
        let mut one = Follower::of(WEB)?;
        one.has(&[]).await?;
        let mut times = Times::default();
        for i in 1..=20 {
            let begin = Instant::now();
            register(&format!("one-{i}"), &format!("10.2.0.{i}"))?;
            one.counts(i).await?;
            times.push(begin.elapsed());
        }
        times.report("consul: register begun -> told");
        drop(one);
        let mut follower = Follower::of("{type: consul, service: many}")?;
        follower.has(&[]).await?;
        let begin = Instant::now();
        register_many(1000)?;
        let written = begin.elapsed();
        let took = follower.counts(1000).await?;
        println!(
            "consul: 1000 instances registered within {:.0} ms, told {:.0} ms after the last one",
            written.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3
        );
        Ok(())
    })
}

#[allow(clippy::unnecessary_wraps, reason = "it stands for a test")]
fn not_there() -> Result<()> {
    println!("skipped: no Consul could be had; the one in this process is tested in any case");
    Ok(())
}
