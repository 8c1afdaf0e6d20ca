//! Bytes as a small world and a script of what happens to it: frames, time, states, and for `maps` words that are overwritten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::abi::{BackendState, Mode, Proto, REASONS, ServiceFlags, SlotFlags, SlotWord};

use crate::fixture::{Counters, Engine, Host, Nat, Sizes, Verdict, World, cases::Setting, random::Corruption, random::Event};

/// Of one input.
#[derive(Clone, Debug)]
pub struct Script {
    /// Which of [`Setting::all`].
    pub setting: u8,
    /// What is special about the world: see [`Script::world`].
    pub options: u8,
    pub events: Vec<Event>,
}

const FRAME: u8 = 0;
const AGE: u8 = 1;
const STATE: u8 = 2;
const CORRUPT: u8 = 3;
/// An hour for each connection: the second is refused.
const HOUR: u32 = 3_515_625_000;
/// Events of an input beyond that many are left out.
const MOST: usize = 64;

impl Script {
    /// Of a frame, in bytes; shorter than that.
    pub const LONGEST: usize = 2048;
    pub const LISTED: u8 = 1 << 0;
    pub const LIMITED: u8 = 1 << 1;
    pub const RANGED: u8 = 1 << 2;
    pub const MOVING: u8 = 1 << 3;
    pub const TOLD: u8 = 1 << 4;
    pub const STRICT: u8 = 1 << 5;
    pub const ALONE: u8 = 1 << 6;
    pub const NARROW: u8 = 1 << 7;

    /// Without `hostile` no word of a map is overwritten.
    pub fn read(input: &[u8], hostile: bool) -> Self {
        let mut rest = input;
        let (setting, options) = (byte(&mut rest), byte(&mut rest));
        let mut events = Vec::new();
        while !rest.is_empty() && events.len() < MOST {
            events.push(match byte(&mut rest) % 4 {
                FRAME => Event::Packet(frame(&mut rest)),
                AGE => Event::Age(u32::from(word(&mut rest))),
                STATE => Event::State(byte(&mut rest), byte(&mut rest)),
                _ => {
                    let (map, at) = (byte(&mut rest), u32::from(word(&mut rest)) | u32::from(word(&mut rest)) << 16);
                    let value = (0..8).fold(0, |value, i| value | u64::from(byte(&mut rest)) << (8 * i));
                    if !hostile {
                        continue;
                    }
                    Event::Corrupt(Corruption { map: map % 11, word: at, value })
                }
            });
        }
        Self { setting, options, events }
    }

    /// What [`Script::read`] reads.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.setting, self.options];
        for event in &self.events {
            match event {
                Event::Packet(bytes) => {
                    out.push(FRAME);
                    out.extend((bytes.len() as u16).to_le_bytes());
                    out.extend(bytes);
                }
                Event::Age(ticks) => {
                    out.push(AGE);
                    out.extend((*ticks as u16).to_le_bytes());
                }
                Event::State(backend, state) => out.extend([STATE, *backend, *state]),
                Event::Corrupt(Corruption { map, word, value }) => {
                    out.extend([CORRUPT, *map]);
                    out.extend(word.to_le_bytes());
                    out.extend(value.to_le_bytes());
                }
            }
        }
        out
    }

    /// One service as the setting says, with what the options add.
    pub fn world(&self) -> World {
        let settings = Setting::all();
        let s = settings[usize::from(self.setting) % settings.len()];
        let has = |option: u8| self.options & option != 0;
        let mut world = s.world();
        let service = &mut world.services[0];
        if s.proto == Proto::Udp {
            // Connection ids of the fixtures.
            service.flags |= 2 << ServiceFlags::QUIC_SHIFT;
            (service.members[0].quic, service.members[1].quic) = (Some(0x0a0b), Some(0x0102));
        }
        if has(Self::LISTED) {
            service.flags |= ServiceFlags::LISTS;
            let (all, client) = if s.v6 { (Ipv6Addr::UNSPECIFIED.into(), 128) } else { (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32) };
            service.prefixes = vec![(all, 0, false), (all, 3, true), (s.client().0, client, has(Self::STRICT))];
        }
        if has(Self::LIMITED) {
            service.flags |= ServiceFlags::RATES;
            service.limits = if has(Self::STRICT) { (HOUR, 0) } else { (HOUR / 3600 / 4, HOUR) };
        }
        if has(Self::RANGED) && matches!(s.mode, Mode::Dsr | Mode::Tunnel) {
            (service.port, service.ports) = (0, (10, 8000));
        }
        if has(Self::MOVING) && s.mode != Mode::Nat {
            let flags = [SlotFlags::TRANSITION, SlotFlags::TRANSITION, SlotFlags(3), SlotFlags(0)];
            service.slots = flags.map(|flags| SlotWord::new(1, 0, 0, flags)).to_vec();
        }
        if has(Self::TOLD) {
            service.flags |= ServiceFlags::REJECT | ServiceFlags::RESET;
        }
        if has(Self::STRICT) {
            service.flags |= ServiceFlags::STRICT;
        }
        if has(Self::ALONE) {
            service.members[1].state = BackendState::Down;
        }
        if has(Self::NARROW) {
            world.nat.ports = Nat::some(2);
            world.nat.half_open_limit = 2;
        }
        world
    }
}

/// Runs it through the host's copy of the engine: every frame has one verdict and is counted once.
pub fn run(script: &Script) {
    let world = script.world();
    let mut host = Host::new(Sizes::SMALL);
    host.reset(&mut |maps| world.publish(maps));
    let (mut before, mut sound) = (host.counters(), true);
    for event in &script.events {
        host.edit(&mut |maps| event.apply(maps));
        let Event::Packet(frame) = event else {
            sound &= !matches!(event, Event::Corrupt(_));
            continue;
        };
        let out = host.send(frame);
        assert!(out.bytes.len() <= frame.len() + Host::LONGER, "{} bytes became {}", frame.len(), out.bytes.len());
        let after = host.counters();
        let counted = after.since(&before);
        let ended = counted.ended().packets;
        let mut nobodys = || names_no_service(&mut host, after.reasons.len() as u32 / REASONS);
        assert!(ended == 1 || ended == 0 && nobodys(), "counted {:?}", counted.counted());
        // What `dnat` leaves to the host to route is changed as well, and so may be what is dropped when only half of it could be done.
        let routed = out.verdict == Verdict::Pass && forwarded(&counted);
        if sound && !out.verdict.is_forward() && !routed {
            assert!(out.bytes == *frame, "only what is sent on is changed; {:?}", out.verdict);
        }
        before = after;
    }
}

fn forwarded(counted: &Counters) -> bool {
    counted.backends.iter().any(|b| b.tx + b.redirect + b.reply_tx + b.reply_redirect > 0)
}

/// Some entry of the maps names a service that there is no room for: its packets have no counter.
fn names_no_service(host: &mut Host, counters: u32) -> bool {
    let mut found = false;
    host.edit(&mut |maps| {
        found = maps.vips.iter().any(|vip| vip.service >= counters) || maps.nat_flows.iter().any(|f| u32::from(f.service) >= counters);
    });
    found
}

fn byte(rest: &mut &[u8]) -> u8 {
    let (first, others) = rest.split_first().map_or((0, *rest), |(first, others)| (*first, others));
    *rest = others;
    first
}

fn word(rest: &mut &[u8]) -> u16 {
    u16::from_le_bytes([byte(rest), byte(rest)])
}

fn frame(rest: &mut &[u8]) -> Vec<u8> {
    let length = (usize::from(word(rest)) % Script::LONGEST).min(rest.len());
    let (frame, others) = rest.split_at(length);
    *rest = others;
    frame.to_vec()
}
