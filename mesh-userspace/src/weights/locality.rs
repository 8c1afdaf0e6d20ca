//! Nearer backends weigh more: each zone's share of the traffic is its weight over its distance, as long as it can take it.

use std::collections::BTreeMap;

/// Where this balancer stands, and how far the zones are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locality {
    /// By zone, at least 1 each: 1 = here.
    pub distances: BTreeMap<String, u32>,
    /// Of zones that are not named, and of backends without one.
    pub elsewhere: u32,
}

/// A backend as locality sees it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Placed<'a> {
    pub zone: Option<&'a str>,
    /// Configured weight.
    pub weight: f64,
    /// The part of it that it can take right now: 0 = down, less than 1 = it is slow, or comes back.
    pub able: f64,
}

/// Load that a zone may get beyond its ordinary share when part of it fails: its backends have some room.
const RESERVE: f64 = 1.4;

#[derive(Clone, Copy, Debug, Default)]
struct Zone {
    /// Weight of all, and of what can be taken right now.
    whole: f64,
    able: f64,
    distance: f64,
}

impl Locality {
    /// The factor on each backend's weight, 1 for all where distance makes no difference. A zone that has lost more of its backends than it has
    /// room for spills over to the others.
    pub fn factors(&self, backends: &[Placed<'_>]) -> Vec<f64> {
        let zones = self.zones(backends);
        let ordinary: f64 = zones.values().map(|z| z.whole / z.distance).sum();
        let able: f64 = zones.values().map(|z| z.able).sum();
        if ordinary <= 0.0 || able <= 0.0 {
            return vec![1.0; backends.len()];
        }
        let fit = |z: &Zone| if z.whole > 0.0 { (RESERVE * z.able / z.whole).min(1.0) } else { 0.0 };
        let kept = |z: &Zone| z.whole / z.distance / ordinary * fit(z);
        let spilled = 1.0 - zones.values().map(kept).sum::<f64>();
        // Whole zones take what others spill; where there is none, those that can take something.
        let whole: f64 = zones.values().filter(|z| fit(z) >= 1.0).map(kept).sum();
        let some: f64 = zones.values().map(kept).sum();
        let share = |z: &Zone| match () {
            () if whole > 0.0 && fit(z) >= 1.0 => kept(z) + spilled * kept(z) / whole,
            () if whole > 0.0 => kept(z),
            () => kept(z) / some.max(f64::MIN_POSITIVE),
        };
        let factor = |b: &Placed<'_>| {
            let zone = zones.get(b.zone.unwrap_or_default()).copied().unwrap_or_default();
            if zone.able > 0.0 { share(&zone) * able / zone.able } else { 1.0 }
        };
        backends.iter().map(factor).collect()
    }

    /// How far a zone is.
    pub fn distance(&self, zone: Option<&str>) -> f64 {
        f64::from(zone.and_then(|z| self.distances.get(z)).copied().unwrap_or(self.elsewhere).max(1))
    }

    fn zones<'a>(&self, backends: &[Placed<'a>]) -> BTreeMap<&'a str, Zone> {
        let mut zones: BTreeMap<&str, Zone> = BTreeMap::new();
        for b in backends {
            let zone = zones.entry(b.zone.unwrap_or_default()).or_default();
            zone.whole += b.weight;
            zone.able += b.weight * b.able;
            zone.distance = self.distance(b.zone);
        }
        zones
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Locality {
        Locality { distances: [("a".to_owned(), 1), ("b".to_owned(), 2)].into(), elsewhere: 10 }
    }

    /// Share of the traffic of each zone, with `(zone, weight, able)` backends.
    fn shares(backends: &[(&str, f64, f64)]) -> BTreeMap<String, f64> {
        let placed: Vec<_> = backends.iter().map(|(z, weight, able)| Placed { zone: Some(z), weight: *weight, able: *able }).collect();
        let effective: Vec<f64> = here().factors(&placed).iter().zip(backends).map(|(f, (_, w, able))| f * w * able).collect();
        let all: f64 = effective.iter().sum();
        let mut shares = BTreeMap::new();
        effective.iter().zip(backends).for_each(|(e, (z, ..))| *shares.entry((*z).to_owned()).or_insert(0.0) += e / all);
        shares
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn zones_get_their_weight_over_their_distance() {
        let s = shares(&[("a", 1.0, 1.0), ("a", 1.0, 1.0), ("b", 2.0, 1.0), ("far", 2.0, 1.0)]);
        // 2/1, 2/2 and 2/10.
        assert!(near(s["a"], 2.0 / 3.2) && near(s["b"], 1.0 / 3.2) && near(s["far"], 0.2 / 3.2), "{s:?}");
        let alone = here().factors(&[Placed { zone: None, weight: 1.0, able: 1.0 }, Placed { zone: None, weight: 3.0, able: 1.0 }]);
        assert!(alone.iter().all(|f| near(*f, 1.0)), "{alone:?}");
    }

    #[test]
    fn a_zone_spills_over_when_it_has_lost_more_than_its_reserve() {
        let all = |able: f64| shares(&[("a", 4.0, able), ("b", 4.0, 1.0)]);
        assert!(near(all(1.0)["a"], 2.0 / 3.0));
        assert!(near(all(0.8)["a"], 2.0 / 3.0), "the rest takes it");
        assert!(near(all(0.5)["a"], 2.0 / 3.0 * 0.7), "{:?}", all(0.5));
        assert!(near(all(0.0)["a"], 0.0) && near(all(0.0)["b"], 1.0));
        let everybody = shares(&[("a", 4.0, 0.5), ("b", 4.0, 0.5)]);
        assert!(near(everybody["a"], 2.0 / 3.0), "{everybody:?}");
    }

    #[test]
    fn nobody_is_a_value() {
        assert_eq!(here().factors(&[]), Vec::<f64>::new());
        assert_eq!(here().factors(&[Placed { zone: Some("a"), weight: 0.0, able: 1.0 }]), [1.0]);
        assert_eq!(here().factors(&[Placed { zone: Some("a"), weight: 1.0, able: 0.0 }]), [1.0]);
    }
}
