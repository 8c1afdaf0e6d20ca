//! Inputs to begin with: the fixtures' packets, the documents' configurations, requests as clients make them.

use std::path::Path;

use mesh_common::abi::ServiceFlags;

use super::Script;
use crate::fixture::{Fixture, Host, Sizes, Tunnel, cases, cases::Setting, random::Event, run_after};

/// The packets of each fixture over a world like its own.
pub fn scripts() -> Vec<Vec<u8>> {
    cases::all().iter().filter_map(script).map(|script| script.bytes()).collect()
}

fn script(fixture: &Fixture) -> Option<Script> {
    let service = fixture.world.services.first()?;
    let Tunnel { gue, .. } = service.members.first()?.tunnel;
    let outer_v6 = service.members.first()?.addr.is_ipv6();
    let same = |s: &Setting| {
        (s.mode, s.v6, s.proto, s.outer_v6, s.gue) == (service.mode, service.vip.is_ipv6(), service.proto, outer_v6, s.gue && gue)
    };
    let setting = Setting::all().iter().position(same)?;
    let has = |flag: u16| service.flags & flag != 0;
    let options = [
        (has(ServiceFlags::LISTS), Script::LISTED),
        (has(ServiceFlags::RATES), Script::LIMITED),
        (service.port == 0, Script::RANGED),
        (fixture.name.contains("slot"), Script::MOVING),
        (has(ServiceFlags::REJECT) || has(ServiceFlags::RESET), Script::TOLD),
        (has(ServiceFlags::STRICT), Script::STRICT),
        (service.members.len() < 2, Script::ALONE),
        (fixture.world.nat.ports.iter().map(ExactSizeIterator::len).sum::<usize>() < 10, Script::NARROW),
    ];
    let options = options.iter().filter(|(set, _)| *set).fold(0, |all, (_, option)| all | option);
    let mut events = Vec::new();
    let mut host = Host::new(Sizes::SMALL);
    // What a fixture expects is judged elsewhere: what counts here is that flows get their ports.
    let _ = run_after(&mut host, fixture, &mut |_, packet, learned| {
        let mut frame = packet.frame.clone();
        if let Some(port) = packet.to_flow.and_then(|flow| learned.get(flow)) {
            frame.set_ports(frame.ports().0, *port);
        }
        let bytes = frame.bytes();
        if bytes.len() < Script::LONGEST {
            events.push(Event::Packet(bytes));
        }
        Ok(())
    });
    events.truncate(8);
    Some(Script { setting: setting as u8, options, events })
}

/// What the documents show, whole and in pieces, and the same words in TOML.
pub fn texts() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let mut texts = vec![read("deploy/mesh.yaml")];
    let readme = read("README.md");
    let blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    texts.extend(blocks.map(|block| {
        let service = "services:\n  - name: web\n    vip: 192.0.2.10:80\n    backends: [10.0.0.1, 10.0.0.2]\n";
        if block.starts_with(' ') { format!("{service}{block}") } else { block.to_owned() }
    }));
    texts.extend(YAML.iter().map(|text| (*text).to_owned()));
    let yaml = texts.into_iter().map(|text| format!("Y{text}"));
    yaml.chain(TOML.iter().map(|text| format!("T{text}"))).map(String::into_bytes).collect()
}

/// One request of each kind, and a few that are refused.
pub fn requests() -> Vec<Vec<u8>> {
    REQUESTS.iter().map(|lines| lines.as_bytes().to_vec()).collect()
}

const YAML: [&str; 5] = [
    "interfaces: [eth0, {name: eth1, hook: tc}]\nservices:\n- {name: a, vip: '[2001:db8::10]:443', health: {type: http, path: /, interval: 2s, status: '200-299,404'}, backends: ['[2001:db8:1::1]:8443', {address: 2001:db8:1::2, weight: 0, name: two, backup: 1}]}\n",
    "services:\n- {name: t, vip: '192.0.2.1', ports: any, mode: tunnel, encap: gue, health: none, backends: [10.0.0.1], protect: {allow: [10.0.0.0/8], deny: [10.1.0.0/16], rate: 100/s, source_rate: 10/s, spoofed: drop}}\n",
    "services:\n- {name: w, vip: '192.0.2.1:80', backends: [{address: 10.0.0.1, zone: a}], weights: {by: latency}, scheduler: maglev, slots: 1024, breaker: {errors: 0.5}, when_empty: reject, locality: {distances: {a: 1}, elsewhere: 10}}\n",
    "nat: {sources: [192.0.2.1], ports: [20000-29999, 61000-65535], timeouts: {half_open: 5s, established: 1h}}\nlimits: {services: 10, slots: 65536, backends: 100, nat_flows: 4096}\nhash_key: 000102030405060708090a0b0c0d0e0f\nlog: {level: debug}\nmetrics: {listen: '127.0.0.1:9470'}\nservices: []\n",
    "services: [{name: h, vip: '192.0.2.1:80', health: {type: all, checks: [{type: tcp}, {type: exec, command: [/bin/true]}]}, heartbeat: {ttl: 1s, register: true}, max_connections: 5}]\n",
];

const TOML: [&str; 2] = [
    "instance = \"edge\"\ninterfaces = [\"eth0\", { name = \"eth1\", hook = \"tc\" }]\n[[services]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nbackends = [\"10.0.0.1:8080\", { address = \"10.0.0.2\", weight = 3 }]\n[services.health]\ntype = \"http\"\npath = \"/healthz\"\n",
    "[nat]\nports = \"20000-29999\"\n[limits]\nservices = 4\n[[services]]\nname = \"d\"\nvip = \"[2001:db8::1]:53\"\nprotocol = \"udp\"\nmode = \"dsr\"\nbackends = []\n",
];

const REQUESTS: [&str; 7] = [
    "s{\"name\":\"new\",\"vip\":\"192.0.2.20:443\",\"mode\":\"nat\",\"health\":{\"type\":\"none\"},\"backends\":[{\"address\":\"10.0.1.1:8443\",\"weight\":2},\"10.0.1.2\"]}\nr\"new\"",
    "s{\"name\":\"t\",\"vip\":\"[2001:db8::1]:80\",\"mode\":\"tunnel\",\"encap\":\"gue\",\"backends\":[\"10.0.1.1\"],\"when_empty\":\"reject\"}",
    "b{\"address\":\"10.0.0.7:8080\",\"weight\":5,\"name\":\"seven\",\"zone\":\"a\",\"backup\":1}\nw{\"weight\":0}\nd{\"deadline\":\"5m\",\"then\":\"cut\"}\nu{}",
    "h{\"ttl\":\"1s\",\"load\":0.5,\"weight\":3,\"name\":\"nine\"}\nh{\"failing\":true}",
    "p{\"change\":\"add\",\"service\":\"web\",\"backend\":{\"address\":\"10.0.0.5\"}}\np{\"change\":\"rm\",\"service\":\"web\",\"backend\":\"10.0.0.1:80\"}\np{\"change\":\"weight\",\"service\":\"web\",\"backend\":\"10.0.0.1:80\",\"weight\":9}",
    "p{\"change\":\"apply\",\"file\":\"a.yaml\",\"text\":\"services: [{name: web, vip: '192.0.2.10:80', backends: [10.0.0.9]}]\"}\np{\"change\":\"drain\",\"service\":\"dns\",\"backend\":\"10.0.0.3:53\"}",
    "e{\"source\":\"10.0.0.1:1\",\"destination\":\"192.0.2.10:80\",\"protocol\":\"tcp\",\"flags\":[\"syn\",\"ack\"]}\nx[2001:db8::1]:80",
];
