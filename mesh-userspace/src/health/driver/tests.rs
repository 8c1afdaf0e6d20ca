//! The whole monitor against real servers on loopback. Deadlines are generous: nothing here measures speed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    health::{
        CheckKind, Health, HttpCheck, StatusSet, TargetKey,
        detector::{Detection, PhiRules},
    },
    model::BackendId,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn key(address: SocketAddr) -> TargetKey {
    TargetKey { service: "web".parse().unwrap(), backend: BackendId(address) }
}

fn check(address: SocketAddr) -> Check {
    Check { interval: Duration::from_millis(10), timeout: Duration::from_secs(10), rise: 2, fall: 2, ..Check::new(CheckKind::Tcp, address) }
}

fn targets(addresses: impl IntoIterator<Item = SocketAddr>) -> BTreeMap<TargetKey, Check> {
    addresses.into_iter().map(|a| (key(a), check(a))).collect()
}

async fn listen(address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    (address, accept)
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn next(events: &mut mpsc::Receiver<HealthEvent>) -> HealthEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("no event in time").expect("the monitor ended")
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn follows_a_server_up_down_and_up_again() {
    let (monitor, mut events) = Monitor::spawn().unwrap();
    let (address, server) = listen(any_port()).await;
    monitor.set_targets(targets([address]));
    let up = next(&mut events).await;
    assert_eq!((up.key, up.health, up.evidence.consecutive), (key(address), Health::Up, 2));
    assert!(up.evidence.rtt.is_some() && up.evidence.error.is_none());

    server.abort();
    let down = next(&mut events).await;
    assert_eq!((down.health, down.evidence.consecutive), (Health::Down, 2));
    assert!(down.evidence.error.unwrap().contains("refused"));
    let status = monitor.status(&key(address)).unwrap();
    assert!(status.checks_done >= 4 && status.checks_failed >= 2 && status.last_check >= Some(status.since), "{status:?}");

    let (_, _server) = listen(address).await;
    assert_eq!(next(&mut events).await.health, Health::Up);
    assert_eq!(monitor.snapshot()[&key(address)].last_error, None);
}

#[tokio::test]
async fn checks_a_thousand_targets_with_few_sockets() {
    let (monitor, mut events) = Monitor::spawn_with(Options { in_flight: 32 }).unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let addresses = (0..1000u32).map(|i| SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + i), port)));
    let mut wanted = targets(addresses);
    wanted.values_mut().for_each(|c| c.interval = Duration::from_millis(200));
    assert!(monitor.first_round_done(), "without targets there is nothing to wait for");
    monitor.set_targets(wanted);
    assert!(!monitor.first_round_done());
    let mut up = HashSet::new();
    while up.len() < 1000 {
        let event = next(&mut events).await;
        assert_eq!(event.health, Health::Up, "{event:?}");
        up.insert(event.key);
    }
    assert!(monitor.first_round_done());
    assert!(monitor.snapshot().values().all(|s| s.checks_done >= 2 && s.checks_failed == 0));
}

/// What a server has seen of its askers.
#[derive(Debug, Default)]
struct Seen {
    waiting: AtomicUsize,
    /// Who waited at once, at most.
    most: AtomicUsize,
    /// At which of its addresses it was asked.
    asked: Mutex<HashSet<SocketAddr>>,
}

/// Takes questions, and answers each a while later.
async fn answer_late(listener: TcpListener, seen: Arc<Seen>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let _ = stream.read(&mut [0; 1024]).await;
            seen.most.fetch_max(seen.waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            seen.asked.lock().unwrap().extend(stream.local_addr());
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Not counted any more before the asker can know: whoever is asked next is not one too many.
            seen.waiting.fetch_sub(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        });
    }
}

/// Checks of sixty addresses of a server that answers late.
async fn sixty(of: Check) -> (BTreeMap<TargetKey, Check>, Arc<Seen>) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Seen::default());
    tokio::spawn(answer_late(listener, Arc::clone(&seen)));
    let kind = CheckKind::Http(Box::new(HttpCheck::new("/", None, StatusSet::default()).unwrap()));
    let addresses = (0..60u32).map(|i| SocketAddr::from((Ipv4Addr::from(0x7f03_0000 + i), port)));
    let wanted = addresses.map(|address| (key(address), Check { kind: kind.clone(), address, timeout: PATIENCE, ..of.clone() }));
    (wanted.collect(), seen)
}

#[tokio::test]
async fn no_more_checks_run_at_once_than_may() {
    const AT_ONCE: usize = 5;
    let (wanted, seen) = sixty(check(any_port())).await;
    let (monitor, _events) = Monitor::spawn_with(Options { in_flight: AT_ONCE }).unwrap();
    monitor.set_targets(wanted);
    until("all were asked twice", || monitor.snapshot().values().all(|s| s.checks_done >= 2)).await;
    until("as many as may run at once did", || seen.most.load(Ordering::SeqCst) >= AT_ONCE).await;
    assert_eq!(seen.most.load(Ordering::SeqCst), AT_ONCE);
    assert!(monitor.snapshot().values().all(|s| s.health == Health::Up && s.checks_failed == 0), "waiting for a turn is no failure");
}

/// A doubt about many at once is no reason for more checks than may run, nor for leaving any of them out.
#[tokio::test]
async fn checks_made_in_doubt_take_turns_in_half_of_the_room() {
    const AT_ONCE: usize = 6;
    let hourly =
        Check { interval: Duration::from_secs(3600), rise: 1, detection: Detection::Phi(PhiRules::default()), ..check(any_port()) };
    let (wanted, seen) = sixty(hourly).await;
    let all: BTreeSet<_> = wanted.values().map(|check| check.address.ip()).collect();
    let (monitor, _events) = Monitor::spawn_with(Options { in_flight: AT_ONCE }).unwrap();
    monitor.set_targets(wanted);
    until("all are up", || monitor.snapshot().values().all(|s| s.health == Health::Up)).await;
    until("nobody is asked", || seen.waiting.load(Ordering::SeqCst) == 0).await;
    seen.most.store(0, Ordering::SeqCst);
    seen.asked.lock().unwrap().clear();
    monitor.failed_neighbours(&all);
    until("all were asked again", || seen.asked.lock().unwrap().len() == all.len()).await;
    // A regular check may come among them.
    let most = seen.most.load(Ordering::SeqCst);
    assert!((AT_ONCE / 2..=AT_ONCE / 2 + 1).contains(&most), "{most} at once");
    assert!(monitor.snapshot().values().all(|s| s.checks_done <= 2), "checks in doubt are nobody's regular turn");
}

#[tokio::test]
async fn a_first_check_comes_at_once_and_the_interval_is_kept() {
    let (monitor, _events) = Monitor::spawn().unwrap();
    let (address, _server) = listen(any_port()).await;
    let hourly = Check { interval: Duration::from_secs(3600), ..check(address) };
    monitor.set_targets([(key(address), hourly)].into());
    until("the first check", || monitor.first_round_done()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(monitor.status(&key(address)).unwrap().checks_done <= 2);
    monitor.set_targets(targets([address]));
    until("a changed interval takes effect", || monitor.status(&key(address)).unwrap().checks_done > 5).await;
}

#[tokio::test]
async fn a_target_that_went_is_asked_no_more() {
    let (monitor, _events) = Monitor::spawn().unwrap();
    let (stays, _server) = listen(any_port()).await;
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let goes = listener.local_addr().unwrap();
    monitor.set_targets(targets([stays, goes]));
    let _ = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    monitor.set_targets(targets([stays]));
    assert_eq!(monitor.status(&key(goes)), None);
    let before = monitor.status(&key(stays)).unwrap().checks_done;
    until("the other one goes on", || monitor.status(&key(stays)).unwrap().checks_done > before + 5).await;
    while tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_ok() {}
    assert!(tokio::time::timeout(Duration::from_millis(300), listener.accept()).await.is_err());
}

#[tokio::test]
async fn a_seeded_target_is_up_until_its_checks_say_otherwise() {
    let (monitor, mut events) = Monitor::spawn().unwrap();
    let nobody = TcpListener::bind(any_port()).await.unwrap().local_addr().unwrap();
    monitor.seed([(key(nobody), Health::Up)].into());
    monitor.set_targets(targets([nobody]));
    let event = next(&mut events).await;
    assert_eq!((event.health, event.evidence.consecutive), (Health::Down, 2), "there is no event for what was known before");
}

/// With nobody to take events, the latest of each target waits; nothing is lost and nothing grows.
#[tokio::test]
async fn a_daemon_that_is_late_gets_the_latest_of_each_target() {
    let (monitor, mut events) = Monitor::spawn().unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let addresses: Vec<_> = (0..200u32).map(|i| SocketAddr::from((Ipv4Addr::from(0x7f02_0000 + i), port))).collect();
    monitor.set_targets(targets(addresses.clone()));
    let all = |health| monitor.snapshot().values().all(|s| s.health == health);
    until("all up", || all(Health::Up)).await;
    server.abort();
    until("all down", || all(Health::Down)).await;
    let mut last = BTreeMap::new();
    let mut count = 0;
    while last.values().filter(|h| **h == Health::Down).count() < addresses.len() {
        let event = next(&mut events).await;
        last.insert(event.key, event.health);
        count += 1;
    }
    assert!(count <= addresses.len() + EVENTS, "{count} events");
}

#[tokio::test]
async fn ends_with_its_last_handle() {
    let (monitor, mut events) = Monitor::spawn().unwrap();
    let other = monitor.clone();
    drop(monitor);
    assert_eq!(other.snapshot().len(), 0);
    drop(other);
    assert_eq!(tokio::time::timeout(PATIENCE, events.recv()).await.unwrap(), None);
}

#[test]
fn jitter_stays_within_the_interval_and_spreads() {
    let mut jitter = Jitter(1);
    let interval = Duration::from_secs(1);
    let waits: Vec<_> = (0..1000).map(|_| jitter.below(interval)).collect();
    assert!(waits.iter().all(|w| *w < interval));
    for tenth in 0..10 {
        let range = interval * tenth / 10..interval * (tenth + 1) / 10;
        let count = waits.iter().filter(|w| range.contains::<Duration>(w)).count();
        assert!((50..200).contains(&count), "{count} of 1000 in {range:?}");
    }
    let around: Vec<_> = (0..1000).map(|_| jitter.around(interval, 20).as_millis()).collect();
    assert!(around.iter().all(|ms| (800..=1200).contains(ms)), "{around:?}");
    assert!(around.iter().any(|ms| *ms < 850) && around.iter().any(|ms| *ms > 1150), "{around:?}");
    assert_eq!(jitter.around(interval, 0), interval);
}
