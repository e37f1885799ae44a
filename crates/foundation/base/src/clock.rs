//! Wall-clock time as Docker and OCI write it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// A moment in UTC with nanosecond precision, written in RFC 3339 form (`2026-01-02T03:04:05.000000006Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Docker's "never": `0001-01-01T00:00:00Z`, what an unset Go time prints.
    pub const ZERO: &'static str = "0001-01-01T00:00:00Z";

    /// The present moment by the system's real-time clock.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// Reads a time of which the end may be left out: `2026-01-02`, `2026-01-02T03:04`; in UTC where no zone is given.
    pub fn parse_partial(text: &str) -> Result<Self, jiff::Error> {
        let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
        let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
        let (clock, zone) = time.split_at(zone_at);
        let rest = match clock.matches(':').count() {
            0 => ":00:00",
            1 => ":00",
            _ => "",
        };
        format!("{date}T{clock}{rest}{}", if zone.is_empty() { "Z" } else { zone }).parse()
    }

    /// Nanoseconds since the Unix epoch, negative before it.
    pub fn as_nanosecond(self) -> i128 {
        self.0.as_nanosecond()
    }

    /// Whole seconds since the Unix epoch, negative before it.
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// The moment `seconds` and `nanoseconds` after the Unix epoch; clamped to the years -9999 to 9999.
    pub fn from_parts(seconds: i64, nanoseconds: i32) -> Self {
        let fallback = if seconds < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        };
        Self(jiff::Timestamp::new(seconds, nanoseconds).unwrap_or(fallback))
    }

    /// How long ago this moment was; zero when it lies in the future.
    pub fn elapsed(self) -> Duration {
        let nanoseconds = Self::now().as_nanosecond() - self.as_nanosecond();
        Duration::from_nanos(u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }
}

impl fmt::Display for Timestamp {
    /// Nine fractional digits always, so that lines of a log have one width.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_keep_nanoseconds_through_text() {
        let text = "2026-01-02T03:04:05.000000006Z";
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.to_string(), text);
        assert_eq!(time.as_nanosecond() % 1_000_000_000, 6);
    }

    #[test]
    fn the_end_of_a_time_may_be_left_out() {
        for text in [
            "2026-01-02",
            "2026-01-02T00",
            "2026-01-02T00:00",
            "2026-01-02T01:00+01:00",
        ] {
            let time = Timestamp::parse_partial(text).unwrap();
            assert_eq!(time, "2026-01-02T00:00:00Z".parse().unwrap(), "{text}");
        }
        assert!(Timestamp::parse_partial("yesterday").is_err());
    }

    #[test]
    fn out_of_range_parts_are_clamped() {
        assert!(Timestamp::from_parts(i64::MIN, 0) < Timestamp::from_parts(0, 0));
        assert!(Timestamp::from_parts(i64::MAX, 0) > Timestamp::from_parts(0, 0));
    }
}
