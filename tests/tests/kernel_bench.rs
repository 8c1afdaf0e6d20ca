//! The bench's driver itself: it sends what it says, and sees what comes out wrong.

use mesh_tests::bench::{DRIVER_OBJECT, Driver, Floor, Run, cases};

/// Packets of a slice here.
const COUNT: u64 = 5_000;

fn driver() -> Driver {
    Driver::load(DRIVER_OBJECT).unwrap_or_else(|e| panic!("{e:#}"))
}

#[test]
fn floors_come_out_with_their_sizes() {
    let mut driver = driver();
    for case in cases() {
        for floor in [Floor::Tx, Floor::Swap, Floor::Encap] {
            let slice = driver.slice_floor(floor, &case.run(COUNT)).unwrap_or_else(|e| panic!("{e:#}"));
            assert_eq!(slice.bad, 0, "{} over {floor:?}", case.name());
            assert!(slice.ns_per_packet > 0.0);
        }
    }
}

#[test]
fn a_wrong_size_is_counted() {
    let mut driver = driver();
    let run = cases()[0].run(COUNT);
    let wrong = Run { len_out: run.len + 1, ..run };
    let slice = driver.slice_as(Floor::Swap, &wrong).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(slice.bad, COUNT);
}

#[test]
fn names_are_all_different() {
    let names: std::collections::BTreeSet<String> = cases().iter().map(|c| c.name()).collect();
    assert_eq!(names.len(), cases().len());
}
