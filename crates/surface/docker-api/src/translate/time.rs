//! Times in queries.

use crate::error::{ApiError, ApiResult};
use naru_base::{Timestamp, parse_duration};

/// A Unix time with an optional fraction, a duration before now, or RFC 3339 of which the end may be left out.
pub fn parse_time(text: &str) -> ApiResult<Timestamp> {
    let invalid = || ApiError::invalid(format!("invalid value for time: {text:?}"));
    if text.contains('-')
        && let Ok(time) = Timestamp::parse_partial(text)
    {
        return Ok(time);
    }
    // `1h30m` counts back from now, `-1h30m` on; a bare 0 is the epoch.
    if text != "0"
        && let Ok(ago) = parse_duration(text)
    {
        let now = Timestamp::now().as_nanosecond() - i128::from(ago);
        return Ok(Timestamp::from_parts(
            (now / 1_000_000_000) as i64,
            (now % 1_000_000_000) as i32,
        ));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanoseconds = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    Ok(Timestamp::from_parts(
        seconds.parse().map_err(|_| invalid())?,
        nanoseconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_three_forms() {
        assert_eq!(
            parse_time("1700000000.5"),
            Ok(Timestamp::from_parts(1_700_000_000, 500_000_000))
        );
        assert_eq!(
            parse_time("1970-01-01T00:00:01Z"),
            Ok(Timestamp::from_parts(1, 0))
        );
        assert_eq!(parse_time("1970-01-02"), Ok(Timestamp::from_parts(86_400, 0)));
        let ago = Timestamp::now().as_second() - parse_time("1h30m").unwrap().as_second();
        assert!((5_399..=5_401).contains(&ago), "{ago}");
        for text in ["", "x", "1.x", "1.1234567890", "-", "99999999999999999999"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
