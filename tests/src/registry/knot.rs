//! Knot with a zone that takes updates.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::Ground;
use crate::{daemon::Process, netns};

#[derive(Debug)]
pub struct Knot<'a> {
    ground: &'a Ground,
    pub process: Process,
}

impl<'a> Knot<'a> {
    /// Serves the zone `test`, whose negative answers hold for `negative` seconds, at 127.0.0.1:5300.
    pub fn start(ground: &'a Ground, negative: u32) -> Result<Self> {
        let dir = ground.path("");
        let dir = dir.display();
        ground.write("test.zone", &format!("@ 300 SOA ns a 1 3600 600 86400 {negative}\n@ 300 NS ns\nns 300 A 10.9.9.9\n"))?;
        let config = ground.write(
            "knot.conf",
            &format!(
                "server:\n    rundir: {dir}\n    listen: 127.0.0.1@5300\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
                 database:\n    storage: {dir}\nlog:\n  - target: stderr\n    any: info\n\
                 acl:\n  - id: all\n    address: 127.0.0.1\n    action: update\n\
                 zone:\n  - domain: test\n    storage: {dir}\n    file: test.zone\n    acl: all\n    zonefile-sync: -1\n    zonefile-load: difference-no-serial\n    journal-content: all\n"
            ),
        )?;
        let process = ground.start("knot", ground.ns.command("knotd").arg("-c").arg(config))?;
        let knot = Self { ground, process };
        let end = Instant::now() + Duration::from_secs(30);
        // It takes updates as soon as the zone is loaded.
        while let Err(error) = knot.update("add probe.test. 1 TXT up") {
            ensure!(Instant::now() < end, "knotd does not take updates: {error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(knot)
    }

    /// RFC 2136 updates, sent as one message.
    pub fn update(&self, lines: &str) -> Result<()> {
        let script = format!("server 127.0.0.1 5300\nzone test.\n{lines}\nsend\n");
        let script = self.ground.write("update", &script)?;
        let mut command = self.ground.ns.command("knsupdate");
        netns::run(command.args(["-v", "-t", "5"]).arg(script).stdin(Stdio::null()))
    }
}
