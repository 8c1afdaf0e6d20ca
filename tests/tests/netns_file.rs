//! A file of backends under a running daemon: replaced, half written, bad, removed, and changed a thousand times in a second.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    netns::{Fabric, Host},
};
use serde_json::Value;

struct World {
    daemon: Daemon,
    dir: tempfile::TempDir,
    _hosts: [Host; 2],
    _fabric: Fabric,
}

impl World {
    fn new(group: &str, backends: usize) -> Result<Self> {
        let fabric = Fabric::new(group)?;
        let hosts = [fabric.host("balancer", 2)?, fabric.host("router", 11)?];
        hosts[0].ns.ip(&format!("route add 10.78.0.0/16 via {}", hosts[1].v4))?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("backends.json");
        fs::write(&file, list(0..backends))?;
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: \"10.77.0.100:80\", health: none, backends_file: '{}'}}\n",
            file.display()
        );
        let daemon = Daemon::start(&hosts[0].ns, &config)?;
        let world = Self { daemon, dir, _hosts: hosts, _fabric: fabric };
        world.is("live", backends, None)?;
        Ok(world)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("backends.json")
    }

    /// Puts another file in its place, whole.
    fn replace(&self, text: &str) -> Result<()> {
        let new = self.dir.path().join("backends.json.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.file())?)
    }

    fn source(&self) -> Result<Value> {
        let all = self.daemon.json(&["source", "ls"])?;
        let ours = |s: &&Value| s["source"].as_str().is_some_and(|source| source.starts_with("file "));
        all.as_array().into_iter().flatten().find(ours).cloned().with_context(|| format!("no file among {all}"))
    }

    /// Waits until the source is in this state, and its service has so many backends; `why` stands in its error.
    fn is(&self, state: &str, backends: usize, why: Option<&str>) -> Result<()> {
        self.daemon.until(&format!("{state}, {backends} backends, {why:?}"), || {
            let source = self.source()?;
            let error = source["error"].as_str();
            let told = why.map_or(error.is_none(), |why| error.is_some_and(|e| e.contains(why)));
            Ok(told && source["state"] == state && source["endpoints"] == backends && self.backends()? == backends)
        })
    }

    /// When it was read last, and how often it could not be.
    fn read(&self) -> Result<(u64, u64)> {
        let source = self.source()?;
        let number = |name| source[name].as_u64().with_context(|| format!("no {name} in {source}"));
        Ok((number("answered_ms")?, number("failures")?))
    }

    fn backends(&self) -> Result<usize> {
        Ok(self.daemon.json(&["backend", "ls", "web"])?.as_array().map_or(0, Vec::len))
    }
}

fn list(of: std::ops::Range<usize>) -> String {
    let all: Vec<String> = of.map(|i| format!("\"10.78.{}.{}:8080\"", i / 250, i % 250 + 1)).collect();
    format!("[{}]\n", all.join(", "))
}

#[test]
fn what_cannot_be_read_leaves_what_was() -> Result<()> {
    let world = World::new("mesh-file", 3)?;
    world.replace(&list(0..5))?;
    world.is("live", 5, None)?;
    // Half of it is written in place, and the rest comes late.
    let whole = list(0..7);
    fs::write(world.file(), &whole[..whole.len() / 2])?;
    world.is("stale", 5, Some("backends.json"))?;
    let (answered, failures) = world.read()?;
    fs::write(world.file(), &whole[..whole.len() / 3])?;
    world.daemon.until("another failure", || Ok(world.read()?.1 > failures))?;
    ensure!(world.read()?.0 == answered, "a bad file is no answer");
    fs::write(world.file(), &whole)?;
    world.is("live", 7, None)?;
    for (bad, why) in [("", "backends.json"), (r#"["10.78.0.1:8080", "127.0.0.1:1"]"#, "loopback"), ("{}{", "backends.json")] {
        world.replace(bad)?;
        world.is("stale", 7, Some(why))?;
        world.replace(&whole)?;
        world.is("live", 7, None)?;
    }
    fs::remove_file(world.file())?;
    world.is("stale", 7, Some("No such file"))?;
    world.replace("[]")?;
    world.is("live", 0, None)?;
    world.replace(&whole)?;
    world.is("live", 7, None)?;
    ensure!(world.read()?.1 >= 5, "{}", world.source()?);
    Ok(())
}

#[test]
fn a_thousand_changes_in_a_second() -> Result<()> {
    let world = World::new("mesh-file-mass", 1000)?;
    let begin = Instant::now();
    // Fifty go and fifty come with each.
    for step in 1..=20 {
        world.replace(&list(50 * step..1000 + 50 * step))?;
        std::thread::sleep((begin + Duration::from_millis(50) * step as u32).saturating_duration_since(Instant::now()));
    }
    let last = Instant::now();
    world.daemon.until("the last list counts", || {
        let backends = world.daemon.json(&["backend", "ls", "web"])?;
        let all: Vec<&str> = backends.as_array().into_iter().flatten().filter_map(|b| b["id"].as_str()).collect();
        Ok(all.len() == 1000 && all.contains(&"10.78.7.250:8080") && !all.contains(&"10.78.3.250:8080"))
    })?;
    println!("a file: 1000 backends exchanged in {:.0} ms, shown {:.0} ms after", ms(last - begin), ms(last.elapsed()));
    world.is("live", 1000, None)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
