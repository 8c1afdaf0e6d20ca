//! Every server behind one who makes it slow, silent, short or wrong: what it said last holds, and what it says then is heard.

use std::time::Duration;

use anyhow::{Result, ensure};

use mesh_tests::registry::{
    Ground,
    between::{Between, Way},
    consul, etcd,
    web::Web,
    zookeeper::{self, Registrar},
};

use crate::follower::Follower;

const LATE: Duration = Duration::from_millis(300);

/// `put` registers the backend 10.0.0.N at the server.
async fn rough(source: &str, between: &Between, port: u16, mut put: impl FnMut(u8) -> Result<()>) -> Result<()> {
    let mut follower = Follower::of(source)?;
    let mut there = Vec::new();
    let add = |n: u8, there: &mut Vec<String>| there.push(format!("10.0.0.{n}:{port}"));
    put(1)?;
    add(1, &mut there);
    has(&mut follower, &there).await?;
    for (n, way) in [(2, Way::Silent), (3, Way::Cut), (4, Way::Garbled)] {
        between.set(way);
        follower.stale("").await?;
        put(n)?;
        follower.rest(Duration::from_secs(1)).await?;
        ensure!(follower.list() == there, "{way:?} left {:?}", follower.list());
        between.set(Way::Open);
        add(n, &mut there);
        has(&mut follower, &there).await?;
    }
    // That cuts what is open, which some sources get over before anybody sees it.
    between.set(Way::Slow(LATE));
    follower.rest(Duration::from_secs(2)).await?;
    has(&mut follower, &there).await?;
    let failures = follower.status().failures;
    put(5)?;
    add(5, &mut there);
    has(&mut follower, &there).await?;
    follower.rest(Duration::from_secs(2)).await?;
    ensure!(follower.is_live() && follower.status().failures == failures, "slow is no failure: {:?}", follower.status());
    Ok(())
}

async fn has(follower: &mut Follower, there: &[String]) -> Result<()> {
    follower.has(&there.iter().map(String::as_str).collect::<Vec<_>>()).await.map(drop)
}

#[test]
fn etcd_may_be_slow_silent_or_wrong() -> Result<()> {
    let ground = Ground::new("rough-etcd")?;
    let _etcd = etcd::start(&ground)?;
    ground.play(async || {
        let between = Between::start("127.0.0.1:2400", etcd::SERVER).await?;
        let source = "{type: etcd, prefix: /services/web/, urls: ['http://127.0.0.1:2400'], timeout: 1s}";
        rough(source, &between, 80, |n| etcd::put(&format!("n{n}"), &format!("10.0.0.{n}"))).await
    })
}

#[test]
fn zookeeper_may_be_slow_silent_or_wrong() -> Result<()> {
    let ground = Ground::new("rough-zk")?;
    let _zookeeper = zookeeper::start(&ground)?;
    ground.play(async || {
        let mut registrar = Registrar::connect(30_000)?;
        registrar.create("/services", "", false)?;
        registrar.create("/services/web", "", false)?;
        let between = Between::start("127.0.0.1:2182", zookeeper::SERVER).await?;
        let source = "{type: zookeeper, path: /services/web, servers: ['127.0.0.1:2182'], session: 4s}";
        rough(source, &between, 80, |n| registrar.create(&format!("/services/web/n{n}"), &format!("10.0.0.{n}"), false)).await
    })
}

#[test]
fn a_list_may_be_slow_silent_or_wrong() -> Result<()> {
    let ground = Ground::new("rough-http")?;
    ground.play(async || {
        let web = Web::start("127.0.0.1:8080", "[]").await?;
        let between = Between::start("127.0.0.1:8081", "127.0.0.1:8080").await?;
        let source = "{type: http, url: 'http://127.0.0.1:8081/web', interval: 200ms, wait: 4s, timeout: 1s}";
        rough(source, &between, 80, |n| {
            let all: Vec<String> = (1..=n).map(|i| format!("\"10.0.0.{i}\"")).collect();
            web.set_body(format!("[{}]", all.join(",")));
            Ok(())
        })
        .await
    })
}

#[test]
fn consul_may_be_slow_silent_or_wrong() -> Result<()> {
    let source = "{type: consul, service: web, url: 'http://127.0.0.1:8501', wait: 4s, timeout: 1s}";
    let ground = Ground::new("rough-consul")?;
    let real = consul::program().map(|program| consul::start(&ground, &program)).transpose()?;
    ground.play(async || {
        let between = Between::start("127.0.0.1:8501", consul::SERVER).await?;
        if real.is_some() {
            let node = serde_json::json!({"Node": {"Verb": "set", "Node": {"Node": "n2", "Address": "10.1.0.1"}}});
            consul::ask("PUT", "/v1/txn", Some(&serde_json::json!([node])))?;
            return rough(source, &between, 8080, |n| {
                let service = serde_json::json!({"ID": format!("n{n}"), "Service": "web", "Address": format!("10.0.0.{n}"), "Port": 8080});
                let set = serde_json::json!([{"Service": {"Verb": "set", "Node": "n2", "Service": service}}]);
                consul::ask("PUT", "/v1/txn", Some(&set)).map(drop)
            })
            .await;
        }
        let web = Web::start(consul::SERVER, "[]").await?;
        rough(source, &between, 8080, |n| {
            let one = |i| format!(r#"{{"Node":{{"Address":"10.0.0.{i}"}},"Service":{{"ID":"n{i}","Port":8080}},"Checks":[]}}"#);
            web.set_body(format!("[{}]", (1..=n).map(one).collect::<Vec<_>>().join(",")));
            Ok(())
        })
        .await
    })
}
