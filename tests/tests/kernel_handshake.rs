//! Handshakes as the kernel times them. What becomes of each step is the host's to test (mesh-common); here clock, maps and both programs are real.

use std::{thread::sleep, time::Duration};

use mesh_common::abi::{Mode, Proto};
use mesh_tests::fixture::{Engine, Frame, Hook, INGRESS, Kernel, Member, Service, Sizes, World, tcp};

const WAIT: Duration = Duration::from_millis(20);

#[test]
fn handshakes_are_timed_by_xdp() {
    handshakes_are_timed(Hook::Xdp);
}

#[test]
fn handshakes_are_timed_by_tc() {
    handshakes_are_timed(Hook::Tc);
}

fn handshakes_are_timed(hook: Hook) {
    let mut kernel = Kernel::load_in_time(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
    let vip = ([10, 96, 0, 1].into(), 80);
    let member = Member::new(1, ([10, 0, 0, 1].into(), 80)).with(|m| m.ifindex = INGRESS);
    let world = World::new(vec![Service::new(vip, Proto::Tcp, Mode::Dsr, vec![member])]);
    // The mask stays 0: every flow is drawn.
    kernel.reset(&mut |maps| world.publish(maps));
    let mut send = |port: u16, flags| {
        let out = kernel.send(&Frame::tcp(([192, 0, 2, 1].into(), port), vip, flags).bytes());
        assert!(out.verdict.is_forward(), "{:?}", out.verdict);
    };
    send(1000, tcp::SYN);
    send(1001, tcp::SYN);
    send(1001, tcp::SYN);
    sleep(WAIT);
    for port in [1000, 1001] {
        send(port, tcp::ACK);
        send(port, tcp::ACK);
    }
    send(1000, tcp::RST);
    let seen = kernel.signals()[world.stats_index(0, 0) as usize];
    assert_eq!((seen.sampled, seen.syn_retransmits, seen.handshakes()), (2, 1, (0, 1)));
    assert!(seen.accept_time >= WAIT.as_nanos() as u64 >> 10, "{seen:?}");
    let step = seen.accept_time.ilog2() as usize;
    assert_eq!(seen.accepts[step], 1, "{seen:?}");
    assert_eq!(kernel.counters().backends[world.stats_index(0, 0) as usize].client_resets, 1);
}
