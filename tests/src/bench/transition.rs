//! What slots on their way cost: the same packets over a table at rest and over tables of which a part is on its way, in turns, with the same program.

use anyhow::Result;
use mesh_common::abi::Mode;
use serde::Serialize;

use super::{Case, Driver, Flows, Kind, Outer, Rig, cases::Packet, driver::Floor, quantile, tenth};

/// Percent of the slots that are on their way. Of flows on 5 % of them most have an entry; the others live by their slot's default.
const SHARES: [u32; 4] = [0, 1, 5, 100];
const REMEMBERED: u32 = 5;

/// One share in one case. Times are nanoseconds a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub case: String,
    /// Median, less the median of a program that only returns `XDP_TX`.
    pub net_ns: f64,
    /// The same for the least program of this kind of work.
    pub floor_net_ns: f64,
    /// Upper quartile, less the same median.
    pub p75_ns: f64,
    /// Median of what a round takes more than the same round with all slots at rest.
    pub over_rest_ns: f64,
    /// The least of all rounds, less the least with all slots at rest: as [`super::Figure::least_ns`].
    pub least_over_rest_ns: f64,
    /// Packets that went wrong in any share of the case. Not 0 = the figures mean nothing.
    pub bad: u64,
    pub rounds: usize,
}

/// Open flows, so few that their entries are in the caches and a million, and flows that all begin.
pub fn cases() -> Vec<Case> {
    let case =
        |mode, packet, flows| Case { kind: Kind::Service(mode), v6: false, packet, flows, services: 1, guard: None, outer: Outer::Same };
    let open = |mode| [10, 20].map(|log2| case(mode, Packet::Tcp, Flows::Log2(log2)));
    let all = |mode| open(mode).into_iter().chain([case(mode, Packet::Syn, Flows::AllNew)]);
    [Mode::Dsr, Mode::Tunnel].into_iter().flat_map(all).collect()
}

/// What a case is called with so many percent of the slots on their way.
pub fn names(case: &Case) -> [String; 4] {
    SHARES.map(|share| if share == 0 { format!("{}_rest", case.name()) } else { format!("{}_transition{share}", case.name()) })
}

/// Measures all shares of a case, in `rounds` rounds each.
pub fn measure(driver: &mut Driver, rig: &mut Rig, case: &Case, rounds: usize) -> Result<Vec<Figure>> {
    rig.establish(driver, case)?;
    rig.set_out(REMEMBERED);
    let before = rig.counted(case)?;
    let (mut bad, mut sent) = (0, 0);
    if let Some(flows) = case.flow_count() {
        driver.restart_flows();
        for run in [case.opening_run(flows), case.run(flows)] {
            bad += driver.slice(rig.program(), &run)?.bad;
            sent += flows;
        }
    }
    let run = case.run(case.packets());
    let (mut tx, mut floor) = (Vec::new(), Vec::new());
    let mut times = SHARES.map(|_| Vec::new());
    for round in 0..=rounds {
        let base = driver.slice_floor(Floor::Tx, &run)?;
        let least = driver.slice_floor(case.floor(), &run)?;
        for (share, times) in SHARES.into_iter().zip(&mut times) {
            rig.set_out(share);
            // Of the two, the first has the table come into the caches.
            let mut last = f64::NAN;
            for _ in 0..2 {
                if case.flow_count().is_none() {
                    rig.forget_ledger();
                }
                let slice = driver.slice(rig.program(), &run)?;
                (bad, sent, last) = (bad + slice.bad, sent + run.count, slice.ns_per_packet);
            }
            if round > 0 {
                times.push(last);
            }
        }
        if round > 0 {
            tx.push(base.ns_per_packet);
            floor.push(least.ns_per_packet);
        }
    }
    let after = rig.counted(case)?;
    bad += sent.abs_diff(after.right - before.right) + sent.abs_diff(after.ended - before.ended);
    let (base, rest) = (quantile(&mut tx, 0.5), times[0].clone());
    let floor_net_ns = tenth(quantile(&mut floor, 0.5) - base);
    let least_at_rest = rest.iter().copied().fold(f64::INFINITY, f64::min);
    let figure = |(case, mut times): (String, Vec<f64>)| {
        let mut over: Vec<f64> = times.iter().zip(&rest).map(|(time, rest)| time - rest).collect();
        let [net_ns, p75_ns] = [0.5, 0.75].map(|q| tenth(quantile(&mut times, q) - base));
        let least_over_rest_ns = tenth(quantile(&mut times, 0.0) - least_at_rest);
        Figure { case, net_ns, floor_net_ns, p75_ns, over_rest_ns: tenth(quantile(&mut over, 0.5)), least_over_rest_ns, bad, rounds }
    };
    Ok(names(case).into_iter().zip(times).map(figure).collect())
}
