//! nginx, HAProxy, a gRPC server and Knot on one host, each with good and bad corners.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Process,
    netns::{Host, run},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// The servers; they end with this value.
#[derive(Debug)]
pub struct Servers {
    running: Vec<Process>,
    directory: TempDir,
}

/// The health protocol on gRPC's own server: the names of services are what it does.
const GRPC: &str = r#"
import sys, time, concurrent.futures, grpc

def check(request, context):
    name = request[2:].decode()
    if name == "slow":
        time.sleep(5)
    if name == "lie":
        return b"all is well"
    if name not in ("", "good", "bad"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return bytes([8, 2 if name == "bad" else 1])

class Health(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(check)

server = grpc.server(concurrent.futures.ThreadPoolExecutor(64))
server.add_generic_rpc_handlers((Health(),))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
"#;

/// Answers each echo request with an answer to another one; the host's kernel has to be silent.
const LIAR: &str = r#"
import socket, struct

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff

lies = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
while True:
    packet, sender = lies.recvfrom(2048)
    asked = packet[(packet[0] & 15) * 4:]
    if asked[0] == 8:
        answer = asked[4:8] + b"lies" * 2
        lies.sendto(struct.pack("!BBH", 0, 0, checksum(b"\0\0\0\0" + answer)) + answer, sender)
"#;

/// Has a host answer echo requests with lies. What is returned does it.
pub fn lie(host: &Host) -> Result<Process> {
    host.ns.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
    Process::spawn(host.ns.command("/usr/bin/python3").args(["-c", LIAR]))
}

impl Servers {
    pub fn start(host: &Host) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("mesh-probes-").tempdir()?;
        // Connections to the stopped server are never taken.
        host.ns.sysctl("net/core/somaxconn", "16384")?;
        // Every datagram to a closed port is told of, not one a second.
        host.ns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        let mut servers = Self { running: Vec::new(), directory };
        servers.certificates()?;
        fs::write(servers.path("big"), "x".repeat(100_000))?;
        fs::write(servers.path("test.zone"), "@ 300 SOA ns a 1 3600 600 86400 1\n@ 300 NS ns\nns 300 A 10.9.9.9\nweb 300 A 10.1.2.3\n")?;
        let nginx = servers.configured("nginx.conf", &nginx(&servers.dir(), &web(&servers.dir())))?;
        let stopped = servers.configured("stopped.conf", &nginx_of("stopped", &servers.dir()))?;
        let haproxy = servers.configured("haproxy.cfg", &haproxy(&servers.dir()))?;
        let named = servers.configured("knot.conf", &knot(&servers.dir(), 5300))?;
        let elsewhere = servers.path("stopped");
        fs::create_dir(&elsewhere)?;
        fs::copy(servers.path("test.zone"), elsewhere.join("test.zone"))?;
        let silenced = servers.configured("stopped/knot.conf", &knot(&elsewhere.display().to_string(), 5302))?;
        // Whoever says something on this port gets a reset, once the handshake is over.
        let reset = "table inet resetting { chain in { type filter hook input priority 0; tcp dport 8027 tcp flags & psh == psh reject with tcp reset; }\n}";
        run(host.ns.command("nft").arg(reset))?;
        let commands = [
            ("nginx", vec!["-c".into(), nginx], 8001),
            ("haproxy", vec!["-db".into(), "-f".into(), haproxy], 8020),
            // Debian's own interpreter: it has Debian's modules.
            ("/usr/bin/python3", vec!["-c".into(), GRPC.into(), "0.0.0.0:8040".into()], 8040),
            ("knotd", vec!["-c".into(), named], 5300),
            ("nginx", vec!["-c".into(), stopped], 8010),
            ("knotd", vec!["-c".into(), silenced], 5302),
        ];
        for (program, args, port) in commands {
            let mut command: Command = host.ns.command(program);
            let log = fs::File::options().create(true).append(true).open(servers.path("log"))?;
            servers.running.push(Process::spawn(command.args(args).stdout(log.try_clone()?).stderr(log))?);
            let listens = || std::net::TcpStream::connect(SocketAddr::from((host.v4, port))).is_ok();
            let end = Instant::now() + Duration::from_secs(30);
            while !host.ns.enter(listens)? {
                ensure!(Instant::now() < end, "{program} does not listen on {port}:\n{}", servers.logs());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for stopped in servers.running.iter().rev().take(2) {
            let id = stopped.id().context("it has just answered")?;
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGSTOP)?;
        }
        Ok(servers)
    }

    pub fn dir(&self) -> String {
        self.directory.path().display().to_string()
    }

    pub fn logs(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configured(&self, name: &str, text: &str) -> Result<String> {
        fs::write(self.path(name), text)?;
        Ok(self.path(name).display().to_string())
    }

    /// An authority, a server `lb.test` and a client of it, and an authority that nobody knows.
    fn certificates(&self) -> Result<()> {
        let authority = || -> Result<CertifiedIssuer<'static, KeyPair>> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
        };
        let (ca, stranger) = (authority()?, authority()?);
        fs::write(self.path("ca.pem"), ca.pem())?;
        fs::write(self.path("stranger.pem"), stranger.pem())?;
        for (file, name) in [("server", "lb.test"), ("client", "prober.test")] {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            // One that has its authority's name passes for self-signed.
            params.distinguished_name.push(DnType::CommonName, name);
            let cert = params.signed_by(&key, &ca)?;
            fs::write(self.path(&format!("{file}.pem")), cert.pem())?;
            fs::write(self.path(&format!("{file}.key")), key.serialize_pem())?;
            fs::write(self.path(&format!("{file}.both")), cert.pem() + &key.serialize_pem())?;
        }
        Ok(())
    }
}

fn nginx_of(name: &str, dir: &str) -> String {
    nginx(dir, "server { listen 8010 backlog=16384; location / { return 200; } }")
        .replace(&format!("{dir}/pid"), &format!("{dir}/{name}.pid"))
}

/// In one process, so that it is stopped and ends as a whole.
fn nginx(dir: &str, servers: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n\
         client_body_temp_path {dir}/a;\n  proxy_temp_path {dir}/b;\n  fastcgi_temp_path {dir}/c;\n  uwsgi_temp_path {dir}/d;\n\
         scgi_temp_path {dir}/e;\n{servers}\n}}\n"
    )
}

fn web(dir: &str) -> String {
    format!(
        "server {{ listen 8001 default_server; listen 8027; root {dir};\n  location / {{ return 200 'all is well'; }}\n  location /lie {{ return 200 'all is lost'; }}\n\
         location /broken {{ return 500; }}\n  location /slow {{ limit_rate 100; try_files /big =404; }}\n  location /cut {{ return 444; }}\n\
         location /asked {{ if ($http_x_probe != mesh) {{ return 403; }} return 204; }} }}\n\
         server {{ listen 8001; server_name shop.test; location / {{ return 200 'a shop'; }} }}\n\
         ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;\n\
         server {{ listen 8002 ssl; root {dir}; location / {{ return 200 'in private'; }}\n\
         location /slow {{ limit_rate 100; try_files /big =404; }}\n  location /cut {{ return 444; }} }}\n\
         server {{ listen 8003 ssl; ssl_client_certificate {dir}/ca.pem; ssl_verify_client on; location / {{ return 200 'in private'; }} }}"
    )
}

fn haproxy(dir: &str) -> String {
    format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout tarpit 30s\n\
         frontend web\n  bind :8020\n  default_backend nginx\nbackend nginx\n  server nginx 127.0.0.1:8001\n\
         frontend tls\n  bind :8021 ssl crt {dir}/server.both\n  default_backend nginx\n\
         frontend none\n  bind :8022\n  default_backend none\nbackend none\n\
         frontend rejecting\n  bind :8023\n  tcp-request connection reject\n\
         frontend dropping\n  bind :8024\n  http-request silent-drop\n\
         frontend tarpit\n  bind :8025\n  http-request tarpit\n\
         frontend http2\n  bind :8026 proto h2\n  http-request return status 200 content-type application/grpc string well\n"
    )
}

fn knot(dir: &str, port: u16) -> String {
    format!(
        "server:\n    rundir: {dir}\n    listen: 0.0.0.0@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         database:\n    storage: {dir}\nlog:\n  - target: stderr\n    any: warning\n\
         zone:\n  - domain: test\n    storage: {dir}\n    file: test.zone\n"
    )
}
