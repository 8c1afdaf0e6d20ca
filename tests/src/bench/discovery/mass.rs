//! A thousand changes in a second: how soon they are settled, and how many slots that costs.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use mesh::{
    api::{Client, EventStream},
    events::{Event, What},
    model::ServiceName,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{GROUP, clean};
use crate::{
    daemon::Daemon,
    netns::Fabric,
    registry::{Ground, etcd},
};

/// Backends that are there, of which half goes while as many come.
const BACKENDS: usize = 1000;
const STEPS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// So long nothing may be published before all counts as settled.
const QUIET: Duration = Duration::from_secs(2);
const TARGET_MS: f64 = 2000.0;

/// What became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Mass {
    pub changes: usize,
    /// The changes took so long to make.
    pub spread_ms: f64,
    /// From the last of them to the last publication, milliseconds.
    pub settled_ms: f64,
    pub publications: usize,
    pub slots_written: usize,
    /// Slots whose backends differ from one plan to the next, all plans together.
    pub slots_changed: usize,
    pub met: bool,
}

/// Changes keys in etcd under a running daemon.
pub fn mass() -> Result<Mass> {
    clean()?;
    let fabric = Fabric::new(GROUP)?;
    let (balancer, router) = (fabric.host("balancer", 2)?, fabric.host("router", 11)?);
    balancer.ns.ip(&format!("route add 10.78.0.0/16 via {}", router.v4))?;
    let ground = Ground::within(&balancer.ns)?;
    let _etcd = etcd::start(&ground)?;
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n- name: web\n  vip: 10.77.0.100:80\n  health: none\n  sources: [{{type: etcd, prefix: {}}}]\n",
        etcd::PREFIX
    );
    balancer.ns.enter(|| write(&(0..BACKENDS).map(Change::Put).collect::<Vec<_>>()))??;
    let daemon = Daemon::start(&balancer.ns, &config)?;
    let watcher = Watcher::at(Client::new(daemon.socket()))?;
    watcher.wait_for(BACKENDS, 0)?;
    std::thread::sleep(QUIET);
    let before = watcher.events(0)?.last().map_or(0, |e| e.seq);

    let changes: Vec<Change> = (0..BACKENDS / 2).flat_map(|i| [Change::Delete(i), Change::Put(BACKENDS + i)]).collect();
    // What waits is read when the changes are made; meanwhile a thread reads.
    let events = std::thread::spawn({
        let socket = daemon.socket();
        move || Watcher::at(Client::new(socket))?.follow(before)
    });
    let begun = Instant::now();
    for (step, some) in changes.chunks(changes.len() / STEPS).enumerate() {
        balancer.ns.enter(|| write(some))??;
        let due = Duration::from_millis(1000 * (step as u64 + 1) / STEPS as u64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let (spread, last) = (begun.elapsed(), unix_ms());
    let events = events.join().map_err(|_| anyhow::anyhow!("nobody listens to events"))??;
    watcher.wait_for(BACKENDS, BACKENDS / 2)?;
    Ok(figure(&events, changes.len(), spread, last))
}

fn figure(events: &[Event], changes: usize, spread: Duration, last_ms: u64) -> Mass {
    let (mut publications, mut slots_written, mut slots_changed, mut settled) = (0, 0, 0, last_ms);
    for event in events {
        match &event.what {
            What::Published { slots, .. } => {
                publications += 1;
                slots_written += slots;
                settled = settled.max(event.time_ms);
            }
            What::SlotsMoved { moved, secondaries, .. } => slots_changed += (*moved + *secondaries) as usize,
            _ => {}
        }
    }
    let settled_ms = (settled - last_ms) as f64;
    let met = settled_ms < TARGET_MS && slots_written <= slots_changed && publications > 0;
    Mass { changes, spread_ms: (spread.as_secs_f64() * 1e3).round(), settled_ms, publications, slots_written, slots_changed, met }
}

#[derive(Clone, Copy)]
enum Change {
    Put(usize),
    Delete(usize),
}

/// Several at once, in transactions of a hundred, which is etcd's own limit beyond 128.
fn write(changes: &[Change]) -> Result<()> {
    let op = |change: &Change| -> Value {
        match change {
            Change::Put(i) => json!({"request_put": etcd::pair(&format!("n-{i}"), &format!("10.78.{}.{}:80", i / 200, i % 200 + 1))}),
            Change::Delete(i) => json!({"request_delete_range": {"key": etcd::pair(&format!("n-{i}"), "")["key"]}}),
        }
    };
    for some in changes.chunks(100) {
        let ops: Vec<Value> = some.iter().map(op).collect();
        etcd::call("/v3/kv/txn", &json!({"success": ops}))?;
    }
    Ok(())
}

/// Asks the daemon how it does.
struct Watcher {
    client: Client,
    runtime: tokio::runtime::Runtime,
    service: ServiceName,
}

impl Watcher {
    fn at(client: Client) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client, runtime, service: "web".parse().map_err(anyhow::Error::msg)? })
    }

    fn events(&self, since: u64) -> Result<Vec<Event>> {
        Ok(self.runtime.block_on(self.client.events(since))?)
    }

    fn follow(&self, since: u64) -> Result<Vec<Event>> {
        let events = self.runtime.block_on(self.client.follow(since))?;
        self.until_quiet(events)
    }

    /// Waits until there are so many backends, of which the first is this one.
    fn wait_for(&self, count: usize, first: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let first = format!("10.78.{}.{}:80", first / 200, first % 200 + 1);
        loop {
            let there = self.runtime.block_on(self.client.backends(Some(&self.service)))?;
            if there.len() == count && there.iter().any(|b| b.id.to_string() == first) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "there are {} backends and not {count}", there.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All events from then on, until nothing is published any more: as they come, for the daemon keeps a thousand.
    fn until_quiet(&self, mut events: EventStream) -> Result<Vec<Event>> {
        let (mut all, end) = (Vec::new(), Instant::now() + PATIENCE);
        let mut quiet = Instant::now() + QUIET;
        self.runtime.block_on(async {
            while let Ok(event) = tokio::time::timeout_at(quiet.into(), events.next()).await {
                let event = event?.context("the daemon has ended")?;
                if matches!(event.what, What::Published { .. }) {
                    quiet = Instant::now() + QUIET;
                }
                all.push(event);
                ensure!(Instant::now() < end, "it does not come to rest");
            }
            Ok(())
        })?;
        let lost = all.windows(2).any(|pair| pair[1].seq != pair[0].seq + 1);
        ensure!(!lost && !all.is_empty(), "events were lost");
        Ok(all)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl fmt::Display for Mass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, spread_ms, settled_ms, publications, slots_written, slots_changed, met } = self;
        let met = if *met { "" } else { "  MISSED" };
        write!(
            f,
            "{changes} changes within {spread_ms} ms: settled {settled_ms} ms after the last, {publications} publications wrote {slots_written} slots where \
             {slots_changed} changed{met}"
        )
    }
}
