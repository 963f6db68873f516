//! Numbers, booleans and durations as Go's standard library reads and writes them.
//!
//! Users have them in scripts and files; every form that Go takes is taken, every other refused.
//! Durations are signed nanoseconds in an `i64`, which is what a Go duration is.

/// Why a number was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not written as such a number.
    #[error("invalid syntax")]
    Syntax,
    /// Too large for 64 bits.
    #[error("value out of range")]
    Range,
}

/// Reads an integer. Radix 0 means "as the prefix says": `0x`, `0o`, `0b`, a leading `0` for
/// octal, else decimal, with underscores between digits; radix 10 means plain decimal.
///
/// # Errors
/// See [`NumberError`].
pub fn parse_int(text: &str, radix: u32) -> Result<i64, NumberError> {
    let (negative, unsigned) = split_sign(text);
    let (radix, digits) = match radix {
        0 => {
            let (radix, digits) = split_radix(unsigned)?;
            (radix, digits.replace('_', ""))
        }
        radix => (radix, unsigned.to_owned()),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    let magnitude = u64::from_str_radix(&digits, radix).map_err(|_| NumberError::Range)?;
    let value = if negative {
        -i128::from(magnitude)
    } else {
        i128::from(magnitude)
    };
    i64::try_from(value).map_err(|_| NumberError::Range)
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// Splits off the radix prefix and checks that underscores stand only between digits, where the
/// prefix counts as a digit.
fn split_radix(text: &str) -> Result<(u32, &str), NumberError> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &text[2..]),
        Some("0o") => (8, &text[2..]),
        Some("0b") => (2, &text[2..]),
        _ if text.len() > 1 && text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    };
    let prefixed = digits.len() < text.len();
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !prefixed);
    if misplaced {
        Err(NumberError::Syntax)
    } else {
        Ok((radix, digits))
    }
}

/// Reads a floating point number.
///
/// # Errors
/// [`NumberError::Syntax`] when it is none, [`NumberError::Range`] when it is too large.
pub fn parse_float(text: &str) -> Result<f64, NumberError> {
    let value: f64 = text.parse().map_err(|_| NumberError::Syntax)?;
    let spelled_out = text
        .bytes()
        .any(|byte| byte.is_ascii_alphabetic() && !b"eE".contains(&byte));
    if value.is_infinite() && !spelled_out {
        Err(NumberError::Range)
    } else {
        Ok(value)
    }
}

/// Reads `1 t T true TRUE True` and `0 f F false FALSE False`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

fn unit_nanos(unit: &str) -> Option<u64> {
    match unit {
        "ns" => Some(1),
        // Micro sign and Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(MICROSECOND),
        "ms" => Some(MILLISECOND),
        "s" => Some(SECOND),
        "m" => Some(MINUTE),
        "h" => Some(HOUR),
        _ => None,
    }
}

/// Reads a duration such as `300ms`, `-1.5h`, `2h45m` or `0`, in nanoseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = split_sign(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        total = total.checked_add(scale(number, unit_nanos(unit)?)?)?;
        rest = tail;
    }
    let total = i128::try_from(total).ok()?;
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A decimal number times a unit, cut to whole nanoseconds.
fn scale(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(u128::from(unit))?;
    // No unit has more than 13 digits in nanoseconds, so later ones cannot matter.
    let digits = &fraction[..fraction.len().min(18)];
    if !digits.is_empty() {
        let power = 10u128.pow(u32::try_from(digits.len()).expect("at most 18"));
        nanos += digits.parse::<u128>().ok()? * u128::from(unit) / power;
    }
    Some(nanos)
}

/// Writes a duration as Go does: `1m0s`, `250ms`, `1.5s`, `0s`.
#[must_use]
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    match nanos {
        0 => "0s".to_owned(),
        1..MICROSECOND => format!("{sign}{nanos}ns"),
        MICROSECOND..MILLISECOND => format!("{sign}{}µs", decimal(nanos, MICROSECOND)),
        MILLISECOND..SECOND => format!("{sign}{}ms", decimal(nanos, MILLISECOND)),
        _ => {
            let (hours, minutes) = (nanos / HOUR, nanos % HOUR / MINUTE);
            let seconds = decimal(nanos % MINUTE, SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `nanos / unit` with as many decimals as needed. `unit` is a power of ten.
fn decimal(nanos: u64, unit: u64) -> String {
    let (whole, fraction) = (nanos / unit, nanos % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(unit.ilog10()).expect("a small number");
    format!(
        "{whole}.{}",
        format!("{fraction:0width$}").trim_end_matches('0')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_their_prefix() {
        let good = [
            ("0", 0),
            ("617", 617),
            ("-1", -1),
            ("+5", 5),
            ("0x10", 16),
            ("0X1f", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("010", 8),
            ("1_0", 10),
            ("0x_1", 1),
            ("0_7", 7),
            ("-0x8000000000000000", i64::MIN),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, expected) in good {
            assert_eq!(parse_int(text, 0), Ok(expected), "{text}");
        }
        for text in [
            "", "-", "abc", "08", "1.5", "1e3", "_1", "1_", "1__0", "0x", "0b2", "--1", " 1",
        ] {
            assert_eq!(parse_int(text, 0), Err(NumberError::Syntax), "{text:?}");
        }
        for text in [
            "9223372036854775808",
            "99999999999999999999",
            "-9223372036854775809",
        ] {
            assert_eq!(parse_int(text, 0), Err(NumberError::Range), "{text}");
        }
    }

    #[test]
    fn decimal_integers_take_no_prefix() {
        assert_eq!(parse_int("010", 10), Ok(10));
        for text in ["0x10", "1_0", "", "+", "-+1"] {
            assert_eq!(parse_int(text, 10), Err(NumberError::Syntax), "{text}");
        }
    }

    #[test]
    fn durations_need_units() {
        let good = [
            ("0", 0),
            ("+0", 0),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            ("2h45m", 9_900_000_000_000),
            ("-1s", -1_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("7ns", 7),
            ("50us", 50_000),
            ("50\u{b5}s", 50_000),
            ("50\u{3bc}s", 50_000),
            ("1.0000000001s", 1_000_000_000),
            ("0.000000000000000000000000000001h", 0),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ];
        for (text, expected) in good {
            assert_eq!(parse_duration(text), Some(expected), "{text}");
        }
        let bad = [
            "",
            "-",
            "5",
            "1",
            "5 s",
            "s",
            ".s",
            "1d",
            "1..5s",
            "1h5",
            "abc",
            "1S",
            "9223372036854775808ns",
        ];
        for text in bad {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (7, "7ns"),
            (50_000, "50µs"),
            (1_500, "1.5µs"),
            (25_000_000, "25ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (900_000_000_000, "15m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (-90_500_000_000, "-1m30.5s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(format_duration(nanos), expected);
            assert_eq!(parse_duration(expected), Some(nanos), "{expected}");
        }
    }

    #[test]
    fn booleans_are_twelve_words() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Some(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Some(false));
        }
        for text in ["", "yes", "no", "tRUE", "2", "on"] {
            assert_eq!(parse_bool(text), None);
        }
    }

    #[test]
    fn floats_may_have_exponents() {
        assert_eq!(parse_float("0.99"), Ok(0.99));
        assert_eq!(parse_float("1e-2"), Ok(0.01));
        assert_eq!(parse_float("abc"), Err(NumberError::Syntax));
        assert_eq!(parse_float(""), Err(NumberError::Syntax));
        assert_eq!(parse_float("1e999"), Err(NumberError::Range));
    }
}
