//! The ground of most tests of the daemon: a stage of three backends, and a daemon that gives them one service.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    daemon::Daemon,
    peer::{self, Held},
    stage::Stage,
};

/// The backends of a world, with the last byte of their addresses.
pub const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];

/// For how long a client waits before it calls a connection broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The service `web`, its backends, the daemon, and a client beside them.
#[derive(Debug)]
pub struct World {
    // Ends before the namespaces that it runs in.
    pub daemon: Daemon,
    pub stage: Stage,
    pub vip: SocketAddr,
}

impl World {
    /// Three backends that serve, and `web` at `10.77.0.100:8080`. `more` is the rest of the service in YAML's flow style, as `mode: nat`.
    pub fn new(group: &str, more: &str) -> Result<Self> {
        let mut stage = Stage::build(group, &BACKENDS)?;
        BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
        Self::of(stage, more)
    }

    /// The same on a stage that was made ready for it.
    pub fn of(stage: Stage, more: &str) -> Result<Self> {
        let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, &BACKENDS.map(|(name, _)| name), more)?)?;
        Ok(Self { daemon, stage, vip: vip()? })
    }

    /// Waits until `holds` is true.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        self.daemon.until(what, || holds(self))
    }

    /// Connections that are asked one after the other, and given up after `patience`.
    pub fn hold(&self, count: usize, patience: Duration) -> Result<Held> {
        Held::open(&self.stage.client.ns, self.vip, count, Duration::from_millis(10), patience)
    }

    /// How many of `n` requests each backend answers; every one has to be answered.
    pub fn ask(&self, n: usize) -> Result<BTreeMap<String, usize>> {
        let vip = self.vip;
        let answers = self.stage.client.ns.enter(|| (0..n).map(|_| peer::get(vip, "/", PATIENCE)).collect::<Result<Vec<_>, _>>())??;
        let mut counts = BTreeMap::new();
        for who in answers {
            *counts.entry(who).or_default() += 1;
        }
        Ok(counts)
    }

    /// All events of this kind, the oldest first.
    pub fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let all = self.daemon.json(&["events"])?;
        Ok(all.as_array().with_context(|| format!("no list: {all}"))?.iter().filter(|e| e["event"] == kind).cloned().collect())
    }

    /// The events in which a backend became `to`.
    pub fn became(&self, name: &str, to: &str) -> Result<Vec<Value>> {
        let address = self.stage.address(name, false)?.to_string();
        let all = self.events("backend_state")?;
        Ok(all.into_iter().filter(|e| e["backend"] == address.as_str() && e["to"] == to).collect())
    }
}

/// What the daemon of a world of these backends is told.
pub fn config(stage: &Stage, names: &[&str], more: &str) -> Result<String> {
    let mut backends = String::new();
    for name in names {
        write!(backends, "{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?)?;
    }
    let vip = vip()?;
    let more = if more.is_empty() { String::new() } else { format!("{more}, ") };
    Ok(format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  \
         - {{name: web, vip: '{vip}', announce: {{address: eth0}}, {more}backends: [{backends}]}}\n"
    ))
}

fn vip() -> Result<SocketAddr> {
    Ok("10.77.0.100:8080".parse()?)
}
