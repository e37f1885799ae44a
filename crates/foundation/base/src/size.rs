//! Sizes as people read them, in the forms Docker prints.

const BINARY_UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
const DECIMAL_UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// Four significant digits in the fewest characters, as `%.4g` writes them.
fn four_digits(number: f64, digits: usize) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let exponent = number.abs().log10().floor() as i32;
    let decimals = usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0);
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn scale(bytes: f64, base: f64, units: &[&'static str], digits: usize) -> String {
    let mut size = bytes;
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", four_digits(size, digits), units[unit])
}

/// `77.9MB`: powers of 1,000 and three digits, as image sizes are shown.
pub fn human_size(bytes: f64) -> String {
    scale(bytes, 1000.0, &DECIMAL_UNITS, 3)
}

/// `391.6MB`: as [`human_size`] with four digits, as sizes in `system df` are shown.
pub fn precise_size(bytes: f64) -> String {
    scale(bytes, 1000.0, &DECIMAL_UNITS, 4)
}

/// `13.03MiB`: powers of 1,024 and four digits, as memory is shown.
pub fn binary_size(bytes: f64) -> String {
    scale(bytes, 1024.0, &BINARY_UNITS, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_docker_prints_them() {
        assert_eq!(human_size(0.0), "0B");
        assert_eq!(human_size(999.0), "999B");
        assert_eq!(human_size(4_261_502.0), "4.26MB");
        assert_eq!(human_size(77_900_000.0), "77.9MB");
        assert_eq!(human_size(117_000_000_000.0), "117GB");
        assert_eq!(precise_size(1_048_576.0), "1.049MB");
        assert_eq!(binary_size(8_342_077_440.0), "7.769GiB");
        assert_eq!(binary_size(1024.0), "1KiB");
    }
}
