//! Sizes and times as people read and write them, in the forms Docker prints and accepts. Pure.

pub use naru_base::size::{binary_size, human_size, precise_size};
use naru_base::{Timestamp, parse_duration};

/// Reads `64m`, `1.5GiB`, `1024`: powers of 1,024.
pub fn parse_ram_bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let power = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        "p" | "pb" | "pi" | "pib" => 5,
        _ => return Err(invalid()),
    };
    Ok((number * 1024_f64.powi(power)) as i64)
}

/// Reads `1.5` processors as billionths.
pub fn parse_nano_cpus(text: &str) -> Result<i64, String> {
    let invalid = || format!("Failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text == "." || !is_number(whole) || !is_number(fraction) {
        return Err(invalid());
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| invalid())?
    };
    let fraction = format!("{fraction:0<9.9}");
    let nano: i64 = fraction.parse().map_err(|_| invalid())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|number| number.checked_add(nano))
        .ok_or_else(invalid)
}

/// `About an hour`, `3 weeks`: a duration in seconds as listings show it.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0).round() as i64;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago a moment (seconds since the epoch) was.
pub fn human_age(created_at: i64) -> String {
    format!(
        "{} ago",
        human_duration(Timestamp::now().as_second() - created_at)
    )
}

/// A `--since` or `--until`: a duration before now, a time in RFC 3339 form or a part of it, or seconds since the
/// epoch; given as seconds with nanoseconds after a point.
pub fn parse_moment(text: &str) -> Result<String, String> {
    if let Ok(nanoseconds) = parse_duration(text) {
        let moment = Timestamp::now().as_nanosecond() - i128::from(nanoseconds);
        return Ok(seconds_text(moment));
    }
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if is_number(whole) && is_number(fraction) {
        return Ok(text.to_owned());
    }
    let time = Timestamp::parse_partial(text)
        .map_err(|_| format!("failed to parse value as time or duration: {text:?}"))?;
    Ok(seconds_text(time.as_nanosecond()))
}

fn seconds_text(nanoseconds: i128) -> String {
    format!(
        "{}.{:09}",
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        assert_eq!(parse_ram_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_ram_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_ram_bytes("12"), Ok(12));
        assert_eq!(parse_ram_bytes("2 kb"), Ok(2048));
        for text in ["", "m", "1x", "-1", "1.2.3"] {
            assert!(parse_ram_bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn processors_are_exact_fractions() {
        assert_eq!(parse_nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(parse_nano_cpus("2"), Ok(2_000_000_000));
        for text in ["", "x", "1.2.3", "-1", "0.1234567891"] {
            assert!(parse_nano_cpus(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ages_read_as_docker_prints_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (2 * 365 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn moments_are_durations_times_or_seconds() {
        assert_eq!(parse_moment("1700000000").unwrap(), "1700000000");
        assert_eq!(
            parse_moment("2023-11-14T22:13:20Z").unwrap(),
            "1700000000.000000000"
        );
        assert_eq!(parse_moment("2023-11-15").unwrap(), "1700006400.000000000");
        assert!(parse_moment("10m").unwrap().contains('.'));
        assert!(parse_moment("yesterday").is_err());
    }
}
