//! Connections that are no established sockets any more, or not yet: nothing of them is passed on to a stranger, who would answer by a RST.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use mesh_common::abi::LedgerEntry;
use mesh_tests::{
    bench::churn::unbroken,
    daemon::wait_for,
    netns::{Namespace, run},
    stage::PORT,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt::ReuseAddr};

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

/// A client uses a port again that the drained backend has just closed a connection of, which waits for its time to pass there. The next one is with
/// somebody else, and when it is forgotten whose it is, the drained one must not take it for its own.
fn knows_what_is_over(group: &str, setting: Setting) -> Result<()> {
    let play = Play::new(group, setting)?;
    let mut ports = Vec::new();
    for stream in play.connect()? {
        let port = stream.local_addr()?.port();
        let (owner, _) = ask_and_close(stream)?;
        ports.extend((owner == DRAINED).then_some(port));
    }
    ensure!(!ports.is_empty(), "no connection was with {DRAINED}");
    wait_for("they are over", || Ok(play.sockets(play.ns(DRAINED)?, "time-wait")? >= ports.len()))?;
    play.drain()?;
    let again = |port: &u16| connect_from(*port, play.vip);
    let mut streams = play.stage.client.ns.enter(|| ports.iter().map(again).collect::<Result<Vec<_>>>())??;
    let owners = streams.iter_mut().map(ask).collect::<Result<Vec<_>>>()?;
    ensure!(!owners.iter().any(|owner| owner == DRAINED), "{owners:?}");
    for (stream, owner) in streams.iter_mut().zip(&owners) {
        play.fill_ledger(0)?;
        let answer = ask(stream).with_context(|| format!("a connection of {owner} was asked in vain"))?;
        ensure!(answer == *owner, "{answer} answered for {owner}");
    }
    let told = play.end()?;
    ensure!(told.passed_on >= owners.len() as u64, "{told:?} of {}", owners.len());
    Ok(())
}

/// A connection from this port, which may have had another a moment before.
fn connect_from(port: u16, to: SocketAddr) -> Result<TcpStream> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Asks on a connection that is to stay; who has answered.
fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    // Names of backends are two letters long.
    while answer.windows(4).position(|four| four == b"\r\n\r\n").is_none_or(|end| answer.len() < end + 6) {
        let n = stream.read(&mut piece)?;
        ensure!(n > 0, "closed amid an answer");
        answer.extend_from_slice(&piece[..n]);
    }
    Ok(String::from_utf8_lossy(&answer).rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
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

#[test]
fn a_ports_last_use_is_over() -> Result<()> {
    knows_what_is_over("mesh-2nd-o4", Setting { v6: false, pods: false, chance: "link" })
}

#[test]
fn a_ports_last_use_is_over_by_ipv6_in_pods() -> Result<()> {
    knows_what_is_over("mesh-2nd-o6", Setting { v6: true, pods: true, chance: "fd78::/16" })
}
