//! The node's own DNS servers.

use std::net::{IpAddr, SocketAddr};

use crate::discovery::Failure;

const FILE: &str = "/etc/resolv.conf";

/// Servers of `/etc/resolv.conf`, read anew each time: a laptop's and a pod's change.
pub(super) async fn servers() -> Result<Vec<SocketAddr>, Failure> {
    let text = tokio::fs::read_to_string(FILE).await.map_err(|e| Failure::Unreachable(format!("can't read {FILE}: {e}")))?;
    Ok(parse(&text))
}

/// Lines `nameserver ADDRESS`, see resolv.conf(5).
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let text =
            "# nameserver 10.9.9.9\nsearch a.test\nnameserver 10.0.0.1\n  nameserver\t2001:db8::1  ; b\nnameserver\nnameserver eth0\n";
        assert_eq!(parse(text), ["10.0.0.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    }
}
