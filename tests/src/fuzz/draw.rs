//! Inputs made of others, without a look at what they reach: the same ones in every run of a seed.

/// Changes inputs.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

/// Values that programs think about: bounds, and what stands for nothing.
const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'-', b'"'];
const LONGEST: usize = 4096;

impl Mutator {
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of `inputs` with one to eight changes, some of which bring in a piece of another one.
    pub fn next(&mut self, inputs: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = self.one_of(inputs).to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[(String, Vec<u8>)]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(8)).min(bytes.len());
        match self.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
            2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(self.below(9) as u8).wrapping_sub(4),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.insert(at, self.below(256) as u8),
            5 if at < bytes.len() => bytes.extend_from_within(at..end),
            _ => {
                let other = self.one_of(inputs);
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                let over = if self.below(2) == 0 { at..at } else { at..(at + to - from).min(bytes.len()) };
                bytes.splice(over, other[from..to].iter().copied());
            }
        }
    }

    fn one_of<'a>(&mut self, inputs: &'a [(String, Vec<u8>)]) -> &'a [u8] {
        if inputs.is_empty() { &[] } else { &inputs[self.below(inputs.len())].1 }
    }

    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % limit.max(1) as u64) as usize
    }
}
