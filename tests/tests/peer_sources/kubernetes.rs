//! EndpointSlices of an API server in this process: they come and go, and so does the server, in every way that it can.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::{
    kube::{FakeApi, Manner, slice},
    registry::Ground,
};

use crate::follower::{Follower, Times};

const SLICES: &str = "discovery.k8s.io/v1/endpointslices";
const SERVER: &str = "127.0.0.1:6443";

fn source(ground: &Ground, api: &FakeApi, more: &str) -> Result<String> {
    let file = ground.write("kubeconfig", &api.kubeconfig())?;
    Ok(format!("{{type: kubernetes, service: shop/web, kubeconfig: '{}', timeout: 500ms{more}}}", file.display()))
}

fn put(api: &FakeApi, name: &str, endpoints: &[(&str, &str)]) -> Result<()> {
    let endpoints: Vec<_> = endpoints.iter().map(|(address, state)| ((*address).to_owned(), *state)).collect();
    api.put(SLICES, slice("shop", "web", name, 8080, &endpoints)?);
    Ok(())
}

#[test]
fn slices_death_and_return() -> Result<()> {
    let ground = Ground::new("kube")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        let mut follower = Follower::of(&source(&ground, &api, "")?)?;
        follower.has(&[]).await?;
        put(&api, "web-1", &[("10.0.0.1", "ready"), ("10.0.0.2", "ready"), ("10.0.0.9", "gone")])?;
        // Another Service's, and another namespace's.
        api.put(SLICES, slice("shop", "webshop", "other", 80, &[("10.0.0.66".into(), "ready")])?);
        api.put(SLICES, slice("other", "web", "web-1", 80, &[("10.0.0.67".into(), "ready")])?);
        follower.has(&["10.0.0.1:8080", "10.0.0.2:8080"]).await?;
        let one = follower.endpoint("10.0.0.1:8080")?;
        let places = (one.name.as_deref(), one.node.as_deref(), one.zone.as_deref());
        ensure!(places == (Some("pod-10-0-0-1"), Some("node-1"), Some("zone-a")), "{places:?}");
        put(&api, "web-2", &[("10.0.0.3", "ready")])?;
        put(&api, "web-1", &[("10.0.0.1", "draining"), ("10.0.0.2", "ready")])?;
        follower.has(&["10.0.0.1:8080 drains", "10.0.0.2:8080", "10.0.0.3:8080"]).await?;
        put(&api, "web-1", &[("10.0.0.2", "ready")])?;
        follower.has(&["10.0.0.2:8080", "10.0.0.3:8080"]).await?;
        api.delete(SLICES, "shop", "web-2");
        follower.has(&["10.0.0.2:8080"]).await?;

        let stopped = api.stop();
        follower.stale("unreachable").await?;
        follower.rest(Duration::from_secs(1)).await?;
        ensure!(follower.list() == ["10.0.0.2:8080"], "kept: {:?}", follower.list());
        let api = stopped.start()?;
        put(&api, "web-3", &[("10.0.0.4", "ready")])?;
        follower.has(&["10.0.0.2:8080", "10.0.0.4:8080"]).await?;
        ensure!(follower.status().error.is_none(), "{:?}", follower.status());
        // "There is none" is an answer.
        api.delete(SLICES, "shop", "web-1");
        api.delete(SLICES, "shop", "web-3");
        follower.has(&[]).await?;
        Ok(())
    })
}

/// What follows is about one watch that is open, and told of whatever changes.
async fn watching(follower: &mut Follower, api: &FakeApi) -> Result<()> {
    follower.meanwhile("an open watch", || api.asked().open == 1).await
}

#[test]
fn a_stream_that_ends_goes_on_where_it_was() -> Result<()> {
    let ground = Ground::new("kube-ends")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        put(&api, "web", &[("10.0.0.1", "ready")])?;
        let mut follower = Follower::of(&source(&ground, &api, ", wait: 2s")?)?;
        follower.has(&["10.0.0.1:8080"]).await?;
        watching(&mut follower, &api).await?;
        let before = api.asked();
        // It ends by its time; then by a cut, while the list changes.
        follower.meanwhile("another watch", || api.asked().watches > before.watches && api.asked().open == 1).await?;
        let ended = api.asked();
        let changed = slice("shop", "web", "web", 8080, &[("10.0.0.2".to_owned(), "ready")])?;
        api.cut_and(|store| store.put(SLICES, changed));
        follower.has(&["10.0.0.2:8080"]).await?;
        // Nothing is listed again.
        ensure!(api.asked().lists == before.lists && api.asked().watches > ended.watches, "{:?} {ended:?} {before:?}", api.asked());
        ensure!(follower.status().failures == 0, "{:?}", follower.status());
        Ok(())
    })
}

#[test]
fn a_bookmark_moves_a_watch_past_what_is_forgotten() -> Result<()> {
    let ground = Ground::new("kube-mark")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        put(&api, "web", &[("10.0.0.1", "ready")])?;
        let mut follower = Follower::of(&source(&ground, &api, "")?)?;
        follower.has(&["10.0.0.1:8080"]).await?;
        watching(&mut follower, &api).await?;
        let before = api.asked();
        api.compact();
        api.bookmark();
        follower.meanwhile("the bookmark", || api.asked().bookmarks > before.bookmarks).await?;
        let changed = slice("shop", "web", "web", 8080, &[("10.0.0.3".to_owned(), "ready")])?;
        api.cut_and(|store| store.put(SLICES, changed));
        follower.has(&["10.0.0.3:8080"]).await?;
        ensure!(api.asked().gone == 0 && api.asked().lists == before.lists, "{:?} {before:?}", api.asked());
        Ok(())
    })
}

#[test]
fn broken_and_slow_streams_keep_what_was() -> Result<()> {
    let ground = Ground::new("kube-odd")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        put(&api, "web", &[("10.0.0.3", "ready")])?;
        let mut follower = Follower::of(&source(&ground, &api, ", wait: 2s")?)?;
        follower.has(&["10.0.0.3:8080"]).await?;
        // It fails, and forgets what the watch would go on from.
        let changed = slice("shop", "web", "web", 8080, &[("10.0.0.4".to_owned(), "ready")])?;
        api.cut_and(|store| {
            store.manner = Manner::Failing;
            store.put(SLICES, changed);
            store.compact();
        });
        follower.stale("503").await?;
        api.set_manner(Manner::Good);
        follower.has(&["10.0.0.4:8080"]).await?;

        for (wrong, why) in [(Manner::Silent, "did not answer"), (Manner::Page, "bad answer"), (Manner::Failing, "no leader")] {
            api.cut_and(|store| store.manner = wrong);
            follower.stale(why).await?;
            api.set_manner(Manner::Good);
            follower.has(&["10.0.0.4:8080"]).await?;
        }
        api.set_manner(Manner::Garbage);
        follower.stale("bad answer").await?;
        api.set_manner(Manner::Slow);
        put(&api, "web", &[("10.0.0.5", "ready"), ("10.0.0.6", "ready")])?;
        follower.has(&["10.0.0.5:8080", "10.0.0.6:8080"]).await?;
        // What can't be understood keeps what was.
        api.set_manner(Manner::Good);
        put(&api, "web", &[("127.0.0.1", "ready")])?;
        follower.stale("loopback").await?;
        put(&api, "web", &[("10.0.0.7", "ready")])?;
        follower.has(&["10.0.0.7:8080"]).await?;
        Ok(())
    })
}

#[test]
fn a_version_that_is_gone_in_the_middle_of_a_watch_is_no_failure() -> Result<()> {
    let ground = Ground::new("kube-gone")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        put(&api, "web", &[("10.0.0.1", "ready")])?;
        let mut follower = Follower::of(&source(&ground, &api, "")?)?;
        follower.has(&["10.0.0.1:8080"]).await?;
        put(&api, "web", &[("10.0.0.2", "ready")])?;
        follower.has(&["10.0.0.2:8080"]).await?;
        watching(&mut follower, &api).await?;
        // What it would go on from is forgotten before it is back.
        let changed = slice("shop", "web", "web", 8080, &[("10.0.0.3".to_owned(), "ready")])?;
        api.cut_and(|store| {
            store.put(SLICES, changed);
            store.compact();
        });
        follower.has(&["10.0.0.3:8080"]).await?;
        ensure!(api.asked().gone == 1 && follower.status().failures == 0, "{:?} {:?}", api.asked(), follower.status());
        Ok(())
    })
}

#[test]
fn a_thousand_pods_in_a_second() -> Result<()> {
    let ground = Ground::new("kube-mass")?;
    ground.play(async || {
        let api = FakeApi::start(SERVER, &[SLICES])?;
        let mut follower = Follower::of(&source(&ground, &api, "")?)?;
        follower.has(&[]).await?;
        let mut times = Times::default();
        for i in 1..=50 {
            let begin = Instant::now();
            put(&api, &format!("one-{i}"), &[(&format!("10.2.0.{i}"), "ready")])?;
            follower.counts(i).await?;
            times.push(begin.elapsed());
        }
        times.report("kubernetes: slice put -> told");
        let begin = Instant::now();
        let address = |i: usize| (format!("10.1.{}.{}", i / 250, i % 250 + 1), "ready");
        // A few at a time, in slices of a hundred, as the controller writes them.
        for i in (3..1000).step_by(4) {
            let first = i / 100 * 100;
            let pods: Vec<_> = (first..=i).map(address).collect();
            api.put(SLICES, slice("shop", "web", &format!("web-{first}"), 8080, &pods)?);
        }
        let written = begin.elapsed();
        let took = follower.counts(1050).await?;
        println!(
            "kubernetes: 1000 pods within {:.0} ms, told {:.0} ms after the last one",
            written.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3
        );
        Ok(())
    })
}
