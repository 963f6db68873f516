//! `--datetime-format`: a date in the words of strftime.

use jiff::Zoned;
use jiff::fmt::strtime;

/// The conversions that the reference knows; others are left as they are written.
const CONVERSIONS: &str = "YymdHIMSBbAapZz";

/// Writes the time in that format. What is not a conversion is kept as it is.
pub(super) fn format(format: &str, time: &Zoned) -> String {
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let conversion = rest[at + 1..].chars().next();
        let end = at + 1 + conversion.map_or(0, char::len_utf8);
        match conversion {
            Some('%') => out.push('%'),
            Some(known) if CONVERSIONS.contains(known) => {
                let text = strtime::format(&rest[at..end], time);
                out.push_str(&text.expect("a zoned time has every one of these fields"));
            }
            _ => out.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_the_references_and_literals_stay() {
        let time = jiff::civil::date(2026, 1, 2)
            .at(15, 4, 5, 0)
            .to_zoned(jiff::tz::TimeZone::UTC)
            .expect("exists");
        let rows = [
            ("%Y-%m-%d_%H", "2026-01-02_15"),
            ("%y %I %M %S", "26 03 04 05"),
            ("%B %b %A %a %p", "January Jan Friday Fri PM"),
            ("%Z %z", "UTC +0000"),
            ("%% %j %", "% %j %"),
            ("v1-MST-Jan-%Y", "v1-MST-Jan-2026"),
            ("%é%Y", "%é2026"),
            ("", ""),
        ];
        for (text, expected) in rows {
            assert_eq!(format(text, &time), expected);
        }
    }
}
