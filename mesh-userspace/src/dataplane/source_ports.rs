//! Source ports of translated flows: which ones, how they are published, and which ones the kernel takes for itself.

use std::{fs, mem::offset_of, ops::RangeInclusive};

use mesh_common::abi::{Config, NatConfig};

use super::{
    grace::grace_period,
    image::{Image, words_of},
};

const NAT: usize = offset_of!(Config, nat) / 8;
const PORTS: usize = offset_of!(Config, nat.ports) / 8;
const _: () = assert!(offset_of!(Config, nat.ports) % 8 == 0);

/// From one port to another one, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span(Option<(u16, u16)>);

impl Span {
    /// The smallest one with all of these.
    pub fn of(ranges: &[RangeInclusive<u16>]) -> Self {
        ranges.iter().flat_map(|range| [*range.start(), *range.end()]).fold(Self(None), Self::with)
    }

    /// The smallest one that has this port as well.
    pub fn with(self, port: u16) -> Self {
        Self(Some(self.0.map_or((port, port), |(first, last)| (first.min(port), last.max(port)))))
    }

    fn and(self, other: Self) -> Self {
        other.0.into_iter().flat_map(|(first, last)| [first, last]).fold(self, Self::with)
    }

    /// 0 where it is none.
    pub fn first(self) -> u16 {
        self.0.unwrap_or_default().0
    }

    /// Number of ports.
    pub fn count(self) -> u16 {
        self.0.map_or(0, |(first, last)| last.saturating_sub(first).saturating_add(1))
    }

    /// Where replies are looked for by `config`.
    fn replies(config: &NatConfig) -> Self {
        let last = config.reply_first.saturating_add(config.reply_count.saturating_sub(1));
        Self((config.reply_count > 0).then_some((config.reply_first, last)))
    }
}

/// Makes the kernel half go by `config`.
///
/// Packets may be under way by what an earlier life of the daemon has published, so the words of [`mesh_common::abi::NatPorts`] are changed
/// such that none sees the gaps of one with the ports of another; and flows of that life keep their replies until [`narrow`] finds them over.
pub fn publish(image: &Image, config: &NatConfig) {
    let known = image.config.get(0).nat;
    let (old, new) = (known.ports, config.ports);
    let replies = Span::replies(config).and(Span::replies(&known));
    let changes = old != new;
    let ports = if changes { old.before_gaps(new) } else { new };
    image.config.set_run(0, NAT, words_of(&replying(&NatConfig { ports, ..*config }, replies)));
    if changes {
        let words: [u64; 2] = bytemuck::cast(new);
        for at in [1, 0] {
            grace_period();
            image.config.set_word(0, PORTS + at, words[at]);
        }
    }
}

/// Has replies looked for at the ports of `config` and at those of `live` flows, and no longer elsewhere.
pub fn narrow(image: &Image, config: &NatConfig, live: Span) {
    let wanted = replying(config, Span::replies(config).and(live));
    if let Some(word) = words_of(&wanted).next().filter(|word| *word != image.config.word(0, NAT)) {
        image.config.set_word(0, NAT, word);
    }
}

fn replying(config: &NatConfig, at: Span) -> NatConfig {
    NatConfig { reply_first: at.first(), reply_count: at.count(), ..*config }
}

/// The largest region of at least [`MIN_PORTS`] ports from 1024 on that the kernel takes no ports of its own from.
pub fn free() -> Option<RangeInclusive<u16>> {
    largest_outside(&kernels_own()?)
}

const FIRST_PORT: u16 = 1024;
const MIN_PORTS: usize = 1024;

fn largest_outside(taken: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let below = taken.start().checked_sub(1).map(|end| FIRST_PORT..=end);
    let above = taken.end().checked_add(1).map(|start| start.max(FIRST_PORT)..=u16::MAX);
    [below, above].into_iter().flatten().filter(|r| r.len() >= MIN_PORTS).max_by_key(ExactSizeIterator::len)
}

/// Warns of source ports that the kernel takes for the node's own connections: to the same backend, both could be the same flow.
pub fn taken(ports: &[RangeInclusive<u16>]) -> Option<String> {
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    overlap(ports, &kernels_own()?, &reserved)
}

/// `reserved`: ports that it leaves alone, as in `8080,9148-9150`.
fn overlap(ports: &[RangeInclusive<u16>], own: &RangeInclusive<u16>, reserved: &str) -> Option<String> {
    let reserved: Vec<RangeInclusive<u16>> = reserved.split(',').filter_map(|text| range(text, |c| c == '-')).collect();
    let both = |range: &RangeInclusive<u16>| *range.start().max(own.start())..=*range.end().min(own.end());
    let taken = |range: &&RangeInclusive<u16>| both(range).any(|port| !reserved.iter().any(|r| r.contains(&port)));
    let list: Vec<String> = ports.iter().filter(taken).map(|range| format!("{}-{}", range.start(), range.end())).collect();
    let (first, last) = (own.start(), own.end());
    (!list.is_empty()).then(|| {
        format!(
            "nat.ports {} overlap the kernel's own ({first}-{last}): choose others, reserve them by net.ipv4.ip_local_reserved_ports, or \
             change net.ipv4.ip_local_port_range",
            list.join(" and ")
        )
    })
}

/// Where the kernel takes ports for the node's own connections.
fn kernels_own() -> Option<RangeInclusive<u16>> {
    range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?, char::is_whitespace)
}

/// Two numbers with something between them, or one.
fn range(text: &str, between: impl FnMut(char) -> bool) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split(between).map(str::trim).filter(|word| !word.is_empty()).map(str::parse::<u16>);
    let first = numbers.next()?.ok()?;
    let last = numbers.next().unwrap_or(Ok(first)).ok()?;
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::NatPorts;

    use super::*;

    #[test]
    fn ports_keep_clear_of_the_kernels() {
        assert_eq!(largest_outside(&(32_768..=60_999)), Some(1024..=32_767));
        assert_eq!(largest_outside(&(1024..=40_000)), Some(40_001..=65_535));
        assert_eq!(largest_outside(&(1024..=65_535)), None);
        assert_eq!(largest_outside(&(0..=64_600)), None);
    }

    #[test]
    fn ports_that_the_kernel_takes_are_told_unless_they_are_reserved() {
        let own = 32_768..=60_999;
        let told = |ports: &[RangeInclusive<u16>], reserved| overlap(ports, &own, reserved);
        assert_eq!(told(&[1024..=32_767, 61_000..=65_535], ""), None);
        let two = told(&[1024..=32_768, 40_000..=49_999], "").unwrap();
        assert!(two.starts_with("nat.ports 1024-32768 and 40000-49999 overlap the kernel's own (32768-60999): "), "{two}");
        let one = told(&[1024..=32_768, 40_000..=49_999], "32768,40000-49998").unwrap();
        assert!(one.starts_with("nat.ports 40000-49999 overlap"), "{one}");
        assert_eq!(told(&[1024..=32_768, 40_000..=49_999], "32768,40000-45000,45001-49999\n"), None);
    }

    fn config(ports: &[RangeInclusive<u16>]) -> NatConfig {
        replying(&NatConfig { flows: 7, ports: NatPorts::new(ports), ..NatConfig::default() }, Span::of(ports))
    }

    #[test]
    fn flows_of_an_earlier_life_keep_their_replies_until_they_are_over() {
        let image = Image::heap(32, 4, 64, 16, 64);
        let replies = || Span::replies(&image.config.get(0).nat);
        let (before, after) = (config(&[20_000..=20_099]), config(&[10_000..=10_099, 12_000..=12_099, 15_000..=15_001]));
        publish(&image, &before);
        assert_eq!(image.config.get(0).nat, before);
        publish(&image, &after);
        assert_eq!(image.config.get(0).nat, replying(&after, Span(Some((10_000, 20_099)))));
        narrow(&image, &after, Span::default().with(12_050).with(20_050));
        assert_eq!(replies(), Span(Some((10_000, 20_050))));
        narrow(&image, &after, Span::default().with(12_050));
        assert_eq!(image.config.get(0).nat, after);
        // Where translation ends for lack of ports, no flow begins, and those that are there go on.
        publish(&image, &config(&[]));
        assert_eq!((replies(), image.config.get(0).nat.ports.count), (Span(Some((10_000, 15_001))), 0));
        narrow(&image, &config(&[]), Span::default());
        assert_eq!(image.config.get(0).nat, config(&[]));
    }
}
