//! The packet path's clock against the kernel's.

use mesh::dataplane::clock::{Clocks, Jiffies, jiffy};

/// As many as take a second.
const BEATS: u64 = 100;

#[test]
fn jiffies_tell_the_coarse_clock() {
    let known = Jiffies::measure().unwrap_or_else(|e| panic!("{e}"));
    let clocks = Clocks::load().unwrap_or_else(|e| panic!("{e}"));
    let readings = clocks.beats(BEATS).unwrap_or_else(|e| panic!("{e}"));
    let off: Vec<i64> = readings.iter().map(|it| known.nanoseconds(it.jiffies).wrapping_sub(it.nanoseconds).cast_signed()).collect();
    println!("a jiffy is {} ns; counted less read, in ns: {off:?}", jiffy());
    if known == Jiffies::default() {
        assert_eq!(Jiffies::of(jiffy(), &readings), None, "the clock steps with the timer, and the packet path does not count beats");
        return;
    }
    let near = off.iter().filter(|by| by.unsigned_abs() <= 2 * jiffy()).count();
    assert!(4 * near >= 3 * off.len(), "{near} of {} readings are what was counted, by {known:?}", off.len());
}
