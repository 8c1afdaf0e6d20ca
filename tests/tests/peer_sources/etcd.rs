//! etcd: keys that come, change, go and expire with their leases.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use mesh_tests::registry::{
    Ground,
    etcd::{SERVER, call, delete, pair, put, start},
    web::gate,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::follower::{Follower, Times};

const SOURCE: &str = "{type: etcd, prefix: /services/web/, port: 8080}";

#[test]
fn keys_leases_death_and_return() -> Result<()> {
    let ground = Ground::new("etcd")?;
    let mut etcd = start(&ground)?;
    ground.play(async || {
        let mut follower = Follower::of(SOURCE)?;
        follower.has(&[]).await?;
        put("a", "10.0.0.1")?;
        put("b", r#"{"address": "10.0.0.2", "port": 81, "weight": 7, "drain": true}"#)?;
        put("10.0.0.3:82", "")?;
        // Beside the prefix.
        call("/v3/kv/put", &json!({"key": BASE64.encode(b"/services/webshop/x"), "value": BASE64.encode(b"10.0.0.66")}))?;
        follower.has(&["10.0.0.1:8080", "10.0.0.2:81*7 drains", "10.0.0.3:82"]).await?;
        ensure!(follower.endpoint("10.0.0.1:8080")?.name.as_deref() == Some("a"));
        put("b", r#"{"address": "10.0.0.2", "port": 81, "weight": 9}"#)?;
        follower.has(&["10.0.0.1:8080", "10.0.0.2:81*9", "10.0.0.3:82"]).await?;
        // A bad value keeps the good one, and is told.
        put("a", "{\"address\": ")?;
        follower.until("the report of a bad value", |f| f.troubles.iter().any(|t| t.contains("/services/web/a"))).await?;
        ensure!(follower.is_live() && follower.list().len() == 3);
        delete("10.0.0.3:82")?;
        put("a", "10.0.0.4")?;
        follower.has(&["10.0.0.2:81*9", "10.0.0.4:8080"]).await?;
        ensure!(follower.status().error.is_none(), "{:?}", follower.status());

        let lease = call("/v3/lease/grant", &json!({"TTL": "4"}))?["ID"].as_str().context("no lease")?.to_owned();
        let mut leased = pair("leased", "10.0.0.5");
        leased["lease"] = json!(lease);
        call("/v3/kv/put", &leased)?;
        follower.counts(3).await?;
        let lapsed = follower.counts(2).await?;
        println!("etcd 3.4: a lease of 4 s that nobody renews takes its backend out after {:.1} s", lapsed.as_secs_f64());

        etcd.kill()?;
        follower.stale("unreachable").await?;
        follower.rest(Duration::from_secs(2)).await?;
        ensure!(follower.list() == ["10.0.0.2:81*9", "10.0.0.4:8080"], "kept: {:?}", follower.list());
        let _again = start(&ground)?;
        put("c", "10.0.0.6")?;
        follower.has(&["10.0.0.2:81*9", "10.0.0.4:8080", "10.0.0.6:8080"]).await?;
        Ok(())
    })
}

#[test]
fn a_thousand_keys_in_a_second() -> Result<()> {
    let ground = Ground::new("etcd-mass")?;
    let _etcd = start(&ground)?;
    ground.play(async || {
        let mut follower = Follower::of(SOURCE)?;
        follower.has(&[]).await?;
        let mut times = Times::default();
        for i in 1..=50 {
            let begin = Instant::now();
            put(&format!("one-{i}"), &format!("10.2.0.{i}"))?;
            follower.counts(i).await?;
            times.push(begin.elapsed());
        }
        times.report("etcd 3.4: put begun -> told");
        let begin = Instant::now();
        let ops: Vec<Value> =
            (0..1000).map(|i| json!({"request_put": pair(&format!("n-{i}"), &format!("10.1.{}.{}", i / 250, i % 250 + 1))})).collect();
        for some in ops.chunks(100) {
            call("/v3/kv/txn", &json!({"success": some}))?;
        }
        let written = begin.elapsed();
        let took = follower.counts(1050).await?;
        println!("etcd 3.4: 1000 keys put within {:.0} ms, told {:.0} ms after the last one", ms(written), ms(took));
        Ok(())
    })
}

#[test]
fn a_compaction_between_reading_and_watching_is_no_gap() -> Result<()> {
    let ground = Ground::new("etcd-compact")?;
    let _etcd = start(&ground)?;
    ground.play(async || {
        put("a", "10.0.0.1")?;
        let (open, opened) = watch::channel(false);
        gate("127.0.0.1:2400", SERVER, "POST /v3/watch", opened).await?;
        let mut follower = Follower::of("{type: etcd, prefix: /services/web/, urls: ['http://127.0.0.1:2400'], timeout: 30s}")?;
        follower.has(&["10.0.0.1:80"]).await?;
        // The watch would begin with a revision that is compacted away.
        delete("a")?;
        put("b", "10.0.0.2")?;
        put("b", "10.0.0.3")?;
        let range = call("/v3/kv/range", &json!({"key": BASE64.encode(b"x")}))?;
        let revision = range["header"]["revision"].as_str().context("no revision")?.to_owned();
        call("/v3/kv/compaction", &json!({"revision": revision, "physical": true}))?;
        open.send(true)?;
        follower.has(&["10.0.0.3:80"]).await?;
        ensure!(follower.status().failures == 0, "{:?}", follower.status());
        Ok(())
    })
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
