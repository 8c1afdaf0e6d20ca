//! The watch of next hops and the announcing of VIPs, against the kernel's own tables in namespaces of the test.

#[path = "netns_nexthop/pair.rs"]
mod pair;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh::dataplane::net::{
    Announced, Announcer, Interfaces, NetError, NextHop, NextHops, Reason, Resolution,
    nexthop::{Resolutions, release_all},
};
use pair::{LB_MAC, PEER_MAC, Pair};

/// Longer than anything here takes on a busy machine, shorter than the periodic resync: what comes in time came by events.
const DEADLINE: Duration = Duration::from_secs(25);

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn targets(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|t| addr(t)).collect()
}

/// Waits until `target` has a resolution that `is` accepts.
async fn until(hops: &NextHops, target: &str, is: impl Fn(&Resolution) -> bool) -> Resolution {
    let target = addr(target);
    let mut watch = hops.watch();
    let fits = |all: &Resolutions| all.get(&target).is_some_and(&is);
    let found = tokio::time::timeout(DEADLINE, watch.wait_for(fits)).await.map(|r| r.expect("the service runs").get(&target).cloned());
    match found {
        Ok(Some(resolution)) => resolution,
        _ => panic!("{target} is {:?} after {DEADLINE:?}", hops.watch().borrow().get(&target)),
    }
}

async fn until_ready(hops: &NextHops, target: &str) -> NextHop {
    match until(hops, target, |r| matches!(r, Resolution::Ready(_))).await {
        Resolution::Ready(hop) => hop,
        Resolution::NotReady(_) => unreachable!("waited for ready"),
    }
}

async fn until_reason(hops: &NextHops, target: &str, is: impl Fn(&Reason) -> bool) {
    until(hops, target, |r| matches!(r, Resolution::NotReady(reason) if is(reason))).await;
}

/// Polls a condition that the service doesn't publish.
async fn eventually(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn on_link_targets_of_both_families_become_ready_and_are_kept_alive() {
    let pair = Pair::new();
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2", "fd09::2"]));
        for (target, source) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
            let hop = until_ready(&hops, target).await;
            assert_eq!((hop.ifname.as_str(), hop.src_mac, hop.dst_mac), ("lb0", LB_MAC, PEER_MAC));
            assert_eq!((hop.source, hop.gateway), (addr(source), None));
            eventually("the neighbour is managed and ours", || {
                let shown = pair.lb_ip(&["-d", "neigh", "show", target]);
                shown.contains("managed") && shown.contains("proto 109")
            })
            .await;
        }
    });
}

#[test]
fn gateways_may_be_of_either_family_and_link_local() {
    let pair = Pair::new();
    pair.lb_ip(&["route", "add", "10.50.0.0/16", "via", "10.9.0.2"]);
    pair.lb_ip(&["route", "add", "fd50::/64", "via", "fe80::2", "dev", "lb0"]);
    pair.lb_ip(&["route", "add", "10.60.0.0/16", "via", "inet6", "fd09::2"]);
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.50.1.1", "fd50::1", "10.60.1.1"]));
        for (target, gateway) in [("10.50.1.1", "10.9.0.2"), ("fd50::1", "fe80::2"), ("10.60.1.1", "fd09::2")] {
            let hop = until_ready(&hops, target).await;
            assert_eq!((hop.dst_mac, hop.gateway), (PEER_MAC, Some(addr(gateway))));
            assert_eq!(hop.source.is_ipv4(), addr(target).is_ipv4());
        }
    });
}

#[test]
fn a_silent_neighbour_fails_and_is_found_when_it_appears() {
    let pair = Pair::new();
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.77", "fd09::77"]));
        for target in ["10.9.0.77", "fd09::77"] {
            until_reason(&hops, target, |r| matches!(r, Reason::NeighbourFailed { .. })).await;
        }
        pair.peer_ip(&["addr", "add", "10.9.0.77/24", "dev", "peer0"]);
        pair.peer_ip(&["addr", "add", "fd09::77/64", "dev", "peer0", "nodad"]);
        for target in ["10.9.0.77", "fd09::77"] {
            assert_eq!(until_ready(&hops, target).await.dst_mac, PEER_MAC);
        }
    });
}

#[test]
fn a_changed_mac_is_noticed_without_any_traffic() {
    let pair = Pair::new();
    pair.lb_sysctls(&[
        ("base_reachable_time_ms", 1000),
        ("delay_first_probe_time", 1),
        ("retrans_time_ms", 100),
        ("interval_probe_time_ms", 1000),
    ]);
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2", "fd09::2"]));
        for target in ["10.9.0.2", "fd09::2"] {
            assert_eq!(until_ready(&hops, target).await.dst_mac, PEER_MAC);
        }
        pair.peer_ip(&["link", "set", "peer0", "address", "02:00:00:00:00:99"]);
        for target in ["10.9.0.2", "fd09::2"] {
            until(&hops, target, |r| matches!(r, Resolution::Ready(hop) if hop.dst_mac == [2, 0, 0, 0, 0, 0x99])).await;
        }
    });
}

#[test]
fn links_that_go_down_and_come_back_are_followed() {
    let pair = Pair::new();
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2"]));
        until_ready(&hops, "10.9.0.2").await;
        pair.peer_ip(&["link", "set", "peer0", "down"]);
        until_reason(&hops, "10.9.0.2", |r| *r == Reason::NoCarrier { ifname: "lb0".into() }).await;
        pair.peer_ip(&["link", "set", "peer0", "up"]);
        until_ready(&hops, "10.9.0.2").await;
        pair.lb_ip(&["link", "set", "lb0", "down"]);
        until_reason(&hops, "10.9.0.2", |r| matches!(r, Reason::LinkDown { .. } | Reason::NoRoute(_))).await;
        pair.lb_ip(&["link", "set", "lb0", "up"]);
        until_ready(&hops, "10.9.0.2").await;
        pair.lb_ip(&["link", "set", "lb0", "address", "02:00:00:00:00:55"]);
        until(&hops, "10.9.0.2", |r| matches!(r, Resolution::Ready(hop) if hop.src_mac == [2, 0, 0, 0, 0, 0x55])).await;
        pair.lb_ip(&["link", "del", "lb0"]);
        until_reason(&hops, "10.9.0.2", |r| matches!(r, Reason::NoRoute(_))).await;
    });
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let pair = Pair::new();
    pair.lb_ip(&["route", "add", "blackhole", "10.70.0.0/16"]);
    pair.lb_ip(&["route", "add", "prohibit", "10.71.0.0/16"]);
    pair.lb_ip(&["route", "add", "unreachable", "10.72.0.0/16"]);
    pair.lb_ip(&["route", "add", "blackhole", "fd70::/64"]);
    pair.lb_ip(&["route", "add", "10.73.0.0/16", "dev", "lo", "src", "10.9.0.1"]);
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        type Row<'a> = (&'a str, fn(&Reason) -> bool);
        let rows: [Row; 11] = [
            ("10.70.0.1", |r| *r == Reason::RouteDrops("blackhole")),
            ("10.71.0.1", |r| *r == Reason::RouteDrops("prohibit")),
            ("10.72.0.1", |r| *r == Reason::RouteDrops("unreachable")),
            ("fd70::1", |r| *r == Reason::RouteDrops("blackhole")),
            ("10.73.0.1", |r| *r == Reason::NoMac { ifname: "lo".into() }),
            ("10.9.0.1", |r| *r == Reason::Local),
            ("fd09::1", |r| *r == Reason::Local),
            ("10.9.0.255", |r| *r == Reason::NotUnicast),
            ("fe80::2", |r| *r == Reason::LinkLocal),
            ("10.99.0.1", |r| matches!(r, Reason::NoRoute(_))),
            ("fd99::1", |r| matches!(r, Reason::NoRoute(_))),
        ];
        hops.set_targets(rows.iter().map(|(target, _)| addr(target)).collect());
        for (target, is) in rows {
            until_reason(&hops, target, is).await;
        }
        pair.lb_ip(&["route", "add", "10.99.0.0/16", "via", "10.9.0.2"]);
        until_ready(&hops, "10.99.0.1").await;
        pair.lb_ip(&["route", "replace", "10.99.0.0/16", "via", "10.9.0.3"]);
        until(&hops, "10.99.0.1", |r| *r != Resolution::NotReady(Reason::Pending) && !matches!(r, Resolution::Ready(_))).await;
        pair.lb_ip(&["route", "del", "10.99.0.0/16"]);
        until_reason(&hops, "10.99.0.1", |r| matches!(r, Reason::NoRoute(_))).await;
    });
}

#[test]
fn neighbours_of_others_stay_as_they_are_and_ours_are_let_go() {
    let pair = Pair::new();
    pair.lb_ip(&["neigh", "add", "10.9.0.40", "lladdr", "02:00:00:00:00:40", "nud", "permanent", "dev", "lb0"]);
    pair.lb_ip(&["neigh", "add", "10.9.0.41", "dev", "lb0", "managed"]);
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2", "10.9.0.40", "10.9.0.41", "10.9.0.42"]));
        until_ready(&hops, "10.9.0.2").await;
        assert_eq!(until_ready(&hops, "10.9.0.40").await.dst_mac, [2, 0, 0, 0, 0, 0x40]);
        until_reason(&hops, "10.9.0.42", |r| matches!(r, Reason::NeighbourFailed { .. })).await;
        assert!(pair.lb_ip(&["-d", "neigh", "show", "10.9.0.40"]).contains("PERMANENT"));

        hops.set_targets(BTreeSet::new());
        let managed = |target| pair.lb_ip(&["-d", "neigh", "show", target]).contains("managed");
        eventually("ours is no longer managed", || !managed("10.9.0.2") && !managed("10.9.0.42")).await;
        assert!(pair.lb_ip(&["neigh", "show", "10.9.0.2"]).contains("02:00:00:00:00:02"), "what the host may use stays known");
        assert!(pair.lb_ip(&["-d", "neigh", "show", "10.9.0.40"]).contains("PERMANENT"));
        assert!(managed("10.9.0.41"), "a managed neighbour of others stays managed");
    });
}

#[test]
fn a_later_life_answers_for_what_the_former_left() {
    let pair = Pair::new();
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2", "fd09::2"]));
        until_ready(&hops, "10.9.0.2").await;
        until_ready(&hops, "fd09::2").await;
        drop(hops);
        let managed = |target| pair.lb_ip(&["-d", "neigh", "show", target]).contains("managed");
        assert!(managed("10.9.0.2") && managed("fd09::2"), "forwarding goes on without the daemon");

        let hops = NextHops::start().expect("start again");
        hops.set_targets(targets(&["fd09::2"]));
        until_ready(&hops, "fd09::2").await;
        eventually("the leftover is let go", || !managed("10.9.0.2")).await;
        assert!(managed("fd09::2"));
        drop(hops);
        assert_eq!(release_all().await.expect("release"), 1);
        eventually("nothing is managed", || !managed("fd09::2")).await;
    });
}

#[test]
fn lost_events_are_made_up_for() {
    let pair = Pair::new();
    pair.in_lb(async {
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2"]));
        until_ready(&hops, "10.9.0.2").await;
        // The only thread of the runtime is busy here, so nobody reads events: they overflow, and the last of them tells of the new MAC.
        let flood: String = (0..5_000).map(|i| format!("route add 10.{}.{}.0/30 dev lb0\n", 100 + i / 250, i % 250)).collect();
        pair.lb_batch(&flood);
        pair.lb_ip(&["neigh", "replace", "10.9.0.2", "lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", "lb0"]);
        until(&hops, "10.9.0.2", |r| matches!(r, Resolution::Ready(hop) if hop.dst_mac == [2, 0, 0, 0, 0, 0x77])).await;
    });
}

#[test]
fn vips_are_announced_kept_and_removed() {
    let pair = Pair::new();
    pair.in_lb(async {
        let announcer = Announcer::open().expect("open");
        for (vip, full) in [("192.0.2.10", "192.0.2.10/32"), ("2001:db8::10", "2001:db8::10/128")] {
            assert_eq!(announcer.add(addr(vip), "lb0").await.expect("add"), Announced::Added);
            let shown = pair.lb_ip(&["-d", "addr", "show", "dev", "lb0"]);
            let line = shown.lines().find(|l| l.contains(full)).expect("the VIP is on the interface").to_owned();
            assert!(line.contains("noprefixroute") && !line.contains("tentative"), "{line}");
            assert!(announcer.list().await.expect("list").iter().any(|a| a.addr == addr(vip) && a.ours));
            // A later life of the daemon knows it again.
            assert_eq!(Announcer::open().expect("open").add(addr(vip), "lb0").await.expect("again"), Announced::Kept);
            assert!(announcer.remove(addr(vip), "lb0").await.expect("remove"));
            assert!(!announcer.remove(addr(vip), "lb0").await.expect("remove what is gone"));
            assert!(!pair.lb_ip(&["addr", "show", "dev", "lb0"]).contains(full));
        }
        announcer.add(addr("192.0.2.11"), "lb0").await.expect("add");
        announcer.add(addr("2001:db8::11"), "lb0").await.expect("add");
        assert_eq!(announcer.remove_all().await.expect("remove all"), 2);
    });
}

#[test]
fn addresses_of_others_are_never_removed() {
    let pair = Pair::new();
    pair.in_lb(async {
        let announcer = Announcer::open().expect("open");
        for vip in ["10.9.0.1", "fd09::1"] {
            assert_eq!(announcer.add(addr(vip), "lb0").await.expect("add"), Announced::Foreign);
            assert!(!announcer.remove(addr(vip), "lb0").await.expect("remove"));
        }
        assert_eq!(announcer.remove_all().await.expect("remove all"), 0);
        let shown = pair.lb_ip(&["addr", "show", "dev", "lb0"]);
        assert!(shown.contains("10.9.0.1/24") && shown.contains("fd09::1/64"));
    });
}

#[test]
fn an_announced_vip_takes_over_at_its_neighbours() {
    let pair = Pair::new();
    pair.peer_ip(&["neigh", "add", "192.0.2.20", "lladdr", "02:00:00:00:00:66", "nud", "stale", "dev", "peer0"]);
    pair.peer_ip(&["neigh", "add", "2001:db8::20", "lladdr", "02:00:00:00:00:66", "nud", "stale", "dev", "peer0"]);
    pair.in_lb(async {
        // Only a link that has come up on both sides carries an announcement.
        let hops = NextHops::start().expect("start");
        hops.set_targets(targets(&["10.9.0.2", "fd09::2"]));
        until_ready(&hops, "10.9.0.2").await;
        until_ready(&hops, "fd09::2").await;
        let announcer = Announcer::open().expect("open");
        for vip in ["192.0.2.20", "2001:db8::20"] {
            announcer.add(addr(vip), "lb0").await.expect("add");
            eventually(&format!("the client's side knows the new owner of {vip}"), || {
                pair.peer_ip(&["neigh", "show", vip]).contains("02:00:00:00:00:01")
            })
            .await;
        }
    });
}

#[test]
fn errors_name_place_and_remedy() {
    let pair = Pair::new();
    pair.in_lb(async {
        let announcer = Announcer::open().expect("open");
        let missing = announcer.add(addr("192.0.2.1"), "nosuch0").await.expect_err("no such interface");
        assert!(missing.to_string().contains("nosuch0") && missing.to_string().contains("ip link"), "{missing}");
        let long = Interfaces::open().expect("open").by_name("a-name-longer-than-the-kernel-takes").await;
        assert!(matches!(long, Err(NetError::NoSuchInterface(_))));
        let lb0 = Interfaces::open().expect("open").by_name("lb0").await.expect("lb0");
        assert_eq!((lb0.mac, lb0.mtu, lb0.is_running()), (Some(LB_MAC), 1500, true));
    });
    pair.in_lb_without_privileges(async {
        let denied = Announcer::open().expect("open").add(addr("192.0.2.1"), "lb0").await.expect_err("no permission");
        assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
    });
}
