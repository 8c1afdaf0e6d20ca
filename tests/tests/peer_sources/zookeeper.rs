//! ZooKeeper: ephemeral nodes that come, change and go with the sessions of their makers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::{
    netns::when_free,
    registry::{
        Ground,
        zookeeper::{Registrar, SERVER, start},
    },
};

use crate::follower::{Follower, Times};

const SOURCE: &str = "{type: zookeeper, path: /services/web, port: 8080, session: 4s}";

#[test]
fn nodes_sessions_death_and_return() -> Result<()> {
    let ground = Ground::new("zookeeper")?;
    let mut zookeeper = start(&ground)?;
    ground.play(async || {
        let mut follower = Follower::of(SOURCE)?;
        // The node itself need not be there yet.
        follower.has(&[]).await?;
        let mut lasting = Registrar::connect(10_000)?;
        lasting.create("/services", "", false)?;
        lasting.create("/services/web", "", false)?;
        lasting.create("/services/webshop", "10.0.0.66", false)?;
        lasting.create("/services/web/a", "10.0.0.1", false)?;
        lasting.create("/services/web/a/deeper", "10.0.0.66", false)?;
        lasting.create("/services/web/10.0.0.2:81", "", true)?;
        follower.has(&["10.0.0.1:8080", "10.0.0.2:81"]).await?;
        lasting.set("/services/web/a", r#"{"address": "10.0.0.1", "weight": 4, "drain": true}"#)?;
        follower.has(&["10.0.0.1:8080*4 drains", "10.0.0.2:81"]).await?;
        lasting.set("/services/web/a", "nonsense")?;
        follower.until("the report of a bad value", |f| f.troubles.iter().any(|t| t.contains("nonsense"))).await?;
        ensure!(follower.is_live() && follower.list() == ["10.0.0.1:8080*4 drains", "10.0.0.2:81"]);
        lasting.set("/services/web/a", "10.0.0.1")?;
        lasting.delete("/services/web/10.0.0.2:81")?;
        follower.has(&["10.0.0.1:8080"]).await?;
        ensure!(follower.status().error.is_none(), "{:?}", follower.status());

        // One says goodbye, one does not.
        let mut polite = Registrar::connect(4000)?;
        polite.create("/services/web/polite", "10.0.0.3", true)?;
        let mut sudden = Registrar::connect(4000)?;
        sudden.create("/services/web/sudden", "10.0.0.4", true)?;
        follower.counts(3).await?;
        polite.close()?;
        follower.has(&["10.0.0.1:8080", "10.0.0.4:8080"]).await?;
        drop(sudden);
        let lapsed = follower.has(&["10.0.0.1:8080"]).await?;
        println!("zookeeper 3.8: a session of 4 s that is lost takes its backend out after {:.1} s", lapsed.as_secs_f64());

        let failures = follower.status().failures;
        follower.rest(Duration::from_secs(6)).await?;
        ensure!(
            follower.status().failures == failures && follower.is_live(),
            "the session did not outlast its time: {:?}",
            follower.status()
        );
        zookeeper.kill()?;
        follower.stale("unreachable").await?;
        follower.rest(Duration::from_secs(1)).await?;
        ensure!(follower.list() == ["10.0.0.1:8080"]);
        let _again = start(&ground)?;
        let mut lasting = Registrar::connect(10_000)?;
        lasting.create("/services/web/b", "10.0.0.5", true)?;
        follower.has(&["10.0.0.1:8080", "10.0.0.5:8080"]).await?;
        Ok(())
    })
}

#[test]
fn a_thousand_nodes_in_a_second() -> Result<()> {
    let ground = Ground::new("zookeeper-mass")?;
    let _zookeeper = start(&ground)?;
    ground.play(async || {
        let mut registrar = Registrar::connect(10_000)?;
        registrar.create("/services", "", false)?;
        registrar.create("/services/web", "", false)?;
        let mut follower = Follower::of(SOURCE)?;
        follower.has(&[]).await?;
        let mut times = Times::default();
        for i in 1..=50 {
            let begin = Instant::now();
            registrar.create(&format!("/services/web/one-{i}"), &format!("10.2.0.{i}"), true)?;
            follower.counts(i).await?;
            times.push(begin.elapsed());
        }
        times.report("zookeeper 3.8: create begun -> told");
        let begin = Instant::now();
        for i in 0..1000 {
            registrar.ask_create(&format!("/services/web/n-{i}"), &format!("10.1.{}.{}", i / 250, i % 250 + 1), true)?;
        }
        for _ in 0..1000 {
            let error = registrar.answer()?;
            ensure!(error == 0, "error {error}");
        }
        let made = begin.elapsed();
        let took = follower.counts(1050).await?;
        println!(
            "zookeeper 3.8: 1000 nodes made within {:.0} ms, told {:.0} ms after the last one",
            made.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3
        );
        // All at once: the session ends.
        registrar.close()?;
        follower.has(&[]).await?;
        Ok(())
    })
}

/// A server that speaks something else, cuts off, or says nothing is a failure like any other.
#[test]
fn what_is_no_zookeeper_is_told() -> Result<()> {
    let ground = Ground::new("zookeeper-odd")?;
    ground.play(async || {
        for (says, why) in
            [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "bad answer"), (&[0, 0, 0, 9], "closed"), (&[0, 0, 0, 2, 1, 1], "ends too early")]
        {
            let listener = when_free(|| std::net::TcpListener::bind(SERVER))?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let odd = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await?;
                    tokio::io::AsyncWriteExt::write_all(&mut stream, says).await?;
                    tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 100]).await?;
                }
                #[allow(unreachable_code, reason = "it names the type of the errors above")]
                anyhow::Ok(())
            });
            let mut follower = Follower::of(SOURCE)?;
            follower.until(why, |f| f.status().error.is_some_and(|e| e.contains(why))).await?;
            odd.abort();
            // Its socket is closed with it.
            let _ = odd.await;
        }
        Ok(())
    })
}
