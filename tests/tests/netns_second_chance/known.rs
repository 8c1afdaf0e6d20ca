//! Connections that are no established sockets any more, or not yet: nothing of them is passed on to a stranger, who would answer by a RST.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Result, ensure};
use mesh_common::abi::LedgerEntry;
use mesh_tests::{
    bench::churn::unbroken,
    daemon::wait_for,
    netns::{Namespace, run},
    stage::PORT,
};

use super::{BACKENDS, DRAINED, HELD, PATIENCE, Play, Setting, count};

impl Play {
    /// RSTs that backends have sent: one who knows nothing of a connection answers its packets so.
    fn resets(&self) -> Result<u64> {
        BACKENDS.iter().map(|(name, _)| self.count(name, "TcpOutRsts")).sum()
    }

    /// Sockets of the service in this state.
    fn sockets(&self, ns: &Namespace, state: &str) -> Result<usize> {
        let output = ns.command("ss").args(["-Htan", "state", state, &format!("( sport = :{PORT} or dport = :{PORT} )")]).output()?;
        let vip = self.vip.to_string();
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&vip)).count())
    }

    /// Without room to remember them, new flows stay with the drained one, and its packets come with a list.
    fn keeps_new_ones(&self) -> Result<()> {
        let before = self.hold()?;
        self.drain()?;
        self.overwrite_ledger(LedgerEntry::BUSY, &before, 2)?;
        unbroken(&before.finish())
    }

    /// Connections that nothing has been asked on.
    fn connect(&self) -> Result<Vec<TcpStream>> {
        let vip = self.vip;
        Ok(self.stage.client.ns.enter(|| (0..HELD).map(|_| TcpStream::connect_timeout(&vip, PATIENCE)).collect::<Result<_, _>>())??)
    }

    /// The client loses packets with these flags; gone with what is returned.
    fn lose(&self, way: &str, port: &str) -> Result<Lossy> {
        let ns = self.stage.client.ns.alias()?;
        let rules = format!(
            "add table inet lossy; add chain inet lossy acks {{ type filter hook {way} priority 0; }}; \
             add rule inet lossy acks tcp {port} {PORT} tcp flags & (syn | fin | psh | ack) == ack drop"
        );
        run(ns.command("nft").arg(rules))?;
        Ok(Lossy(ns))
    }
}

/// A client that loses some of what it sends, or of what it is sent.
struct Lossy(Namespace);

impl Drop for Lossy {
    fn drop(&mut self) {
        let _ = run(self.0.command("nft").args(["delete", "table", "inet", "lossy"]));
    }
}

/// The ACK of a handshake is lost, so that the backend has no more than a request: what comes next is known all the same.
fn knows_what_is_half_open(group: &str, setting: Setting) -> Result<()> {
    let play = Play::new(group, setting)?;
    play.ns(DRAINED)?.sysctl("net/ipv4/tcp_syncookies", "0")?;
    play.keeps_new_ones()?;
    let before = play.resets()?;
    let lossy = play.lose("output", "dport")?;
    let streams = play.connect()?;
    let half_open = play.sockets(play.ns(DRAINED)?, "syn-recv")?;
    ensure!(half_open > 0, "no connection is half open with {DRAINED}");
    let mut owners = BTreeSet::new();
    for stream in streams {
        owners.insert(ask_and_close(stream)?.0);
    }
    drop(lossy);
    ensure!(owners.contains(DRAINED), "{owners:?}");
    ensure!(play.resets()? == before, "somebody answered a connection by a RST that was not its own");
    play.end()?;
    Ok(())
}

/// The last ACK of a connection that the backend has closed is lost: the client's FIN comes again, to a socket that waits for its time to pass.
fn knows_what_waits_for_its_time(group: &str, setting: Setting) -> Result<()> {
    let play = Play::new(group, setting)?;
    play.keeps_new_ones()?;
    let (client, before) = (&play.stage.client.ns, play.resets()?);
    let streams = play.connect()?;
    let answered = streams.into_iter().map(ask_and_close).collect::<Result<Vec<_>>>()?;
    ensure!(answered.iter().any(|(owner, _)| owner == DRAINED), "no connection was with {DRAINED}");
    let again = count(client, "TcpRetransSegs")?;
    let lossy = play.lose("input", "sport")?;
    drop(answered);
    wait_for("FINs come again", || Ok(count(client, "TcpRetransSegs")? >= again + 2 * HELD as u64))?;
    ensure!(play.sockets(play.ns(DRAINED)?, "time-wait")? > 0, "nothing of {DRAINED} waits for its time to pass");
    drop(lossy);
    wait_for("the client's connections are closed", || Ok(play.sockets(client, "last-ack")? == 0))?;
    ensure!(play.resets()? == before, "somebody answered a connection by a RST that was not its own");
    play.end()?;
    Ok(())
}

/// Asks on a connection that the other side is to close then; who has answered, and the connection, whose own end is still open.
fn ask_and_close(mut stream: TcpStream) -> Result<(String, TcpStream)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned(), stream))
}

#[test]
fn what_is_half_open_is_known() -> Result<()> {
    knows_what_is_half_open("mesh-2nd-h4", Setting { v6: false, pods: false, chance: "link" })
}

#[test]
fn what_is_half_open_is_known_by_ipv6_in_pods() -> Result<()> {
    knows_what_is_half_open("mesh-2nd-h6", Setting { v6: true, pods: true, chance: "fd78::/16" })
}

#[test]
fn what_waits_for_its_time_is_known() -> Result<()> {
    knows_what_waits_for_its_time("mesh-2nd-w4", Setting { v6: false, pods: false, chance: "link" })
}

#[test]
fn what_waits_for_its_time_is_known_by_ipv6_in_pods() -> Result<()> {
    knows_what_waits_for_its_time("mesh-2nd-w6", Setting { v6: true, pods: true, chance: "fd78::/16" })
}
