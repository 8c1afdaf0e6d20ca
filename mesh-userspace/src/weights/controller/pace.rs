//! How slow a backend is, and how slow it is by itself, from what was seen of it under whatever load there was.

/// A smoothed latency, and a low one: what falls below that pulls it down soon, what is above lifts it over minutes. The smallest single check would say little
/// where what it asks for takes a time that varies, for two backends of the same speed would differ by how lucky their luckiest check was.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Smoothed logarithm, and one that is smoothed less: who can't keep up has to be known in seconds.
    pub level: f64,
    pub sudden: f64,
    /// Logarithm of the unloaded latency.
    pub unloaded: f64,
    /// Smoothed more: what it was some time ago.
    before: f64,
    /// Mean square of what is smoothed away.
    scatter: f64,
    steps: f64,
    checks: f64,
}

/// So many checks say something of the unloaded latency together.
const ENOUGH: f64 = 8.0;
/// Parts of the difference that a value below it, and one above it, move it by.
const DOWN: f64 = 0.3;
const UP: f64 = 0.002;
/// What was before is an average over so many times the time.
const LONGER: f64 = 4.0;
/// Weight of the newest observation in what is sudden.
const SUDDEN: f64 = 0.5;
/// These weights are those of so many checks or more; fewer have less, so that one check calls nobody overloaded.
const MANY: f64 = 4.0;
/// Beyond that it is no noise.
const MOST_NOISE: f64 = 0.5;

impl Pace {
    /// Takes in the logarithm of a mean of so many checks; `part`: the weight of the newest.
    pub fn take(&mut self, value: f64, checks: f64, part: f64) {
        (self.steps, self.checks) = (self.steps + 1.0, self.checks + checks);
        let (off, weight) = (value - self.level, (checks / MANY).min(1.0));
        if self.steps > 1.0 {
            self.scatter += part.max(1.0 / (self.steps - 1.0)) * (off * off - self.scatter);
        }
        self.level += part.max(1.0 / self.steps) * off;
        self.before += (part / LONGER).max(1.0 / self.steps) * (value - self.before);
        self.sudden += (SUDDEN * weight).max(1.0 / self.steps) * (value - self.sudden);
        let above = value - self.unloaded;
        self.unloaded = if self.checks < ENOUGH || self.steps == 1.0 {
            self.level
        } else {
            self.unloaded + above * if above < 0.0 { DOWN } else { UP }
        };
    }

    /// How much the smoothed logarithm has changed over half a minute or so.
    pub fn trend(&self) -> f64 {
        if self.checks < ENOUGH { 0.0 } else { self.level - self.before }
    }

    /// Something was taken in.
    pub fn is_known(&self) -> bool {
        self.steps > 0.0
    }

    /// How far the smoothed value is off by chance: its standard error.
    pub fn noise(&self, part: f64) -> f64 {
        (self.scatter * part / (2.0 - part)).sqrt().min(MOST_NOISE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pace: &mut Pace, values: &[f64]) {
        values.iter().for_each(|v| pace.take(v.ln(), 1.0, 0.15));
    }

    #[test]
    fn what_was_seen_without_load_holds_for_minutes() {
        let mut pace = Pace::default();
        take(&mut pace, &[0.010; 20]);
        take(&mut pace, &[0.500; 60]);
        assert!(pace.unloaded.exp() < 0.020 && pace.level.exp() > 0.4, "{pace:?}");
        take(&mut pace, &[0.500; 1800]);
        assert!(pace.unloaded.exp() > 0.4, "{pace:?}");
        take(&mut pace, &[0.020; 150]);
        assert!((pace.unloaded.exp() - 0.020).abs() < 0.002, "{pace:?}");
    }

    #[test]
    fn what_rises_and_what_falls_is_known() {
        let mut pace = Pace::default();
        take(&mut pace, &[0.010; 30]);
        assert!(pace.trend().abs() < 1e-9);
        let rising: Vec<f64> = (1..=20).map(|n| 0.010 * f64::from(n)).collect();
        take(&mut pace, &rising);
        assert!(pace.trend() > 0.5, "{pace:?}");
        take(&mut pace, &[0.200; 100]);
        assert!(pace.trend().abs() < 0.1, "{pace:?}");
        take(&mut pace, &[0.050; 6]);
        assert!(pace.trend() < -0.4, "{pace:?}");
    }

    #[test]
    fn one_lucky_check_is_no_speed_and_one_late_answer_nothing_sudden() {
        let mut pace = Pace::default();
        take(&mut pace, &[0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01]);
        let before = pace.unloaded;
        take(&mut pace, &[0.0001]);
        assert!(before - pace.unloaded < 1.5, "{pace:?}");
        take(&mut pace, &[0.02; 10]);
        let before = pace.sudden;
        take(&mut pace, &[0.2]);
        assert!(pace.sudden - before < 0.4, "{pace:?}");
        take(&mut pace, &[0.2; 12]);
        assert!(pace.sudden - before > 1.5, "{pace:?}");
    }
}
