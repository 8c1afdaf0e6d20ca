//! Heartbeats that can't be meant: each is refused with its place and a way out.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use mesh_tests::daemon::mesh_binary;

/// The heartbeat, the column of what is wrong with it, and parts of the message and of the remedy.
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("{type: http, port: 0}", "0}", "port 0 can't be probed", "from 1 to 65535"),
    ("{type: http, path: healthz}", "healthz", "no path to check", "starts with `/`"),
    ("{type: http, host: 'a b'}", "'a b'", "no host name", ""),
    ("{type: http, status: '600'}", "'600'", "no set of HTTP statuses", "200-299,404"),
    ("{type: http, headers: {Host: x}}", "{Host", "no header that a check can send", "the key `host`"),
    ("{type: http, send: x}", "x}", "has no `send`", "`type: udp`"),
    ("{type: smtp}", "smtp", "unknown variant `smtp`", ""),
    ("{type: tcp, soruce: 10.0.0.1}", "soruce", "unknown field `soruce`", "expected one of"),
    ("{type: tcp, source: '10.0.0.1:80'}", "'10.0.0.1:80'", "is no address", "without a port"),
    ("{type: tcp, source: 'fd00::1'}", "'fd00::1'", "not of the family", "of the VIP's family"),
    ("{type: tcp, through: vip}", "vip", "`through: vip` can't be had in mode `nat`", "`through: direct`"),
    ("{type: tcp, through: tunnel}", "tunnel", "unknown variant `tunnel`", "expected"),
    ("{any: [{type: tcp, through: direct}]}", "direct", "holds for all checks", "beside `all`"),
    ("{type: tcp, interval: 1ms}", "1ms", "", "10ms"),
    ("{type: tcp, interval: fast}", "fast", "", "1s"),
    ("{type: tcp, rise: 0}", "0}", "", ""),
    ("{type: udp}", "{type", "nothing to send", "send: TEXT"),
    ("{type: udp, send: 'hex:0g'}", "'hex:0g'", "not hexadecimal", "two digits per byte"),
    ("{type: exec}", "{type", "no command", "command: ["),
    ("{type: exec, command: [true]}", "[true", "no absolute path", "whole path"),
    ("{type: tls, ca: nowhere.pem}", "nowhere.pem", "can't read", "may read"),
    ("{type: tls, ca: mesh.yaml}", "mesh.yaml", "authorities can't be used", "in PEM"),
    ("{type: tls, cert: mesh.yaml}", "mesh.yaml", "`cert` has no `key`", "private key"),
    ("{type: tls, verify: false, ca: mesh.yaml}", "mesh.yaml", "nothing is compared", "remove one"),
    ("{type: tls, verify: false, server_name: 'a b'}", "'a b'", "no name of a TLS server", "host name or an address"),
    ("{all: []}", "[]", "nothing to check", "list checks"),
    ("{all: [tcp], any: [tcp]}", "[tcp]}", "side by side", "into the other"),
    ("{all: [tcp, none]}", "none", "`none` is no check", "remove it"),
    ("{all: [{type: tcp, interval: 1s}]}", "1s", "holds for all checks", "beside `all`"),
];

#[test]
fn bad_heartbeats_are_refused_with_place_and_remedy() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("mesh-refused-").tempdir()?;
    let mut wrong = Vec::new();
    for &(health, at, message, remedy) in ROWS {
        let line = format!("  health: {health}");
        let text = format!("interfaces: [eth0]\nservices:\n- name: web\n  vip: 10.0.0.1:80\n{line}\n  backends: [10.0.0.2]\n");
        fs::write(directory.path().join("mesh.yaml"), text)?;
        let output = Command::new(mesh_binary()?).current_dir(directory.path()).args(["check", "mesh.yaml"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let column = line.find(at).map_or(0, |c| c + 1);
        let place = format!("mesh.yaml:5:{column}: ");
        if output.status.success() || !said.contains(&place) || !said.contains(message) || !said.contains(remedy) {
            wrong.push(format!("{health}: expected {place}{message} ... {remedy}; got {}:\n{said}", output.status));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
