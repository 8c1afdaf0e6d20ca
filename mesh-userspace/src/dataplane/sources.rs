//! Source addresses of translated flows, by their index in the maps.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_common::abi::NAT_SOURCES;

#[derive(Clone, Debug)]
pub struct Sources(Vec<Option<Source>>);

#[derive(Clone, Copy, Debug)]
struct Source {
    addr: IpAddr,
    idle: Option<Instant>,
}

impl Default for Sources {
    fn default() -> Self {
        Self(vec![None; NAT_SOURCES])
    }
}

impl Sources {
    /// Index of `addr`, and whether it is new.
    pub fn index(&mut self, addr: IpAddr) -> Option<(u16, bool)> {
        let known = self.0.iter().position(|s| s.is_some_and(|s| s.addr == addr));
        let at = known.or_else(|| self.0.iter().position(Option::is_none))?;
        *self.0.get_mut(at)? = Some(Source { addr, idle: None });
        Some((u16::try_from(at).ok()?, known.is_none()))
    }

    /// Takes in what the maps say.
    pub fn adopt(&mut self, index: usize, addr: IpAddr) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(Source { addr, idle: None });
        }
    }

    /// How many there are.
    pub fn used(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Forgets addresses that nothing has named for `wait`; `used` are those that something names.
    pub fn retain(&mut self, used: &[bool; NAT_SOURCES], now: Instant, wait: Duration) {
        for (place, used) in self.0.iter_mut().zip(used) {
            let Some(source) = place else { continue };
            source.idle = if *used { None } else { Some(source.idle.unwrap_or(now)) };
            if source.idle.is_some_and(|since| now.saturating_duration_since(since) > wait) {
                *place = None;
            }
        }
    }
}
