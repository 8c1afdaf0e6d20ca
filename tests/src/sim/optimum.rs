//! The shares of requests for which those of all backends together wait least: what one who knows everything could do with fixed weights.

use mesh::model::Weight;

use super::policy::Policy;

/// Requests a second for each backend of these speeds with so many cores each, where `rate` come in all; a request is exponential work of `work` on average.
/// All backends together can do more than that.
pub fn rates(speeds: &[f64], cores: f64, work: f64, rate: f64) -> Vec<f64> {
    let at = |price: f64| -> Vec<f64> { speeds.iter().map(|speed| taken(speed / work, cores, price)).collect() };
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..100 {
        let price = 0.5 * (low + high);
        if at(price).iter().sum::<f64>() < rate { low = price } else { high = price }
    }
    at(high)
}

/// What is configured under a policy: nothing is known of speeds but where somebody knows everything.
pub fn weights(policy: Policy, speeds: &[f64], cores: f64, work: f64, rate: f64) -> Vec<Weight> {
    let wanted = match policy {
        Policy::Oracle => speeds.to_vec(),
        Policy::Optimum => rates(speeds, cores, work, rate),
        _ => return vec![Weight::ONE; speeds.len()],
    };
    let most = wanted.iter().copied().fold(0.0, f64::max);
    wanted.iter().map(|w| Weight((w / most * 10_000.0).round() as u16)).collect()
}

/// What a backend is given as long as one request more adds less than `price` seconds of waiting for all.
fn taken(served: f64, cores: f64, price: f64) -> f64 {
    let step = 1e-6 * served * cores;
    let more = |rate: f64| (present(served, cores, rate + step) - present(served, cores, rate)) / step;
    let (mut low, mut high) = (0.0, served * cores * (1.0 - 1e-5));
    for _ in 0..60 {
        let rate = 0.5 * (low + high);
        if more(rate) < price { low = rate } else { high = rate }
    }
    low
}

/// Requests that are there on average (Erlang's second formula), where each core does `served` a second.
fn present(served: f64, cores: f64, rate: f64) -> f64 {
    let offered = rate / served;
    let load = offered / cores;
    let blocked = (1..=cores as u32).fold(1.0, |blocked, k| offered * blocked / (f64::from(k) + offered * blocked));
    let waits = blocked / (1.0 - load * (1.0 - blocked));
    offered + waits * load / (1.0 - load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_the_known_formula() {
        assert!((present(10.0, 1.0, 5.0) - 1.0).abs() < 1e-9, "load over what is left of it");
        // Rates less than what each can do by its square root's share of what is left.
        let rates = rates(&[1.0, 4.0], 1.0, 0.1, 25.0);
        let left = (50.0 - 25.0) / (10f64.sqrt() + 40f64.sqrt());
        assert!(
            (rates[0] - (10.0 - left * 10f64.sqrt())).abs() < 0.01 && (rates[1] - (40.0 - left * 40f64.sqrt())).abs() < 0.01,
            "{rates:?}"
        );
    }

    #[test]
    fn slow_ones_get_less_than_their_part_where_there_is_room() {
        let rates = rates(&[0.5, 2.0], 8.0, 0.02, 700.0);
        assert!((rates.iter().sum::<f64>() - 700.0).abs() < 0.1 && rates[0] < 700.0 / 5.0, "{rates:?}");
    }
}
