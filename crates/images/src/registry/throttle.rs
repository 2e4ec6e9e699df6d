//! Slows down who guesses passwords: after some that were wrong, the same client has to wait before the next for the same
//! name, longer each time. Others are not held up, and a password that is right ends it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Wrong passwords in a row that cost no wait.
const FREE: u32 = 10;
/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// After so long without another they are forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// Clients and names that are remembered.
const MOST: usize = 4096;

/// What is remembered.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<(IpAddr, String), Failures>>);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self) -> Duration {
        match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(more) => FIRST.saturating_mul(1 << more.min(16)).min(LONGEST),
        }
    }
}

impl Throttle {
    /// How long this client has to wait before its next attempt at this name; zero if it need not.
    pub fn wait(&self, client: IpAddr, name: &str, now: Instant) -> Duration {
        let found = self.lock().get(&(network(client), name.to_owned())).copied();
        found.map_or(Duration::ZERO, |failures| (failures.last + failures.wait()).saturating_duration_since(now))
    }

    /// It was wrong.
    pub fn failed(&self, client: IpAddr, name: &str, now: Instant) {
        let mut all = self.lock();
        let is_over = |failures: &Failures| now.saturating_duration_since(failures.last) >= FORGET;
        if all.len() >= MOST {
            all.retain(|_, failures| !is_over(failures));
        }
        // Who comes with ever other names must not make forgotten what is slowed down.
        let mut least = 1;
        while all.len() >= MOST {
            all.retain(|_, failures| failures.count > least);
            least += 1;
        }
        let failures = all.entry((network(client), name.to_owned())).or_insert(Failures { count: 0, last: now });
        if is_over(failures) {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
    }

    /// It was right.
    pub fn worked(&self, client: IpAddr, name: &str) {
        let mut all = self.lock();
        if !all.is_empty() {
            all.remove(&(network(client), name.to_owned()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(IpAddr, String), Failures>> {
        // The map is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one client has: an address, or of IPv6 the 64 bits that are given out to one.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn waits_grow_and_end() {
        let throttle = Throttle::default();
        let (here, mut now) = (address("192.0.2.1"), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..16 {
            throttle.failed(here, "anna", now);
            let wait = throttle.wait(here, "anna", now);
            waits.push(wait.as_secs());
            now += wait;
            assert!(throttle.wait(here, "anna", now).is_zero());
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 10, 20, 40, 60, 60, 60]);
        throttle.failed(here, "anna", now);
        assert!(throttle.wait(here, "bert", now).is_zero(), "another name");
        assert!(throttle.wait(address("192.0.2.2"), "anna", now).is_zero(), "another client");
        throttle.failed(here, "anna", now + FORGET);
        assert!(throttle.wait(here, "anna", now + FORGET).is_zero(), "forgotten");
        (0..20).for_each(|_| throttle.failed(here, "anna", now));
        throttle.worked(here, "anna");
        assert!(throttle.wait(here, "anna", now).is_zero(), "forgiven");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        (0..20).for_each(|n| throttle.failed(address(&format!("2001:db8::{n:x}")), "anna", now));
        assert!(!throttle.wait(address("2001:db8::ffff"), "anna", now).is_zero());
        assert!(throttle.wait(address("2001:db8:0:1::1"), "anna", now).is_zero());
        (0..20).for_each(|_| throttle.failed(address("::ffff:192.0.2.1"), "anna", now));
        assert!(!throttle.wait(address("192.0.2.1"), "anna", now).is_zero());
    }

    #[test]
    fn other_names_make_nothing_forgotten() {
        let (throttle, here, now) = (Throttle::default(), address("192.0.2.1"), Instant::now());
        (0..20).for_each(|_| throttle.failed(here, "anna", now));
        for number in 0..3 * MOST {
            throttle.failed(here, &format!("n{number}"), now);
            assert!(throttle.lock().len() <= MOST);
        }
        assert!(!throttle.wait(here, "anna", now).is_zero());
    }
}
