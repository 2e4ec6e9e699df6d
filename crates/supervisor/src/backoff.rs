//! How long to wait before a task is begun again.

use std::time::Duration;

/// Bounded exponential back-off with jitter: the nth failure in a row waits between half and all of `first × 2ⁿ`, and
/// never more than `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    calm: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 30 s; begins anew after a calm minute.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

impl Backoff {
    /// From `first` (1 ms at least: a task that fails at once must not spin) to `max` (`first` at least). A run of
    /// twice `max` without failure makes the next failure the first again.
    pub fn new(first: Duration, max: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        let max = max.max(first);
        Self { first, max, calm: max.saturating_mul(2) }
    }

    /// How long a run must last for the next failure to count as the first.
    #[must_use]
    pub fn calm_after(mut self, calm: Duration) -> Self {
        self.calm = calm;
        self
    }

    pub(crate) fn calm(&self) -> Duration {
        self.calm
    }

    /// The delay after the failure number `failures` in a row (from 0). The same `seed` gives the same delay.
    pub fn delay(&self, failures: u32, seed: u64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
        let full = doubled.min(self.max);
        full.mul_f64(0.5 + 0.5 * unit(seed ^ u64::from(failures).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// A number in [0, 1) from a seed: the last step of SplitMix64 (Steele, Lea, Flood 2014), which spreads neighbouring
/// seeds evenly.
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // 53 bits: what a double holds exactly.
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_within_bounds() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for seed in 0..1000 {
            for failures in 0..100 {
                let full = Duration::from_millis(100 * (1 << failures.min(20))).min(Duration::from_secs(10));
                let delay = backoff.delay(failures, seed);
                assert!(delay >= full / 2 && delay <= full, "{failures} {seed}: {delay:?} of {full:?}");
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let backoff = Backoff::default();
        let delays = |seed| (0..8).map(|n| backoff.delay(n, seed)).collect::<Vec<_>>();
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
        let mean = (0..1000).map(unit).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn never_spins() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(backoff.delay(0, 1) >= Duration::from_micros(500));
        assert!(Backoff::new(Duration::MAX, Duration::MAX).delay(40, 3) <= Duration::MAX);
    }
}
