//! The program that only looks says what the other one then does, and leaves nothing behind.

use anyhow::{Context, Result, ensure};
use mesh_common::abi::{Action, Explained, Reason};
use mesh_tests::fixture::{Engine, Hook, Kernel, Learned, Send, Sizes, cases, run_after};

/// Before each packet of every fixture.
#[test]
fn what_is_told_is_what_is_done_then_and_leaves_no_trace() {
    let mut kernel = Kernel::load(Hook::Xdp, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
    kernel.load_explain().unwrap_or_else(|e| panic!("{e:#}"));
    let mut sure = 0;
    for fixture in cases::all() {
        let mut look = |engine: &mut dyn Engine, packet: &Send, learned: &Learned| {
            sure += u32::from(look(engine, packet, learned)?);
            Ok(())
        };
        run_after(&mut kernel, &fixture, &mut look).unwrap_or_else(|e| panic!("{e:#}"));
    }
    assert!(sure > 100, "only {sure} packets were such that it is told what becomes of them");
}

/// Whether the packet was one that is not set aside.
fn look(engine: &mut dyn Engine, packet: &Send, learned: &Learned) -> Result<bool> {
    let mut frame = packet.frame.clone();
    if let Some(flow) = packet.to_flow {
        frame.set_ports(frame.ports().0, learned[flow]);
    }
    let (told, untouched) = engine.explain(&frame.bytes()).context("nothing is told")?;
    ensure!(untouched, "a look has left a trace: {told:?}");
    let again = engine.explain(&frame.bytes()).context("nothing is told")?;
    ensure!(again == (told, true), "a second look tells {again:?}, the first {told:?}");
    let reason = Reason::from_u8(told.reason);
    if packet.expect.loose || is_aside(reason, packet) {
        return Ok(false);
    }
    ensure!(packet.expect.reasons.contains(&reason), "told {reason:?}, expected {:?}", packet.expect.reasons);
    if let Some(to) = &packet.expect.to {
        ensure!((told.opens == 1) == to.new_flow, "opens a flow: {}, expected {}", told.opens, to.new_flow);
        let sent = to.frame.bytes();
        ensure!(told.dst_mac.to_le_bytes()[..6] == sent[..6] && told.src_mac.to_le_bytes()[..6] == sent[6..12], "{told:?}");
        ensure!(told.edit != Explained::V4 || sent.windows(4).any(|bytes| *bytes == told.dst.v4_octets()), "{told:?}");
    }
    Ok(true)
}

/// Somebody else reads the packet anew: ICMP, fragments, and what is for nobody where somebody has to be told.
fn is_aside(told: Reason, packet: &Send) -> bool {
    const TOLD: [Reason; 4] = [Reason::TtlTold, Reason::TooBigTold, Reason::Rejected, Reason::HandedOver];
    let expected = packet.expect.reasons;
    let answered = expected.iter().any(|r| r.action() == Action::Answer || TOLD.contains(r));
    told == Reason::Icmp || told == Reason::Fragment || answered || (told == Reason::NotForVip && !expected.contains(&told))
}
