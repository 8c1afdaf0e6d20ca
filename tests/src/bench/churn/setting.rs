//! What a world of clients, balancers and backends is to be: who forwards how, and what hosts and daemons are told for that.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::world::{BACKENDS, BALANCERS, HANDSHAKE};
use crate::{
    daemon::{Process, mesh_binary},
    stage::{PORT, Stage},
};

/// How packets reach a backend: the last two leave them as they are, so that the backend has to own the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Nat,
    Dnat,
    Dsr,
    Tunnel,
}

/// A connection's protocol, and the name of the service for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Quic,
}

/// Bytes of the server ids in QUIC's connection ids: the last ones of backends' addresses, which end in the hosts' numbers.
pub const SERVER_ID: usize = 2;

/// What a world is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub way: Way,
    pub v6: bool,
    /// Two balancers that know each other.
    pub pair: bool,
    /// A service of another protocol beside `web`.
    pub beside: Option<Protocol>,
    /// Backends of `tunnel` pass on what they do not know.
    pub second_chance: bool,
    /// The longest silence of a flow that is promised to find its backend again.
    pub idle: Duration,
    /// Old flows are waited for so long before they are remembered one by one.
    pub patience: Duration,
    /// More lines of the configuration.
    pub lines: &'a str,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
        }
    }

    /// Backends get packets for the VIP.
    pub fn keeps_vip(self) -> bool {
        matches!(self, Self::Dsr | Self::Tunnel)
    }
}

impl Protocol {
    pub fn service(self) -> &'static str {
        match self {
            Self::Tcp => "web",
            Self::Udp => "dns",
            Self::Quic => "quic",
        }
    }

    /// Of the service, and of its backends.
    pub fn port(self) -> u16 {
        match self {
            Self::Tcp | Self::Udp => PORT,
            Self::Quic => 8443,
        }
    }

    /// What the configuration says of such a service alone.
    fn keys(self) -> String {
        match self {
            Self::Tcp => String::new(),
            Self::Udp => "protocol: udp, ".into(),
            Self::Quic => format!("protocol: udp, quic: {{server_id_length: {SERVER_ID}}}, "),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Quic => "quic",
        }
    }
}

impl Setting<'_> {
    /// One balancer and a TCP service of IPv4.
    pub const fn plain(way: Way, idle: Duration) -> Setting<'static> {
        Setting { way, v6: false, pair: false, beside: None, second_chance: false, idle, patience: Duration::from_secs(1), lines: "" }
    }

    pub fn protocols(&self) -> &'static [Protocol] {
        match self.beside {
            None | Some(Protocol::Tcp) => &[Protocol::Tcp],
            Some(Protocol::Udp) => &[Protocol::Tcp, Protocol::Udp],
            Some(Protocol::Quic) => &[Protocol::Tcp, Protocol::Quic],
        }
    }

    pub fn vip(&self) -> SocketAddr {
        let address: IpAddr = if self.v6 { [0xfd77, 0, 0, 0, 0, 0, 0, 0x100].into() } else { [10, 77, 0, 100].into() };
        (address, PORT).into()
    }

    /// The configuration, but for lines that are the balancer's own.
    pub fn config(&self, stage: &Stage) -> Result<String> {
        let client: IpAddr = if self.v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let more = match self.way {
            Way::Dnat => format!("reply_via: '{client}', "),
            Way::Tunnel if self.second_chance => "encap: gue, ".into(),
            _ => String::new(),
        };
        let mut text = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nledger: {{handshake: {}s, idle: {}s, patience: {}s}}\nservices:\n",
            HANDSHAKE.as_secs(),
            self.idle.as_secs(),
            self.patience.as_secs()
        );
        for protocol in self.protocols() {
            let (kind, port) = (protocol.keys(), protocol.port());
            let member = |(name, _): &(&str, u8)| {
                Ok(format!("{{name: {name}, address: \"{}\"}}", SocketAddr::new(stage.address(name, self.v6)?.ip(), port)))
            };
            let members = BACKENDS[..3].iter().map(member).collect::<Result<Vec<_>>>()?.join(", ");
            text += &format!(
                "  - {{name: {}, vip: '{}', {kind}mode: {}, {more}slots: 256, announce: {{address: eth0}}, \
                 health: {{type: tcp, port: {PORT}, interval: 500ms, timeout: 5s}}, backends: [{members}]}}\n",
                protocol.service(),
                SocketAddr::new(self.vip().ip(), port),
                self.way.name()
            );
        }
        Ok(text)
    }

    /// What a backend's host needs for the mode. What is returned runs beside it, and writes to `log`.
    pub fn prepare(&self, stage: &Stage, name: &str, log: &std::path::Path) -> Result<Option<Process>> {
        let (host, vip) = (&stage.backends[name], self.vip());
        match self.way {
            Way::Nat => {}
            Way::Dnat => host.lead_back(stage.client.addresses(), &stage.balancer)?,
            Way::Dsr => host.own_quietly(vip.ip())?,
            Way::Tunnel => {
                let mut agent = host.ns.command(mesh_binary()?);
                agent.args(["agent", "--interface", "eth0", "--vip", &vip.ip().to_string()]);
                agent.args(["--second-chance", if self.second_chance { "link" } else { "off" }]);
                let log = fs::File::create(log).with_context(|| format!("failed to make {}", log.display()))?;
                let agent = Process::spawn(agent.stdout(log.try_clone()?).stderr(log))?;
                host.until_owned(vip)?;
                return Ok(Some(agent));
            }
        }
        Ok(None)
    }
}

/// Lines of the configuration of the `n`-th of two balancers.
pub fn peers(n: usize, key: &std::path::Path) -> String {
    format!(
        "hash_key: 000102030405060708090a0b0c0d0e0f\npeers: {{listen: '{}:7946', nodes: ['{}:7946'], key_file: '{}', interval: 50ms, lost: 3s}}\n",
        BALANCERS[n],
        BALANCERS[1 - n],
        key.display()
    )
}
