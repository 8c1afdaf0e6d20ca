use super::fleet_silence;

/// Earlier signs of life count this much less with each later one: about the last thousand say what share a backend has.
const FORGET: f64 = 0.001;
/// Before a backend has given so many signs its share is not known.
const KNOWN: f64 = 30.0;

/// Channel A of one backend: how long it has been silent by the clock of all signs of life of its service.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Silence {
    /// Signs of the backend, and those of the service meanwhile; old ones fade.
    own: f64,
    fleet: f64,
    /// Signs of the service since the backend's last one, as far as it had reason to give its share of them.
    since: u64,
}

impl Silence {
    /// A moment in which the service gave `all` signs of life, this backend `own` of them, and so many packets were `sent` to it.
    pub fn moment(&mut self, own: u64, all: u64, sent: u64) {
        if own > 0 {
            let keep = (1.0 - FORGET).powf(own as f64);
            self.own = self.own * keep + own as f64;
            self.fleet = self.fleet * keep + (self.since + all) as f64;
            self.since = 0;
        } else {
            // Who is not asked does not answer, and nobody gives more signs than it was sent packets: a backend that is drained while others get a
            // flood is not silent.
            let due = (sent as f64 / self.share()).round() as u64;
            self.since = self.since.saturating_add(all.min(due));
        }
    }

    /// Part of the service's signs that are this backend's; 1 before it has given any.
    fn share(&self) -> f64 {
        if self.own > 0.0 { self.own / self.fleet.max(1.0) } else { 1.0 }
    }

    /// Another channel has just shown that it lives: the silence begins anew.
    pub fn forgive(&mut self) {
        self.since = 0;
    }

    pub fn phi(&self) -> f64 {
        if self.own < KNOWN { 0.0 } else { fleet_silence(self.since, self.share()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service of ten whose signs come evenly.
    fn known() -> Silence {
        let mut silence = Silence::default();
        for _ in 0..100 {
            silence.moment(1, 10, 1);
        }
        silence
    }

    #[test]
    fn silence_is_counted_in_the_signs_of_the_others() {
        let mut silence = known();
        assert_eq!(silence.phi(), 0.0);
        for _ in 0..10 {
            silence.moment(0, 9, 1);
        }
        assert!((silence.phi() - fleet_silence(90, 0.1)).abs() < 1e-9, "{}", silence.phi());
        silence.moment(1, 10, 1);
        assert_eq!(silence.phi(), 0.0, "a sign of life ends it");
    }

    #[test]
    fn who_is_not_asked_or_not_known_is_not_silent() {
        let mut silence = known();
        (0..1000).for_each(|_| silence.moment(0, 9, 0));
        assert_eq!(silence.phi(), 0.0);
        let mut new = Silence::default();
        (0..20).for_each(|_| new.moment(1, 10, 1));
        (0..1000).for_each(|_| new.moment(0, 10, 1));
        assert_eq!(new.phi(), 0.0);
        let mut silence = known();
        (0..1000).for_each(|_| silence.moment(0, 0, 1));
        assert_eq!(silence.phi(), 0.0, "when all are silent the clock stands still");
    }

    #[test]
    fn who_is_asked_little_owes_little() {
        let mut silence = known();
        for _ in 0..3 {
            silence.moment(0, 10_000, 1);
        }
        assert!((silence.phi() - fleet_silence(30, 0.1)).abs() < 1e-9, "three packets are three signs at most: {}", silence.phi());
        silence.moment(0, 10_000, 1000);
        assert!(silence.phi() > 100.0, "a thousand are not");
    }

    #[test]
    fn the_only_backend_has_no_clock() {
        let mut alone = Silence::default();
        (0..100).for_each(|_| alone.moment(1, 1, 1));
        (0..100).for_each(|_| alone.moment(0, 0, 1));
        assert_eq!(alone.phi(), 0.0);
        alone.forgive();
        assert_eq!(alone.phi(), 0.0);
    }
}
