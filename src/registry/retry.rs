//! When is it worth trying again, and after how long?
//!
//! Statuses that mean "not now" and broken connections are; refusals are not. The waiting doubles, with jitter so
//! that a thousand jobs started together do not come back together; a server's `Retry-After` is honoured up to a limit.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::log::info;
use crate::sys::signal;

/// Retries while nobody has answered yet: a wrong name or port is more likely than a server that is starting.
const STRANGERS: u32 = 2;

/// How patient we are. The default is for people; tests use shorter times.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Tries in addition to the first.
    pub retries: u32,
    /// Wait before the first retry; doubles each time.
    pub base: Duration,
    /// Longest wait of our own.
    pub ceiling: Duration,
    /// Longest wait that a server can ask for.
    pub server_ceiling: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            retries: 5,
            base: Duration::from_secs(1),
            ceiling: Duration::from_secs(60),
            server_ceiling: Duration::from_secs(600),
        }
    }
}

impl Policy {
    /// Wait before retry number `n` (from 1). `asked` is the server's `Retry-After`.
    pub fn wait(&self, n: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.base.saturating_mul(1 << n.saturating_sub(1).min(16)).min(self.ceiling);
        let own = doubled.mul_f64(0.75 + 0.5 * chance());
        match asked {
            // A server that says "at once" while it refuses gets our own patience.
            Some(asked) => asked.min(self.server_ceiling).max(own.min(doubled)),
            None => own,
        }
    }

    /// The same patience with somebody who has never answered.
    pub fn with_stranger(&self) -> Policy {
        Policy { retries: self.retries.min(STRANGERS), ..self.clone() }
    }

    /// After failure number `n`: waits and says so, or gives up, also when the program is asked to stop.
    pub fn again(&self, n: u32, asked: Option<Duration>, why: Error) -> Result<(), Error> {
        if n > self.retries {
            return Err(why.context(format!("gave up after {n} tries")));
        }
        self.pause(n, asked, &why)
    }

    /// Waits before retry number `n`, and says so. An error if the program is asked to stop.
    pub fn pause(&self, n: u32, asked: Option<Duration>, why: &Error) -> Result<(), Error> {
        signal::check()?;
        let wait = self.wait(n, asked);
        info!("{why}; trying again in {:.1} s (try {} of {})", wait.as_secs_f64(), n + 1, self.retries + 1);
        Ok(signal::sleep(wait)?)
    }
}

/// Statuses that may pass (RFC 9110; 499 and 522 are proxies').
pub fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3). `None` for garbage and for the past.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let then = UNIX_EPOCH + Duration::from_secs(http_date(value)?);
    then.duration_since(now).ok().filter(|d| !d.is_zero())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970. The two obsolete forms are not read: nobody sends them.
pub(super) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let number = |s: &str| s.parse::<u64>().ok().filter(|_| s.len() <= 4 && s.bytes().all(|b| b.is_ascii_digit()));
    let (day, year) = (number(day)?, number(year)?);
    let month = MONTHS.iter().position(|&m| m == month)? as u64 + 1;
    let clock: Vec<u64> = time.split(':').map(number).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 of a civil date: years begin in March so that the leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// From 0 up to 1; different in each process and at each call, which is all that jitter needs.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(SystemTime::now());
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_limits() {
        let policy = Policy::default();
        let check = |n: u32, asked: Option<u64>, low: f64, high: f64| {
            for _ in 0..50 {
                let wait = policy.wait(n, asked.map(Duration::from_secs)).as_secs_f64();
                assert!((low..=high).contains(&wait), "{n} {asked:?}: {wait}");
            }
        };
        check(1, None, 0.75, 1.25);
        check(3, None, 3.0, 5.0);
        check(9, None, 45.0, 75.0);
        check(u32::MAX, None, 45.0, 75.0);
        check(1, Some(30), 30.0, 30.0);
        check(1, Some(0), 0.75, 1.0);
        check(1, Some(1_000_000_000), 600.0, 600.0);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        let check = |value: &str, want: Option<u64>| {
            assert_eq!(retry_after(value, now), want.map(Duration::from_secs), "{value:?}")
        };
        check("120", Some(120));
        check(" 7 ", Some(7));
        check("99999999999999999999", Some(u64::MAX));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(77));
        check("Sun, 06 Nov 1994 08:00:00 GMT", None);
        check("Thu, 29 Feb 1996 00:00:00 GMT", Some(825_552_000 - 784_111_700));
        check("Sun, 06 Nov 19940 08:49:37 GMT", None);
        check("soon", None);
        check("-5", None);
        check("1.5", None);
        check("", None);
    }
}
