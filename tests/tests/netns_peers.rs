//! Two nodes that balance the same backends, and count each other's votes before the network's silence takes one out.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    netns::run,
    stage::Stage,
    world::{BACKENDS, World},
};
use serde_json::Value;

const NODES: [&str; 2] = ["10.77.0.2:7946", "10.77.0.3:7946"];
/// Far longer than a silent backend is found by one node.
const WATCHED: Duration = Duration::from_secs(3);

/// The world as its first node sees it, and the second one's daemon.
struct Pair {
    peer: Daemon,
    world: World,
    _keys: tempfile::TempDir,
}

impl Pair {
    fn new(group: &str, keys: [&str; 2]) -> Result<Self> {
        let [b1, b2, b3] = BACKENDS;
        let mut stage = Stage::build(group, &[b1, b2, b3, ("peer", 3)])?;
        BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
        let folder = tempfile::tempdir()?;
        let config = |n: usize, more: &str| -> Result<String> {
            let file = folder.path().join(n.to_string());
            fs::write(&file, keys[n])?;
            let peers = format!(
                "peers: {{listen: '{}', nodes: ['{}'], key_file: '{}', interval: 500ms}}\n",
                NODES[n],
                NODES[1 - n],
                file.display()
            );
            let names = BACKENDS.map(|(name, _)| name);
            let service = mesh_tests::world::config(&stage, &names, &format!("mode: nat, health: http{more}"))?;
            Ok(peers + &service)
        };
        let (first, second) = (config(0, "")?, config(1, "")?.replace("announce: {address: eth0}, ", ""));
        let peer = Daemon::start(&stage.backends["peer"].ns, &second)?;
        let daemon = Daemon::start(&stage.balancer.ns, &first)?;
        let pair = Self { peer, world: World { daemon, stage, vip: "10.77.0.100:8080".parse()? }, _keys: folder };
        for daemon in [&pair.world.daemon, &pair.peer] {
            daemon.until("pulses are answered", || {
                let backends = daemon.json(&["backend", "ls", "web"])?;
                Ok(backends.as_array().context("no list")?.iter().all(|b| b["health"]["suspicion"]["pulse_rtt_us"].is_u64()))
            })?;
        }
        Ok(pair)
    }

    /// What the first node sends to b1 is lost; what others send is not.
    fn cut_first_from_b1(&self) -> Result<()> {
        let rules = "table netdev lost { chain in { type filter hook ingress device eth0 priority 0; ip saddr 10.77.0.2 drop; }\n}";
        run(self.world.stage.backends["b1"].ns.command("nft").arg(rules))
    }
}

fn peers(daemon: &Daemon) -> Result<Value> {
    Ok(daemon.json(&["status"])?["peers"].clone())
}

fn fresh(daemon: &Daemon) -> Result<bool> {
    Ok(peers(daemon)?["nodes"][0]["fresh"] == true)
}

#[test]
fn silence_that_one_node_alone_hears_takes_nobody_out() -> Result<()> {
    let pair = Pair::new("mesh-peers", ["0123456789abcdef", "0123456789abcdef"])?;
    let Pair { peer, world, .. } = &pair;
    world.until("each hears the other", |w| Ok(fresh(&w.daemon)? && fresh(peer)?))?;
    pair.cut_first_from_b1()?;
    world.until("b1 is suspected", |w| Ok(!w.became("b1", "soft")?.is_empty()))?;
    peer.until("the peer hears of it", || Ok(peers(peer)?["nodes"][0]["doubts"] == 1))?;
    std::thread::sleep(WATCHED);
    ensure!(world.became("b1", "down")?.is_empty(), "the other node sees it well: {:?}", world.events("backend_state")?);
    ensure!(!world.ask(60)?.contains_key("b1"), "but it is spared new flows");
    let shown = world.daemon.ok(&["status"])?;
    ensure!(shown.contains("10.77.0.3:7946, heard"), "{shown}");
    // Now nobody reaches it.
    world.stage.backends["b1"].unplug()?;
    world.until("b1 is down", |w| Ok(!w.became("b1", "down")?.is_empty()))?;
    let event = &world.became("b1", "down")?[0];
    ensure!(event["evidence"].as_str().is_some_and(|e| e.contains("votes: 2 of 2 nodes against it, 2 needed")), "{event}");
    ensure!(event["values"]["votes_against"] == 2.0 && event["values"]["votes_of"] == 2.0, "{event}");
    Ok(())
}

#[test]
fn who_has_another_key_has_no_vote_and_what_a_backend_says_needs_none() -> Result<()> {
    let mut pair = Pair::new("mesh-peers-key", ["0123456789abcdef", "fedcba9876543210"])?;
    pair.world.until("what the other says is refused", |w| Ok(peers(&w.daemon)?["forged"].as_u64() > Some(0)))?;
    ensure!(!fresh(&pair.world.daemon)? && !fresh(&pair.peer)?, "nobody knows the other");
    pair.cut_first_from_b1()?;
    pair.world.until("b1 is down", |w| Ok(!w.became("b1", "down")?.is_empty()))?;
    let event = &pair.world.became("b1", "down")?[0];
    ensure!(event["values"]["votes_of"] == 1.0, "it decided alone: {event}");
    pair.world.stage.kill("b2")?;
    pair.world.until("b2 is down", |w| Ok(!w.became("b2", "down")?.is_empty()))
}
