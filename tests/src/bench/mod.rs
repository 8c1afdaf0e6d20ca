//! What a packet costs in the kernel: `cargo xtask bench packet`.
//!
//! A driver program restores and stamps the packet and tail-calls the program under test; rounds of it interleave with the same driver over
//! programs that do next to nothing (the floors), so that what is told is the difference.

mod cases;
pub mod churn;
pub mod discovery;
mod driver;
pub mod e2e;
pub mod failover;
pub mod ipvs;
pub mod memory;
pub mod probes;
mod rig;
#[path = "../../../mesh-ebpf/src/bench/run.rs"]
mod run;
pub mod scale;
mod stall;
pub mod transition;
pub mod weighted;

pub use cases::{Case, Flows, Guard, Kind, Outer, cases};
pub use driver::{DRIVER_OBJECT, Driver, Floor, Undisturbed, pin_to_last_cpu, pinned};
pub use rig::Rig;
pub use run::{Run, TEMPLATE};

use anyhow::Result;
use aya::programs::ProgramFd;
use serde::Serialize;

// SAFETY: `Run` is bytes and integers, without padding; its size is asserted beside it.
unsafe impl bytemuck::Zeroable for Run {}
// SAFETY: as above.
unsafe impl bytemuck::AnyBitPattern for Run {}

/// One line of the result. Times are nanoseconds a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub case: String,
    /// Median, less the median of a program that only returns `XDP_TX`.
    pub net_ns: f64,
    /// The same for the least program of this kind of work: nothing, or swap MACs.
    pub floor_net_ns: f64,
    /// That median itself: what the driver and the calls take here, for those who compare machines.
    pub tx_ns: f64,
    /// Upper quartile, less the same median.
    pub p75_ns: f64,
    /// The least of all rounds, less the least of those that only return `XDP_TX`: what it costs while nobody else, on another thread of the same core for
    /// one, is in the way.
    pub least_ns: f64,
    /// Packets that came out with a wrong size or were not counted as they have to be. Not 0 = the figure means nothing.
    pub bad: u64,
    /// Packets of translated flows that found no room when they were opened, which is right at the limits but cheaper than being sent.
    pub no_room: u64,
    pub rounds: usize,
}

/// Measures one case in `rounds` rounds, and the programs `beside` in the same rounds by the same packets. The first slices, which warm up, are not counted
/// among them. Of the others nothing but sizes can be told, and their maps are for who loaded them to fill.
pub fn measure(driver: &mut Driver, rig: &mut Rig, case: &Case, rounds: usize, beside: &[ProgramFd]) -> Result<(Figure, Vec<Beside>)> {
    rig.establish(driver, case)?;
    let mut others: Vec<Other> = beside.iter().map(|program| Other { program, times: Vec::new(), bad: 0 }).collect();
    for other in &others {
        warm_up(driver, other.program, case)?;
    }
    let packets = case.packets();
    let run = case.run(packets);
    let (mut tx, mut floor, mut net) = (Vec::new(), Vec::new(), Vec::new());
    let before = rig.counted(case)?;
    let mut bad = 0;
    for round in 0..=rounds {
        let base = driver.slice_floor(Floor::Tx, &run)?;
        let least = driver.slice_floor(case.floor(), &run)?;
        if case.fills() {
            rig.forget();
        }
        rig.forget_connections();
        let under_test = driver.slice(rig.program(), &run)?;
        bad += under_test.bad;
        for other in &mut others {
            driver.rewind(packets);
            let slice = driver.slice(other.program, &run)?;
            other.bad += slice.bad;
            other.times.extend((round > 0).then_some(slice.ns_per_packet));
        }
        if round > 0 {
            tx.push(base.ns_per_packet);
            floor.push(least.ns_per_packet);
            net.push(under_test.ns_per_packet);
        }
    }
    let after = rig.counted(case)?;
    let no_room = after.no_room - before.no_room;
    let sent = packets * (rounds as u64 + 1);
    bad += sent.abs_diff(after.right - before.right + no_room) + sent.abs_diff(after.ended - before.ended);
    let base = quantile(&mut tx, 0.5);
    let others = others.into_iter().map(|other| other.beside(base)).collect();
    let figure = Figure {
        case: case.name(),
        net_ns: tenth(quantile(&mut net, 0.5) - base),
        floor_net_ns: tenth(quantile(&mut floor, 0.5) - base),
        tx_ns: tenth(base),
        p75_ns: tenth(quantile(&mut net, 0.75) - base),
        least_ns: tenth(quantile(&mut net, 0.0) - quantile(&mut tx, 0.0)),
        bad,
        no_room,
        rounds,
    };
    Ok((figure, others))
}

/// Another program's part of a case: as in [`Figure`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Beside {
    pub net_ns: f64,
    pub p75_ns: f64,
    /// Packets that came out with another size than they have to.
    pub bad: u64,
}

/// A program that is measured beside ours.
struct Other<'a> {
    program: &'a ProgramFd,
    times: Vec<f64>,
    bad: u64,
}

impl Other<'_> {
    fn beside(mut self, base: f64) -> Beside {
        let mut net = |q| tenth(quantile(&mut self.times, q) - base);
        Beside { net_ns: net(0.5), p75_ns: net(0.75), bad: self.bad }
    }
}

/// Sends another program each flow of the case once, so that it may remember them.
fn warm_up(driver: &mut Driver, program: &ProgramFd, case: &Case) -> Result<()> {
    let Some(flows) = case.flow_count() else { return Ok(()) };
    driver.restart_flows();
    driver.slice(program, &case.opening_run(flows))?;
    driver.restart_flows();
    driver.slice(program, &case.run(flows))?;
    driver.restart_flows();
    Ok(())
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn tenth(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}
