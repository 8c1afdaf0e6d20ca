//! The clock of the packet path: the kernel's coarse monotonic clock steps with its timer, so whoever knows what one beat of that is worth can count
//! beats, which needs no call.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{TestRun, TestRunOptions, Xdp},
};
use mesh_common::abi::{
    clock::{CLOCK, ClockReading, READING},
    global,
};
use nix::time::{ClockId, clock_getres};

use super::{error::DataplaneError, load::take};

/// Reads the clocks, built from source by the build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-clock"));

/// Beats to look at, at each try.
const LOOKED_AT: u64 = 12;
/// A kernel whose timer beats slower than any has none to count.
const PATIENCE: Duration = Duration::from_millis(500);
/// A machine that is held up between two clocks is asked again.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// What the program is run with; it does not look.
const FRAME: [u8; 64] = [0; 64];

/// What a jiffy is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Jiffies {
    /// Nanoseconds of one; 0 = not known, the kernel is asked for the time.
    jiffy: u64,
    /// What the clock said at jiffy 0, in nanoseconds; it wraps around.
    zero: u64,
}

impl Jiffies {
    /// Looks at some beats of the timer. Not known where the clock does not step with them.
    pub fn measure() -> Result<Self, DataplaneError> {
        let (clocks, jiffy) = (Clocks::load()?, jiffy());
        let mut readings = Vec::new();
        for _ in 0..TRIES {
            readings = clocks.beats(LOOKED_AT)?;
            if let Some(known) = Self::of(jiffy, &readings) {
                return Ok(known);
            }
        }
        log::warn!("the kernel's clock does not step with its timer ({jiffy} ns: {readings:?}); what asks for the time is slower");
        Ok(Self::default())
    }

    /// What these readings tell, if most of them tell the same. Some do not: the machine may be held up between the two clocks.
    pub fn of(jiffy: u64, readings: &[ClockReading]) -> Option<Self> {
        let first = readings.first()?;
        let enough = readings.last()?.jiffies.checked_sub(first.jiffies)? >= LOOKED_AT;
        let zero = |reading: &ClockReading| reading.nanoseconds.wrapping_sub(reading.jiffies.wrapping_mul(jiffy));
        // They may be on both sides of where a number wraps around: what they are apart is not.
        let mut apart: Vec<i64> = readings.iter().map(|reading| zero(reading).wrapping_sub(zero(first)).cast_signed()).collect();
        apart.sort_unstable();
        let middle = apart[apart.len() / 2];
        // The two clocks step one after the other, so that one may be a beat ahead; and a beat is some nanoseconds more or less where the clock is steered.
        let agree = apart.iter().filter(|other| other.abs_diff(middle) <= jiffy.saturating_add(jiffy / 2)).count();
        (enough && jiffy > 0 && 4 * agree >= 3 * apart.len())
            .then(|| Self { jiffy, zero: zero(first).wrapping_add(middle.cast_unsigned()) })
    }

    /// The coarse monotonic clock at this jiffy, in nanoseconds.
    pub const fn nanoseconds(self, jiffies: u64) -> u64 {
        jiffies.wrapping_mul(self.jiffy).wrapping_add(self.zero)
    }

    /// Tells the packet path, before it is loaded.
    pub fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global(global::JIFFY, &self.jiffy, true);
        loader.override_global(global::JIFFY_ZERO, &self.zero, true);
    }
}

/// Nanoseconds of a jiffy; 0 = the kernel does not tell. It is what the coarse clock says it steps by.
pub fn jiffy() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |step| u64::try_from(Duration::from(step).as_nanos()).unwrap_or(0))
}

/// The program that reads both clocks.
pub struct Clocks {
    ebpf: Ebpf,
    reading: Array<MapData, ClockReading>,
}

impl Clocks {
    pub fn load() -> Result<Self, DataplaneError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(DataplaneError::Load)?;
        let refused = DataplaneError::program(CLOCK);
        let program: &mut Xdp =
            ebpf.program_mut(CLOCK).ok_or(DataplaneError::Object { kind: "program", name: CLOCK })?.try_into().map_err(&refused)?;
        program.load().map_err(&refused)?;
        Ok(Self { reading: take(&mut ebpf, READING)?, ebpf })
    }

    pub fn read(&self) -> Result<ClockReading, DataplaneError> {
        let refused = DataplaneError::program(CLOCK);
        let program = self.ebpf.program(CLOCK).ok_or(DataplaneError::Object { kind: "program", name: CLOCK })?;
        let program: &Xdp = program.try_into().map_err(&refused)?;
        program.test_run(TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::default() }).map_err(&refused)?;
        self.reading.get(&0, 0).map_err(|source| DataplaneError::Map { name: READING, source })
    }

    /// Readings over so many beats, or for as long as patience lasts.
    pub fn beats(&self, beats: u64) -> Result<Vec<ClockReading>, DataplaneError> {
        let (first, end) = (self.read()?, Instant::now() + PATIENCE);
        let mut readings = vec![first];
        while readings.last().is_some_and(|last| last.jiffies.wrapping_sub(first.jiffies) < beats) && Instant::now() < end {
            sleep(PAUSE);
            readings.push(self.read()?);
        }
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JIFFY: u64 = 4_000_000;

    /// A reading a beat, each so many nanoseconds off.
    fn off(by: &[i64]) -> Option<Jiffies> {
        let reading = |(beat, by): (u64, &i64)| ClockReading {
            jiffies: 4_294_900_000 + beat,
            nanoseconds: (7_000_000_000 + beat * JIFFY).wrapping_add_signed(*by),
        };
        Jiffies::of(JIFFY, &(0..).zip(by).map(reading).collect::<Vec<_>>())
    }

    #[test]
    fn most_say_what_the_clock_says() {
        let all = off(&[0; 13]);
        assert_eq!(all.map(|known| known.nanoseconds(4_294_900_000)), Some(7_000_000_000));
        assert_eq!(off(&[90_000_000, 0, 0, 0, 0, 0, 0, -50_000_000, 0, 0, 0, 0, 90_000_000]), all, "three that were held up");
        let slewed = off(&[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]);
        assert_eq!(slewed.map(|known| known.nanoseconds(4_294_900_000)), Some(7_000_000_012), "the middle");
        let beat = JIFFY.cast_signed();
        let ahead = [beat, beat - 40, -80, -120, beat - 160, -200, -240, -280, beat - 320, beat - 360, -400, beat - 440, -480];
        assert!(off(&ahead).is_some(), "one is a beat ahead by turns, and more than that");
    }

    #[test]
    fn what_does_not_fit_is_not_known() {
        assert_eq!(off(&[0; 12]), None, "too few beats");
        assert_eq!(off(&[]), None);
        let lost: Vec<i64> = (0..40).map(|beat| beat * 2_000_000).collect();
        assert_eq!(off(&lost), None, "a timer that loses beats");
        let standing = [ClockReading { jiffies: 1, nanoseconds: 0 }, ClockReading { jiffies: 90, nanoseconds: 0 }];
        assert_eq!(Jiffies::of(JIFFY, &standing), None, "a clock that stands");
        assert_eq!(Jiffies::of(0, &[ClockReading::default(), standing[1]]), None, "a step of nothing");
        assert_eq!(Jiffies::of(JIFFY, &[standing[1], standing[0]]), None, "beats that go back");
    }
}
