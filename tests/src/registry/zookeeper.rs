//! ZooKeeper, and a client that makes nodes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::Ground;
use crate::daemon::Process;

pub const SERVER: &str = "127.0.0.1:2181";

pub fn start(ground: &Ground) -> Result<Process> {
    let dir = ground.path("");
    let config = format!(
        "tickTime=500\ndataDir={}\nclientPort=2181\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n",
        dir.join("data").display()
    );
    let config = ground.write("zoo.cfg", &config)?;
    ground.write("log4j.properties", "log4j.rootLogger=WARN, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\nlog4j.appender.out.layout=org.apache.log4j.SimpleLayout\n")?;
    let mut command = ground.ns.command("java");
    command.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.jmx.log4j.disable=true"]);
    command.arg("-cp").arg(format!("/usr/share/java/*:{}", dir.display()));
    let process = ground.start("zookeeper", command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(config))?;
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = ground.ns.enter(|| Registrar::connect(2000).map(drop))? {
        ensure!(Instant::now() < end, "ZooKeeper grants no session: {error:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(process)
}

/// A session that makes nodes, by bytes of its own.
#[derive(Debug)]
pub struct Registrar(TcpStream);

impl Registrar {
    pub fn connect(session_ms: i32) -> Result<Self> {
        let mut stream = TcpStream::connect(SERVER)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        let body = [&[0; 12][..], &session_ms.to_be_bytes(), &[0; 8], &16i32.to_be_bytes(), &[0; 16], &[0]].concat();
        stream.write_all(&[&(body.len() as i32).to_be_bytes()[..], &body].concat())?;
        let mut registrar = Self(stream);
        let granted = registrar.frame()?;
        ensure!(granted.len() >= 36 && granted[4..8] != [0; 4], "no session: {granted:?}");
        Ok(registrar)
    }

    pub fn frame(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame)?;
        Ok(frame)
    }

    pub fn send(&mut self, request: i32, parts: &[&[u8]]) -> Result<()> {
        let body = [&1i32.to_be_bytes()[..], &request.to_be_bytes(), &parts.concat()].concat();
        Ok(self.0.write_all(&[&(body.len() as i32).to_be_bytes()[..], &body].concat())?)
    }

    /// The error of the next answer.
    pub fn answer(&mut self) -> Result<i32> {
        let frame = self.frame()?;
        ensure!(frame.len() >= 16, "a short answer: {frame:?}");
        Ok(i32::from_be_bytes([frame[12], frame[13], frame[14], frame[15]]))
    }

    pub fn ask_create(&mut self, path: &str, data: &str, ephemeral: bool) -> Result<()> {
        let acl = [&1i32.to_be_bytes()[..], &31i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
        self.send(1, &[&text(path), &text(data), &acl, &i32::from(ephemeral).to_be_bytes()])
    }

    pub fn create(&mut self, path: &str, data: &str, ephemeral: bool) -> Result<()> {
        self.ask_create(path, data, ephemeral)?;
        let error = self.answer()?;
        ensure!(error == 0, "create {path}: error {error}");
        Ok(())
    }

    pub fn set(&mut self, path: &str, data: &str) -> Result<()> {
        self.send(5, &[&text(path), &text(data), &(-1i32).to_be_bytes()])?;
        let error = self.answer()?;
        ensure!(error == 0, "set {path}: error {error}");
        Ok(())
    }

    pub fn delete(&mut self, path: &str) -> Result<()> {
        self.send(2, &[&text(path), &(-1i32).to_be_bytes()])?;
        let error = self.answer()?;
        ensure!(error == 0, "delete {path}: error {error}");
        Ok(())
    }

    /// Ends the session: its ephemeral nodes go at once.
    pub fn close(mut self) -> Result<()> {
        self.send(-11, &[])?;
        self.answer().map(drop)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat()
}
