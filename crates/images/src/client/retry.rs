//! When a transfer is tried again, and after how long.

use jiff::Timestamp;
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};
use supervisor::Backoff;

/// How persistent a client is.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in a row without any progress before an operation fails; at least 1.
    pub attempts: u32,
    /// Time between them where the server asks for none.
    pub backoff: Backoff,
    /// The longest time a server may ask us to wait; above, the operation fails and says so.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts over about half a minute; up to two minutes where a server asks for it.
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
        Self { attempts: 6, backoff, longest: Duration::from_secs(120) }
    }
}

/// What is to be done after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Again, after this time.
    After(Duration),
    /// It has been tried often enough.
    Enough,
    /// The server wants us to wait for longer than we would.
    TooLong(Duration),
}

/// The failures of one operation in a row.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    /// Clients that fail together must not come back together.
    seed: u64,
    failures: u32,
}

impl Attempts {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, seed: RandomState::new().hash_one(0), failures: 0 }
    }

    /// Something was transferred: what fails next is the first failure again.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        self.failures
    }

    /// Counts a failure.
    pub(super) fn failed(&mut self, asked: Option<Duration>) -> Next {
        let own = self.policy.backoff.delay(self.failures, self.seed);
        self.failures = self.failures.saturating_add(1);
        match asked {
            _ if self.failures >= self.policy.attempts => Next::Enough,
            Some(asked) if asked > self.policy.longest => Next::TooLong(asked),
            // Jitter on top of what was asked for, never below it.
            Some(asked) => Next::After(asked.saturating_add(own.min(asked / 4))),
            None => Next::After(own),
        }
    }
}

/// Whether the server may answer otherwise later.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// What `Retry-After` asks for: seconds or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let then = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_after_so_many_attempts_without_progress() {
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let mut attempts = Attempts::new(policy);
        assert!(matches!(attempts.failed(None), Next::After(_)));
        assert!(matches!(attempts.failed(None), Next::After(_)));
        attempts.progressed();
        assert!(matches!(attempts.failed(None), Next::After(_)));
        assert!(matches!(attempts.failed(None), Next::After(_)));
        assert_eq!((attempts.failed(None), attempts.count()), (Next::Enough, 3));
    }

    #[test]
    fn waits_as_long_as_asked_and_not_much_longer() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        let Next::After(delay) = attempts.failed(Some(Duration::from_secs(4))) else { panic!("no retry") };
        assert!((Duration::from_secs(4)..=Duration::from_secs(5)).contains(&delay), "{delay:?}");
        assert_eq!(attempts.failed(Some(Duration::from_secs(3600))), Next::TooLong(Duration::from_secs(3600)));
    }

    #[test]
    fn both_forms_of_the_header() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for text in ["soon", "-1", "1.5"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn only_what_may_change_is_tried_again() {
        for status in [408u16, 429, 500, 502, 503, 504] {
            assert!(is_transient(StatusCode::from_u16(status).unwrap()));
        }
        for status in [200u16, 301, 400, 401, 403, 404, 416, 501] {
            assert!(!is_transient(StatusCode::from_u16(status).unwrap()));
        }
    }
}
