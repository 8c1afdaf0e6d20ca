//! What the frames of one trial say. Pure.

use std::{collections::BTreeSet, net::SocketAddrV4};

use super::{
    ways::Way,
    wire::{ACK, Frame, SYN},
};

/// One trial, as it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub way: Way,
    /// When the failure began, nanoseconds since the Unix epoch.
    pub failed_at: u64,
    /// Ethernet address of the backend that failed, and the switch ports of it and of the balancer.
    pub victim: [u8; 6],
    pub victim_port: usize,
    pub balancer_port: usize,
}

/// How long it was sent clients' packets that it could not answer, milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Window {
    /// First bad packet to the last packet.
    pub all_ms: f64,
    /// First bad packet to the last one that opens a connection.
    pub new_ms: f64,
    /// When the last packet was sent; 0 if there was none.
    pub last: u64,
    pub packets: usize,
}

/// `clients`: whether a frame that the balancer sends carries a client's packet (and no probe).
pub fn window(frames: &[Frame], scene: &Scene, clients: impl Fn(&Frame) -> bool) -> Window {
    let sent: Vec<&Frame> =
        frames.iter().filter(|f| f.port == scene.balancer_port && f.to == scene.victim && f.at >= scene.failed_at && clients(f)).collect();
    let Some(begin) = first_bad(frames, &sent, scene) else { return Window::default() };
    let bad = || sent.iter().filter(|f| f.at >= begin);
    let until = |last: Option<u64>| last.map_or(0.0, |at| (at - begin) as f64 / 1e6);
    let last = bad().map(|f| f.at).max();
    let last_new = bad().filter(|f| opens(f)).map(|f| f.at).max();
    Window { all_ms: until(last), new_ms: until(last_new), last: last.unwrap_or(0), packets: bad().count() }
}

/// A host that is cut off still has time to answer while the failure is being made, so there the first handshake that it does not answer counts;
/// a process is gone, or stopped, at once.
fn first_bad(frames: &[Frame], sent: &[&Frame], scene: &Scene) -> Option<u64> {
    if !matches!(scene.way, Way::Cut | Way::Drop) {
        return sent.iter().map(|f| f.at).min();
    }
    let answers = frames.iter().filter(|f| f.port == scene.victim_port && f.flags & (SYN | ACK) == SYN | ACK);
    let answered: BTreeSet<(SocketAddrV4, SocketAddrV4)> = answers.map(|f| (f.to_addr, f.from_addr)).collect();
    sent.iter().filter(|f| opens(f) && !answered.contains(&(f.from_addr, f.to_addr))).map(|f| f.at).min()
}

fn opens(frame: &Frame) -> bool {
    frame.flags & (SYN | ACK) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn frame(at: u64, port: usize, client: u16, flags: u8) -> Frame {
        let (a, b) = (SocketAddrV4::new([10, 77, 0, 2].into(), client), SocketAddrV4::new([10, 77, 0, 11].into(), 8080));
        let (from_addr, to_addr) = if port == 2 { (a, b) } else { (b, a) };
        Frame { at: at * MS, port, to: [if port == 2 { 11 } else { 2 }; 6], from_addr, to_addr, flags }
    }

    fn look(way: Way, frames: &[Frame]) -> Window {
        let scene = Scene { way, failed_at: 100 * MS, victim: [11; 6], victim_port: 11, balancer_port: 2 };
        window(frames, &scene, |f| f.from_addr.port() < 30_000)
    }

    #[test]
    fn from_the_first_bad_packet_to_the_last() {
        let mut frames = vec![
            frame(90, 2, 1, SYN),
            frame(110, 2, 2, SYN),
            frame(111, 11, 2, SYN | ACK),
            frame(120, 2, 3, SYN),
            frame(150, 2, 4, SYN),
            frame(180, 2, 2, ACK),
            frame(300, 2, 40_000, SYN),
        ];
        frames.push(Frame { to: [12; 6], ..frame(400, 2, 5, SYN) });
        let killed = look(Way::Kill, &frames);
        assert_eq!((killed.all_ms, killed.new_ms, killed.last, killed.packets), (70.0, 40.0, 180 * MS, 4));
        // The handshake at 110 ms was still answered.
        let cut = look(Way::Cut, &frames);
        assert_eq!((cut.all_ms, cut.new_ms, cut.packets), (60.0, 30.0, 3));
    }

    #[test]
    fn nothing_was_sent_to_it_any_more() {
        assert_eq!(look(Way::Drop, &[frame(90, 2, 1, SYN), frame(110, 2, 2, SYN), frame(111, 11, 2, SYN | ACK)]), Window::default());
    }
}
