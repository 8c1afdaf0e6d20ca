//! Who stands between the client and the backends: each on a host and with an address of its own, all there at once, so that they can take turns.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    daemon::{Daemon, Process, mesh_binary},
    netns::{Fabric, Host, run},
};

pub const PORT: u16 = 8080;
const BACKENDS: [u8; 3] = [11, 12, 13];
/// The client's address as which it asks by way of `dnat`: the backends' routes to it lead through that balancer.
const ROUTED_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const PATIENCE: Duration = Duration::from_secs(20);

/// Who balances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// Nobody: what client, network and servers take by themselves.
    Direct,
    Nat,
    Dnat,
    Dsr,
    /// IP in IP, with `mesh agent` on the backends.
    Tunnel,
    /// The kernel's own translation, of both addresses, as `nat` does it.
    Nftables,
    Haproxy,
    Nginx,
}

/// Everything that runs. Ends with this value.
#[derive(Debug)]
pub struct Ground {
    _daemons: Vec<Daemon>,
    _processes: Vec<Process>,
    /// Process groups, by the process that leads them.
    _groups: Vec<u32>,
    _files: TempDir,
    _balancers: Vec<Host>,
    pub backends: Vec<Host>,
    pub client: Host,
    _fabric: Fabric,
}

impl Arm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nat => "mesh nat",
            Self::Dnat => "mesh dnat",
            Self::Dsr => "mesh dsr",
            Self::Tunnel => "mesh tunnel",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    fn number(self) -> u8 {
        20 + self as u8
    }

    fn vip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 100 + self as u8)
    }

    /// Where the client connects to, in turns.
    pub fn targets(self) -> Vec<SocketAddr> {
        match self {
            Self::Direct => BACKENDS.iter().map(|n| (address(*n), PORT).into()).collect(),
            _ => vec![(self.vip(), PORT).into()],
        }
    }

    /// The address that the client asks from.
    pub fn source(self, client: &Host) -> SocketAddr {
        let address = if self == Self::Dnat { ROUTED_CLIENT } else { client.v4 };
        (address, 0).into()
    }

    /// As mesh's configuration calls it; `None` = somebody else.
    fn mode(self) -> Option<&'static str> {
        match self {
            Self::Nat => Some("nat"),
            Self::Dnat => Some("dnat"),
            Self::Dsr => Some("dsr"),
            Self::Tunnel => Some("tunnel"),
            Self::Direct | Self::Nftables | Self::Haproxy | Self::Nginx => None,
        }
    }
}

impl Ground {
    pub fn build(group: &str, arms: &[Arm]) -> Result<Self> {
        let fabric = Fabric::new(group)?;
        let client = fabric.host("client", 1)?;
        client.ns.sysctl("net/ipv4/ip_local_port_range", "10000 60999")?;
        client.ns.ip(&format!("address add {ROUTED_CLIENT}/24 dev eth0"))?;
        let backends = BACKENDS.iter().map(|n| fabric.host(&format!("b{n}"), *n)).collect::<Result<Vec<_>>>()?;
        for backend in &backends {
            super::wire::serve(&backend.ns, PORT)?;
        }
        let files = tempfile::Builder::new().prefix("mesh-bench-").tempdir()?;
        let mut ground = Self {
            _daemons: Vec::new(),
            _processes: Vec::new(),
            _groups: Vec::new(),
            _files: files,
            _balancers: Vec::new(),
            backends,
            client,
            _fabric: fabric,
        };
        for arm in arms.iter().filter(|arm| **arm != Arm::Direct) {
            ground.add(*arm).with_context(|| format!("failed to set up {}", arm.name()))?;
        }
        Ok(ground)
    }

    fn add(&mut self, arm: Arm) -> Result<()> {
        let host = self._fabric.host(&format!("a{}", arm.number()), arm.number())?;
        self.prepare_backends(arm, &host)?;
        if let Some(mode) = arm.mode() {
            self._daemons.push(Daemon::start(&host.ns, &config(arm, mode))?);
        } else {
            host.ns.ip(&format!("address add {}/24 dev eth0", arm.vip()))?;
            match arm {
                Arm::Nftables => translate(&host, arm.vip())?,
                Arm::Haproxy => {
                    let file = self.write("haproxy.cfg", &haproxy(arm.vip()))?;
                    self.start(host.ns.command("haproxy").args(["-db", "-f"]).arg(file))?;
                }
                _ => {
                    let text = nginx(arm.vip(), &self._files.path().display().to_string());
                    let file = self.write("nginx.conf", &text)?;
                    // Its workers outlive a master that is killed: they are ended as a group.
                    self.start(host.ns.command("nginx").arg("-c").arg(file).process_group(0))?;
                    self._groups.extend(self._processes.last().and_then(Process::id));
                }
            }
        }
        self._balancers.push(host);
        Ok(())
    }

    /// What a mode asks of its backends.
    fn prepare_backends(&mut self, arm: Arm, balancer: &Host) -> Result<()> {
        for backend in &self.backends {
            match arm {
                Arm::Dsr => backend.own_quietly(arm.vip().into())?,
                Arm::Dnat => backend.lead_back([ROUTED_CLIENT], balancer)?,
                Arm::Tunnel => {
                    let mut command = backend.ns.command(mesh_binary()?);
                    command.args(["agent", "--interface", "eth0", "--vip", &arm.vip().to_string()]);
                    self._processes.push(Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
                    let end = Instant::now() + PATIENCE;
                    let owned =
                        || backend.ns.command("ip").args(["-o", "address", "show", "dev", "lo", "to", &arm.vip().to_string()]).output();
                    while owned()?.stdout.is_empty() {
                        ensure!(Instant::now() < end, "no agent has taken {} within {PATIENCE:?}", arm.vip());
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<std::path::PathBuf> {
        let path = self._files.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn start(&mut self, command: &mut Command) -> Result<()> {
        self._processes.push(Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for group in &self._groups {
            // The leader has not been waited for, so the number is still its own. Who has ended by itself is as good.
            let _ = killpg(Pid::from_raw(*group as i32), Signal::SIGKILL);
        }
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn config(arm: Arm, mode: &str) -> String {
    let backends: Vec<String> = BACKENDS.iter().map(|n| format!("'{}:{PORT}'", address(*n))).collect();
    let more = if arm == Arm::Dnat { format!("reply_via: {}, ", address(1)) } else { String::new() };
    format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n- {{name: web, vip: '{}:{PORT}', mode: {mode}, {more}announce: {{address: eth0}}, health: none, \
         backends: [{}]}}\n",
        arm.vip(),
        backends.join(", ")
    )
}

/// The kernel's own: the backend by turns, and the balancer's address for the client's.
fn translate(host: &Host, vip: Ipv4Addr) -> Result<()> {
    host.ns.sysctl("net/ipv4/ip_forward", "1")?;
    host.ns.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    host.ns.sysctl("net/ipv4/conf/eth0/send_redirects", "0")?;
    let places: Vec<String> = BACKENDS.iter().enumerate().map(|(i, n)| format!("{i} : {}", address(*n))).collect();
    let rules = format!(
        "table ip nat {{\nchain pre {{ type nat hook prerouting priority dstnat; ip daddr {vip} tcp dport {PORT} dnat to numgen inc mod {} map {{ {} }}; }}\n\
         chain post {{ type nat hook postrouting priority srcnat; masquerade; }}\n}}\n",
        BACKENDS.len(),
        places.join(", ")
    );
    run(host.ns.command("nft").arg(rules))
}

fn haproxy(vip: Ipv4Addr) -> String {
    let servers: String = BACKENDS.iter().map(|n| format!("  server b{n} {}:{PORT}\n", address(*n))).collect();
    format!(
        "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\nfrontend f\n  bind {vip}:{PORT}\n\
         \x20 default_backend b\nbackend b\n  balance roundrobin\n{servers}"
    )
}

fn nginx(vip: Ipv4Addr, directory: &str) -> String {
    let servers: String = BACKENDS.iter().map(|n| format!("server {}:{PORT}; ", address(*n))).collect();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n\
         worker_processes auto;\nevents {{ worker_connections 8192; }}\n\
         stream {{ upstream b {{ {servers}}} server {{ listen {vip}:{PORT}; tcp_nodelay on; proxy_pass b; }} }}\n"
    )
}
