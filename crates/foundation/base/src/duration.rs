//! Durations as Go reads them, which is how Docker's clients, files and labels write them: `300ms`, `1.5s`, `1h30m`.

/// Why a text is no duration, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
}

/// Reads a signed sum of numbers with units, in nanoseconds. What an `i64` does not hold, some 292 years, is refused, as
/// Go does.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    // Of twice the width, so that no sum of what is checked below can be too large for it.
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_at(rest, |character| !character.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_at(after, |character| !character.is_ascii_digit()),
            None => ("", after),
        };
        let (unit, after) = split_at(after, |character| character.is_ascii_digit() || character == '.');
        let scale = match unit {
            _ if whole.is_empty() && fraction.is_empty() => return Err(invalid()),
            "" => return Err(DurationError::MissingUnit(text.to_owned())),
            unit => nanoseconds_of(unit).ok_or_else(|| DurationError::UnknownUnit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            })?,
        };
        total += scaled(whole, fraction, scale).ok_or_else(invalid)?;
        rest = after;
    }
    let signed = if is_negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

fn split_at(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

fn nanoseconds_of(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Digits after the point that an hour's nanoseconds can depend on, with some to spare.
const FRACTION_DIGITS_MAX: usize = 15;

/// `1.5` of a unit, what is below a nanosecond left out.
fn scaled(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    // Texts of digits, of which the empty one stands for nothing.
    let number = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<u64>().ok().map(i128::from)
        }
    };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
    let part = number(fraction)? * scale / 10_i128.pow(fraction.len() as u32);
    let nanoseconds = number(whole)? * scale + part;
    (nanoseconds <= i128::from(i64::MAX) + 1).then_some(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("+300ms", 300_000_000),
            ("1µs2μs3us", 6_000),
            ("1.0000000000000000000009ns", 1),
            ("0.000000000001h", 3),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_in_gos_words() {
        for (text, words) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("1.2.3s", "time: missing unit in duration \"1.2.3s\""),
            ("s", "time: invalid duration \"s\""),
            ("1-2s", "time: unknown unit \"-\" in duration \"1-2s\""),
            ("10", "time: missing unit in duration \"10\""),
            (
                "5 minutes",
                "time: unknown unit \" minutes\" in duration \"5 minutes\"",
            ),
            ("3000000h", "time: invalid duration \"3000000h\""),
            (
                "9223372036854775808ns",
                "time: invalid duration \"9223372036854775808ns\"",
            ),
            (
                "99999999999999999999s",
                "time: invalid duration \"99999999999999999999s\"",
            ),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), words);
        }
    }
}
