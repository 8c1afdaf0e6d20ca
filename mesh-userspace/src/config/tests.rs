use std::time::Duration;

use super::*;
use crate::{
    health::CheckKind,
    model::{Mode, Proto},
};

const FIVE_LINES: &str = "\
interfaces: [eth0]
services:
  - name: web
    vip: 192.0.2.10:80
    backends: [10.0.0.1:8080, 10.0.0.2:8080]
";

const EVERYTHING_YAML: &str = r#"
instance: edge
interfaces:
  - eth0
  - {name: eth1, hook: tc}
services:
  - name: web
    vip: "[2001:db8::10]:443"
    mode: nat
    announce: {address: eth0}
    health: {type: http, port: 8080, interval: 2s, timeout: 250ms, rise: 1, fall: 5, path: /healthz, host: example.org, status: "200-299,404"}
    backends:
      - "[2001:db8:1::1]:8443"
      - {address: "2001:db8:1::2", port: 8443, weight: 0, name: two}
      - address: 2001:db8:1::3
    backends_file: web.yaml
  - name: dns
    vip: 192.0.2.10
    port: 53
    protocol: udp
    mode: dsr
    announce: address
    interface: eth1
    health: none
    backends: [10.0.0.1]
nat: {sources: [192.0.2.1, "2001:db8::1"], ports: 20000-29999, timeouts: {half_open: 5s, established: 1h, closing: 1m, closed: 1s, udp: 30s}}
limits: {services: 10, slots: 65536, backends: 100, nat_flows: 4096}
hash_key: 000102030405060708090a0b0c0d0e0f
bpffs: /bpf
state_dir: /state
api: {socket: /run/edge.sock, group: adm}
metrics: {listen: "127.0.0.1:9470"}
log: {level: debug, kernel: "off"}
"#;

const EVERYTHING_TOML: &str = r#"
instance = "edge"
interfaces = ["eth0", { name = "eth1", hook = "tc" }]
hash_key = "000102030405060708090a0b0c0d0e0f"
bpffs = "/bpf"
state_dir = "/state"

[[services]]
name = "web"
vip = "[2001:db8::10]:443"
mode = "nat"
announce = { address = "eth0" }
backends = ["[2001:db8:1::1]:8443", { address = "2001:db8:1::2", port = 8443, weight = 0, name = "two" }, { address = "2001:db8:1::3" }]
backends_file = "web.yaml"
[services.health]
type = "http"
port = 8080
interval = "2s"
timeout = "250ms"
rise = 1
fall = 5
path = "/healthz"
host = "example.org"
status = "200-299,404"

[[services]]
name = "dns"
vip = "192.0.2.10"
port = 53
protocol = "udp"
mode = "dsr"
announce = "address"
interface = "eth1"
health = "none"
backends = ["10.0.0.1"]

[nat]
sources = ["192.0.2.1", "2001:db8::1"]
ports = "20000-29999"
timeouts = { half_open = "5s", established = "1h", closing = "1m", closed = "1s", udp = "30s" }

[limits]
services = 10
slots = 65536
backends = 100
nat_flows = 4096

[api]
socket = "/run/edge.sock"
group = "adm"

[metrics]
listen = "127.0.0.1:9470"

[log]
level = "debug"
kernel = "off"
"#;

fn yaml(text: &str) -> Result<Loaded, ConfigError> {
    parse(text, Syntax::Yaml, Path::new("/etc/mesh/lb.yaml"))
}

#[test]
fn five_lines_will_do() {
    let Loaded { config, warnings } = yaml(FIVE_LINES).unwrap();
    assert!(warnings.is_empty());
    let web = config.services.values().next().unwrap();
    assert_eq!(web.vip.to_string(), "192.0.2.10:80/tcp");
    assert_eq!(web.backends.len(), 2);
    assert_eq!(web.check, Some(Check::default()));
    assert_eq!((web.mode, &web.announce), (Mode::Nat, &None));
    assert_eq!(config.api.socket, Path::new("/run/mesh/default.sock"));
    assert_eq!((config.nat, config.limits, config.log), (Nat::default(), Limits::default(), Log::default()));
}

#[test]
fn yaml_and_toml_say_the_same() {
    let from_yaml = yaml(EVERYTHING_YAML).unwrap_or_else(|e| panic!("{e}"));
    let from_toml = parse(EVERYTHING_TOML, Syntax::Toml, Path::new("/etc/mesh/lb.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(from_yaml.config, from_toml.config);
    assert!(from_yaml.warnings.is_empty() && from_toml.warnings.is_empty());
}

#[test]
fn every_key_is_heard() {
    let config = yaml(EVERYTHING_YAML).unwrap().config;
    assert_eq!(config.instance.as_str(), "edge");
    assert_eq!(config.interfaces[1], Interface { name: "eth1".into(), hook: Hook::Tc });
    assert_eq!(config.hash_key, Some([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]));
    assert_eq!(config.nat.ports, [20000..=29999]);
    assert_eq!(config.nat.timeouts.closed, Duration::from_secs(1));
    assert_eq!(
        config.limits,
        Limits { services: 10, slots: 65_536, backends: 100, nat_flows: 4096, ledger: 1 << 16, flows: 1 << 16, checks: None }
    );
    assert_eq!(config.log, Log { level: log::LevelFilter::Debug, kernel: log::LevelFilter::Off, format: Default::default() });

    let web = &config.services[&"web".parse().unwrap()];
    assert_eq!(web.announce.as_deref(), Some("eth0"));
    assert_eq!(web.backends_file.as_deref(), Some(Path::new("/etc/mesh/web.yaml")));
    let backends: Vec<_> = web.backends.iter().map(|b| format!("{} {} {:?}", b.id, b.weight.0, b.name)).collect();
    let expected = ["[2001:db8:1::1]:8443 1 None", "[2001:db8:1::2]:8443 0 Some(\"two\")", "[2001:db8:1::3]:443 1 None"];
    assert_eq!(backends, expected);
    let check = web.check.as_ref().unwrap();
    assert_eq!((check.port, check.rise, check.fall, check.timeout), (Some(8080), 1, 5, Duration::from_millis(250)));
    let CheckKind::Http(http) = &check.kind else { panic!("{check:?}") };
    assert_eq!((http.path().path(), http.expect().to_string().as_str()), ("/healthz", "200-299,404"));

    let dns = &config.services[&"dns".parse().unwrap()];
    assert_eq!((dns.vip.proto, dns.mode, dns.announce.as_deref()), (Proto::Udp, Mode::Dsr, Some("eth1")));
    assert_eq!(dns.check, None);
}

/// A service with one more line, in YAML: the line is the sixth.
fn with(line: &str) -> String {
    format!("services:\n  - name: web\n    vip: 192.0.2.10:80\n    backends:\n      - 10.0.0.1:80\n{line}\n")
}

/// Text, then the beginning of the error (after the name of the file) and a part of its help.
#[test]
fn errors_name_place_and_remedy() {
    #[rustfmt::skip]
    let rows: Vec<(String, &str, &str)> = vec![
        // syntax and shape
        ("a: [".into(), "1:", ""),
        ("wat: 1\n".into(), "1:1: unknown field `wat`", ""),
        ("services: 3\n".into(), "1:11: ", ""),
        (with("    modus: nat"), "6:5: unknown field `modus`", ""),
        (with("    mode: warp"), "6:11: ", ""),
        (with("    when_empty: explode"), "6:17: ", ""),
        (with("    encap: gue"), "6:12: `encap` means nothing in mode `nat`", ""),
        (with("    mode: tunnel\n    encap: vxlan"), "7:12: ", ""),
        (with("    ports: 8000-8100"), "6:12: the service has port 80 already", "one of `port` and `ports`"),
        (
            concat!(
                "services: [{name: a, vip: '192.0.2.10', ports: 8000-8100, mode: dnat, health: icmp, backends: [10.0.0.1]}, ",
                "{name: b, vip: '192.0.2.11:80', mode: dnat, backends: ['10.0.0.1:8100']}]\n"
            )
            .into(),
            "1:115: backend 10.0.0.1:8100 stands behind `a` and `b`",
            "ports of its own",
        ),
        (
            "services: [{name: a, vip: '192.0.2.10', ports: 9-8, mode: dsr, health: none}]\n".into(),
            "1:48: `9-8` is no range of ports",
            "8000-8100",
        ),
        ("services: [{name: a, vip: '192.0.2.10', ports: any, mode: dsr}]\n".into(), "1:48: a service of several ports", "health"),
        (
            "services: [{name: a, vip: '192.0.2.10', ports: any, mode: dsr, health: icmp, backends: ['10.0.0.1:80']}]\n".into(),
            "1:89: backend 10.0.0.1 can't have port 80",
            "write no port",
        ),
        (with("    protect: {source_rate: 5/d}"), "6:28: `5/d` is no rate", "50/s"),
        (with("    protect: {deny: [10.0.0.1/8]}"), "6:22: `10.0.0.1/8` has more bits", "10.0.0.0/8"),
        (with("    protect: {deny: ['fd00::/8']}"), "6:22: `fd00::/8` is not of the VIP's family", "of the VIP's family"),
        (with("    protect: {allow: [10.0.0.0/8], deny: [10.0.0.0/8]}"), "6:43: `10.0.0.0/8` is in `allow` and in `deny`", "one of them"),
        (with("    reply_via: 10.0.0.254"), "6:16: `reply_via` means nothing in mode `nat`", ""),
        (with("    mode: dnat\n    reply_via: 'fd00::1'"), "7:16: fd00::1 is not of the VIP's family", ""),
        (
            with("    mode: dnat\n  - {name: b, vip: '192.0.2.11:80', mode: dnat, backends: ['10.0.0.1:80']}"),
            "7:12: backend 10.0.0.1:80 stands behind `web` and `b`",
            "use `nat`",
        ),
        (with("    mode: tunnel\n    outer_source: here"), "7:19: `here` is no address", ""),
        (with("    mode: tunnel").replace("10.0.0.1:80", "10.0.0.1:81"), "5:9: backend port 81 differs", "`tunnel` does not change packets"),
        ("services:\n  - vip: 192.0.2.10:80\n".into(), "2:5: missing field `name`", ""),
        // services
        (with("  - {name: two, vip: 192.0.2.10, port: 80, backends: [10.0.0.1]}"), "6:22: service `two` has the same VIP 192.0.2.10:80/tcp as service `web`", "belongs to one service"),
        (with("  - {name: web, vip: 192.0.2.11:80, backends: [10.0.0.1]}"), "6:12: there are two services `web`", "its own name"),
        ("services:\n  - {name: a b, vip: 192.0.2.10:80}\n".into(), "2:12: `a b` is no service name", ""),
        ("services:\n  - {name: a, vip: localhost:80}\n".into(), "2:20: `localhost:80` is no address", "names are not looked up"),
        ("services:\n  - {name: a, vip: 192.0.2.10}\n".into(), "2:20: `192.0.2.10` has no port", "write 192.0.2.10:80"),
        ("services:\n  - {name: a, vip: 192.0.2.10:0}\n".into(), "2:20: port 0", ""),
        ("services:\n  - {name: a, vip: '192.0.2.10:80', port: 81}\n".into(), "2:43: the port is given twice", ""),
        ("services:\n  - {name: a, vip: 127.0.0.1:80}\n".into(), "2:20: 127.0.0.1 is a loopback address", ""),
        ("services:\n  - {name: a, vip: 224.0.0.1:80}\n".into(), "2:20: 224.0.0.1 is a multicast address", ""),
        ("services:\n  - {name: a, vip: 192.0.2.10:53, protocol: udp, backends: [10.0.0.1]}\n".into(), "2:12: a UDP service has no default heartbeat", "`health: none`"),
        (with("    announce: bgp"), "6:15: `bgp` is no way to announce a VIP", ""),
        (with("    announce: address"), "6:15: `announce: address` does not say where", "INTERFACE"),
        (with("    interface: eth0"), "6:16: `interface` means something only with", ""),
        // backends
        (with("      - 10.0.0.1"), "6:9: backend 10.0.0.1:80 is listed twice", "weight"),
        (with("      - '[2001:db8::1]:80'"), "6:9: backend 2001:db8::1 is not of the VIP's family", "same family"),
        (with("      - {address: 10.0.0.2, weight: 70000}"), "6:37: weight 70000 is out of range", "0 to 65535"),
        (with("      - {address: 10.0.0.2, weight: -1}"), "6:37: weight -1 is out of range", "0 to 65535"),
        (with("      - {address: 192.0.2.10, port: 81}"), "6:19: backend 192.0.2.10 is the VIP itself", ""),
        (with("      - 10.0.0.2:8080\n    mode: dsr"), "6:9: backend port 8080 differs from the VIP's port 80", "both ports must be the same"),
        (with("      - example.org:80"), "6:9: `example.org:80` is no address", ""),
        (with("      - 3"), "6:9: ", ""),
        // health
        (with("    health: ping"), "6:13: unknown variant `ping`", ""),
        (with("    health: {type: http, path: healthz}"), "6:32: `healthz` is no path", ""),
        (with("    health: {type: http, status: 99}"), "6:34: ", ""),
        (with("    health: {type: tcp, path: /}"), "6:31: a `tcp` heartbeat has no `path`", "type: http"),
        (with("    health: {type: icmp, send: x}"), "6:32: a `icmp` heartbeat has no `send`", "type: udp"),
        (with("    health: udp"), "6:13: a `udp` heartbeat has nothing to send", "send: TEXT"),
        (with("    health: {type: udp, send: 'hex:0'}"), "6:31: `0` is not hexadecimal", "two digits per byte"),
        (with("    health: exec"), "6:13: an `exec` heartbeat has no command", "command: ["),
        (with("    health: {type: exec, command: [true]}"), "6:", ""),
        (with("    health: {type: exec, command: ['check', '-v']}"), "6:35: `check` is no absolute path", "whole path"),
        (with("    health: {type: http, headers: {Host: x}}"), "6:35: `Host` is no header", "the key `host`"),
        (with("    health: {type: https, ca: /nowhere.pem}"), "6:31: can't read /nowhere.pem", "may read"),
        (with("    health: {type: tls, verify: false, ca: /dev/null}"), "6:44: nothing is compared with `ca`", "remove one"),
        (with("    health: {type: tls, ca: /dev/null}"), "6:29: the authorities can't be used: it holds no certificate", "in PEM"),
        (with("    health: {type: tls, verify: false, cert: /dev/null}"), "6:46: `cert` has no `key`", "private key"),
        (with("    health: {type: tls, verify: false, server_name: a b}"), "6:53: `a b` is no name of a TLS server", "host name"),
        (with("    health: {all: []}"), "6:19: there is nothing to check", ""),
        (with("    health: {type: tcp, all: [tcp]}"), "6:20: `type` can't stand beside `all`", "into the list"),
        (with("    health: {all: [tcp], any: [icmp]}"), "6:31: `all` and `any` can't stand side by side", ""),
        (with("    health: {all: [tcp], path: /}"), "6:32: `path` belongs to one of the checks", ""),
        (with("    health: {all: [{type: tcp, interval: 1s}]}"), "6:42: `interval` holds for all checks together", "beside"),
        (with("    health: {any: [none, tcp]}"), "6:20: `none` is no check", ""),
        (with("    health: {all: [{any: [{all: [{any: [tcp]}]}]}]}"), "6:40: checks are nested too deeply", "3 deep"),
        (with("    health: {source: x}"), "6:22: `x` is no address", ""),
        (with("    health: {source: '::1'}"), "6:22: ::1 is not of the family", ""),
        (with("    health: {interval: 1}"), "6:24: ", ""),
        (with("    health: {interval: 1 parsec}"), "6:24: `1 parsec` is no duration", ""),
        (with("    health: {interval: 1ms}"), "6:24: 1ms is out of range", "10ms to 1h"),
        (with("    health: {rise: 0}"), "6:20: 0 is out of range", "1 to 1000"),
        (with("    health: {jitter: 60}"), "6:22: 60 is out of range", "0 to 50"),
        // the rest
        ("instance: a/b\n".into(), "1:11: `a/b` is no name of an instance", ""),
        ("interfaces: [eth0, eth0]\n".into(), "1:20: interface `eth0` is listed twice", ""),
        ("interfaces: [an-interface-name-of-more]\n".into(), "1:14: `an-interface-name-of-more` can't be the name", "ip -brief link"),
        ("interfaces: [{name: eth0, hook: ebpf}]\n".into(), "1:33: unknown variant `ebpf`", ""),
        ("nat: {sources: [x]}\n".into(), "1:17: `x` is no address", ""),
        ("nat: {ports: 80-90}\n".into(), "1:14: `80-90` has ports below 1024", ""),
        ("nat: {ports: 9000-8000}\n".into(), "1:14: `9000-8000` ends before it begins", "FIRST-LAST"),
        ("nat: {timeouts: {udp: 10ms}}\n".into(), "1:23: 10ms is out of range", "1s to 30d"),
        ("limits: {slots: 1000}\n".into(), "1:17: 1000 can't be this limit", "a number from 1024"),
        ("limits: {ledger: 1000}\n".into(), "1:18: 1000 can't be this limit", "a power of two"),
        ("hash_key: abcdef\n".into(), "1:11: the hash key is not 32 hexadecimal digits", "openssl"),
        ("metrics: {listen: ':9470'}\n".into(), "1:19: `:9470` is no address to listen on", "127.0.0.1:9470"),
        ("log: {level: loud}\n".into(), "1:14: `loud` is no log level", "trace"),
    ];
    for (text, expected, help) in rows {
        let error = yaml(&text).map(|_| ()).expect_err(&text).to_string();
        let rest = error.strip_prefix("/etc/mesh/lb.yaml:").unwrap_or_else(|| panic!("{text}\n{error}"));
        assert!(rest.starts_with(expected), "{text}\n{error}\nshould begin with {expected}");
        assert!(help.is_empty() || error.contains("help: ") && error.contains(help), "{text}\n{error}\nshould help with {help}");
    }
}

#[test]
fn toml_errors_have_places_too() {
    for (text, expected) in [
        ("wat = 1\n", "x.toml:1:1: unknown field `wat`"),
        ("services = [\n", "x.toml:"),
        ("[[services]]\nname = \"a\"\nvip = \"192.0.2.10\"\n", "x.toml:3:7: `192.0.2.10` has no port"),
        (
            "[[services]]\nname = \"a\"\nvip = \"192.0.2.1:80\"\nbackends = [\"10.0.0.1\", \"10.0.0.1\"]\n",
            "x.toml:4:25: backend 10.0.0.1:80 is listed twice",
        ),
        ("[[services]]\nname = \"a\"\nvip = \"192.0.2.1:80\"\n[services.health]\nrise = -1\n", "x.toml:5:8: "),
    ] {
        let error = parse(text, Syntax::Toml, Path::new("x.toml")).map(|_| ()).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let text = "services:\n  - {name: a b, vip: x}\n  - {name: c, vip: y}\nlog: {level: loud}\n";
    let Err(ConfigError::Invalid(errors)) = yaml(text) else { panic!() };
    assert_eq!(errors.len(), 4);
}

#[test]
fn every_kind_of_heartbeat() {
    for (written, expected) in [
        ("icmp", "icmp"),
        ("{type: tls, verify: false}", "tls"),
        ("{type: https, verify: false, path: /x, server_name: example.org, headers: {X-A: b}, body: ok}", "https /x"),
        ("grpc", "grpc"),
        ("{type: grpc, service: shop.Cart}", "grpc shop.Cart"),
        ("{type: udp, send: 'hex:00FF', expect: pong}", "udp"),
        ("{type: exec, command: [/bin/true, -x]}", "exec /bin/true"),
        ("{all: [tcp, {any: [icmp, {type: http, port: 81}]}], interval: 2s}", "(tcp and (icmp or http / port 81))"),
    ] {
        let config = yaml(&with(&format!("    health: {written}"))).unwrap_or_else(|e| panic!("{written}\n{e}")).config;
        let check = config.services.values().next().unwrap().check.clone().unwrap();
        assert_eq!(check.kind.to_string(), expected);
    }
    let config = yaml(&with("    health: {type: udp, send: 'hex:00fF', expect: pong, source: 10.0.0.9}")).unwrap().config;
    let check = config.services.values().next().unwrap().check.clone().unwrap();
    assert_eq!(check.source, Some([10, 0, 0, 9].into()));
    let CheckKind::Udp(udp) = check.kind else { panic!() };
    assert_eq!((udp.send, udp.expect), (vec![0, 255], b"pong".to_vec()));
}

#[test]
fn oddities_are_warned_of() {
    let warnings = yaml(&with("    health: {interval: 1s, timeout: 3s}")).unwrap().warnings;
    assert!(warnings[0].to_string().starts_with("/etc/mesh/lb.yaml:6:37: timeout 3s is longer than the interval 1s"), "{}", warnings[0]);
    let warnings = yaml("services: [{name: a, vip: '192.0.2.1:80'}]\n").unwrap().warnings;
    assert!(warnings[0].to_string().contains("has no backends"));
}

#[test]
fn files_without_a_syntax_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.conf");
    std::fs::write(&path, FIVE_LINES).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("call it *.yaml"));
    assert!(load(&dir.path().join("none.yaml")).unwrap_err().to_string().contains("can't read"));
}

#[test]
fn any_text_is_an_error_or_a_configuration() {
    // Every prefix of a good text, in both syntaxes: no panic, and a place in each error.
    for (text, syntax) in [(EVERYTHING_YAML, Syntax::Yaml), (EVERYTHING_TOML, Syntax::Toml)] {
        for end in (0..text.len()).filter(|i| text.is_char_boundary(*i)) {
            if let Err(e) = parse(&text[..end], syntax, Path::new("p")) {
                assert!(e.to_string().starts_with("p:"), "{e}");
            }
        }
    }
}
