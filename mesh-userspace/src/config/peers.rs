//! Other nodes whose votes count, as written -> as meant.

use std::{fmt, net::SocketAddr, path::Path, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{placed::Placed, resolve::Findings, words::Span};
use crate::{config::Service, model::Mode};

/// Other nodes that balance the same services, and tell each other over UDP what they see of backends, and the flows of `dsr`, `dnat` and `tunnel` services
/// whose slots change their owners. For the latter all need the same `hash_key` and `limits.ledger`. Flows of `nat` services live on one node,
/// and so does what a `scheduler` or an `affinity` has chosen.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Address and port that this node is heard at, as it stands in the other nodes' `nodes`: `192.0.2.1:7946`.
    pub listen: Placed<String>,
    /// The other nodes' addresses and ports.
    pub nodes: Vec<Placed<String>>,
    /// File with the secret that all nodes share, 16 to 256 printable characters without blanks.
    pub key_file: Placed<String>,
    /// So many of the nodes that see a backend have to be against it before the network's silence takes it out; all of them if they are fewer. What the
    /// backend itself says (a refusal, a wrong answer) needs no votes. Default 2.
    pub quorum: Option<Placed<u32>>,
    /// From one telling to the next; changes are told at once. Who is not heard for three of them has no vote. Default 100ms.
    pub interval: Option<Placed<Span>>,
    /// Who is not heard for so long is not waited for any more by planned changes of `dsr`, `dnat` and `tunnel` services. A node that starts waits
    /// twice as long for others that it does not hear, and ten times as long for those that it hears, to tell it their slots and flows. Default 2s.
    pub lost: Option<Placed<Span>>,
}

/// Other nodes whose votes count.
#[derive(Clone, PartialEq, Eq)]
pub struct Peers {
    pub listen: SocketAddr,
    /// Not empty, each once, without this node.
    pub nodes: Vec<SocketAddr>,
    pub key: String,
    /// From 1 to the number of all nodes.
    pub quorum: u32,
    pub interval: Duration,
    /// At least three times `interval`.
    pub lost: Duration,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, nodes, quorum, interval, .. } = self;
        write!(f, "Peers {{ {listen}, {nodes:?}, {quorum}, {interval:?} }}")
    }
}

/// `None` only with an error in `findings`. Relative paths are relative to `base`.
pub fn resolve(written: &Written, base: &Path, findings: &mut Findings<'_>) -> Option<Peers> {
    let listen = address(&written.listen, findings);
    let mut nodes = Vec::new();
    for node in &written.nodes {
        let Some(address) = address(node, findings) else { continue };
        if Some(address) == listen {
            findings.error(node, format!("`{node}` is this node itself"), "name the others alone");
        } else if nodes.contains(&address) {
            findings.error(node, format!("`{node}` is listed twice"), "remove one of the two");
        } else if listen.is_some_and(|own| own.is_ipv4() != address.is_ipv4()) {
            findings.error(node, format!("`{node}` is not of the family of `listen`"), "let all nodes hear at addresses of one family");
        } else {
            nodes.push(address);
        }
    }
    if written.nodes.is_empty() {
        findings.error(&written.listen, "there are no other nodes", "name them in `nodes`, or remove `peers`");
    }
    let quorum = quorum(written.quorum.as_ref(), written.nodes.len() as u32 + 1, findings);
    let interval = match &written.interval {
        None => Duration::from_millis(100),
        Some(s) if (Duration::from_millis(10)..=Duration::from_secs(10)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), "write 10ms to 10s");
            Duration::from_millis(100)
        }
    };
    let lost = lost(written.lost.as_ref(), interval, findings);
    let key = key(&written.key_file, base, findings)?;
    Some(Peers { listen: listen?, nodes, key, quorum, interval, lost })
}

/// Tells that other nodes don't learn what a scheduler or an affinity chooses here.
pub fn warn_of_choices(written: &Placed<super::written::Service>, service: &Service, findings: &mut Findings<'_>) {
    if service.mode != Mode::Nat && service.ways.choosing.is_any() {
        findings.warn(
            &written.value.name,
            format!("other nodes don't learn whom service `{}` has chosen for a flow", service.name),
            "leave each flow with one node, or let the hash choose (`scheduler: consistent-hash`, without `affinity`)",
        );
    }
}

fn lost(written: Option<&Placed<Span>>, interval: Duration, findings: &mut Findings<'_>) -> Duration {
    let least = (3 * interval).max(Duration::from_millis(300));
    match written {
        None => least.max(Duration::from_secs(2)),
        Some(s) if (least..=Duration::from_secs(60)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), format!("write {}ms (three intervals) to 60s", least.as_millis()));
            least
        }
    }
}

fn address(written: &Placed<String>, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let address = written.value.parse::<SocketAddr>().map_err(|_| format!("`{written}` is no address and port"));
    let address = findings.ok(written, address, "write 192.0.2.1:7946 or \"[2001:db8::1]:7946\"")?;
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        findings.error(
            written,
            format!("`{written}` is not the address of one node"),
            "write the address and port that the other nodes send to",
        );
        return None;
    }
    Some(address)
}

fn quorum(written: Option<&Placed<u32>>, nodes: u32, findings: &mut Findings<'_>) -> u32 {
    match written {
        None => 2,
        Some(k) if (1..=nodes).contains(&k.value) => k.value,
        Some(k) => {
            findings.error(
                k,
                format!("{k} votes can't be had of {nodes} nodes"),
                format!("write 1 to {nodes}: this node's own vote counts"),
            );
            2
        }
    }
}

fn key(written: &Placed<String>, base: &Path, findings: &mut Findings<'_>) -> Option<String> {
    let path = base.join(&written.value);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("can't read {}: {e}", path.display()));
    let key = findings.ok(written, text, "name a file that the daemon may read")?.trim().to_owned();
    if !(16..=256).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "write 16 or more letters and digits, such as those of `openssl rand -hex 32`, the same on every node";
        findings.error(written, format!("{} holds no key", path.display()), help);
        return None;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use crate::config;

    fn refused(peers: &str, message: &str, help: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
        std::fs::write(dir.path().join("short"), "0123\n").unwrap();
        let file = dir.path().join("mesh.yaml");
        std::fs::write(&file, format!("interfaces: [eth0]\npeers: {peers}\n")).unwrap();
        let error = config::load(&file).map(|l| l.config.peers).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(help) && error.contains(":2:"), "{peers}: {error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (peers, message, help) in [
            (
                "{listen: '0.0.0.0:7946', nodes: ['10.0.0.2:7946'], key_file: key}",
                "not the address of one node",
                "that the other nodes send to",
            ),
            ("{listen: '10.0.0.1', nodes: ['10.0.0.2:7946'], key_file: key}", "no address and port", "write 192.0.2.1:7946"),
            ("{listen: '10.0.0.1:1', nodes: [], key_file: key}", "no other nodes", "remove `peers`"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.1:1'], key_file: key}", "this node itself", "the others alone"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1', '10.0.0.2:1'], key_file: key}", "listed twice", "remove one"),
            ("{listen: '10.0.0.1:1', nodes: ['[fd00::1]:1'], key_file: key}", "family", "one family"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: nowhere}", "can't read", "may read"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: short}", "holds no key", "openssl rand"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key, quorum: 3}", "3 votes can't be had of 2 nodes", "1 to 2"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key, interval: 1ms}", "out of range", "10ms to 10s"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key, interval: 1s, lost: 2s}", "2s is out of range", "3000ms"),
            ("{listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key, qourum: 1}", "unknown field `qourum`", "quorum"),
        ] {
            refused(peers, message, help);
        }
    }

    #[test]
    fn what_is_chosen_here_is_told_to_be_known_here_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
        let warned = |peers: &str, service: &str| {
            let file = dir.path().join("mesh.yaml");
            let service = format!("{{name: a, vip: '192.0.2.1:80', backends: [10.0.0.1], {service}}}");
            std::fs::write(&file, format!("interfaces: [eth0]\n{peers}\nservices: [{service}]\n")).unwrap();
            let warnings = config::load(&file).unwrap().warnings;
            warnings.iter().any(|w| w.to_string().contains("whom service `a` has chosen"))
        };
        let peers = "hash_key: 000102030405060708090a0b0c0d0e0f\npeers: {listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key}";
        assert!(warned(peers, "mode: dsr, scheduler: least-connections"));
        assert!(warned(peers, "mode: tunnel, affinity: {timeout: 1m}"));
        assert!(!warned(peers, "mode: nat, scheduler: least-connections"));
        assert!(!warned(peers, "mode: dsr"));
        assert!(!warned("", "mode: dsr, scheduler: least-connections"));
    }

    #[test]
    fn defaults_and_a_key_that_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "0123456789abcdef\n").unwrap();
        let file = dir.path().join("mesh.yaml");
        std::fs::write(&file, "interfaces: [eth0]\npeers: {listen: '10.0.0.1:1', nodes: ['10.0.0.2:1'], key_file: key}\n").unwrap();
        let peers = config::load(&file).unwrap().config.peers.unwrap();
        let spans = (peers.interval.as_millis(), peers.lost.as_millis());
        assert_eq!((peers.quorum, spans, peers.key.as_str()), (2, (100, 2000), "0123456789abcdef"));
        assert!(!format!("{peers:?}").contains("0123"));
    }
}
