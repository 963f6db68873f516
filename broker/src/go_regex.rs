//! Regular expressions as Go's `regexp` reads them (RE2 syntax), for the `regex` crate.
//!
//! The two agree on nearly everything. Where they differ the text is rewritten: `\Q…\E` is literal,
//! a `{` that begins no repetition is literal, and inside of a class `[`, `&` and `~` are no
//! operators. What only the other accepts is left as it is.

/// The same pattern for the `regex` crate.
pub(crate) fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '\\' => escape(rest, &mut out),
            '[' => class(rest, &mut out),
            '{' if repetition(rest).is_none() => {
                out.push_str("\\{");
                1
            }
            _ => copy(rest, next.len_utf8(), &mut out),
        };
        rest = &rest[taken..];
    }
    out
}

fn copy(text: &str, length: usize, out: &mut String) -> usize {
    out.push_str(&text[..length]);
    length
}

/// What begins with a backslash; how long it is.
fn escape(text: &str, out: &mut String) -> usize {
    if let Some(quoted) = text.strip_prefix("\\Q") {
        let end = quoted.find("\\E");
        out.push_str(&regex::escape(&quoted[..end.unwrap_or(quoted.len())]));
        return end.map_or(text.len(), |end| end + 4);
    }
    let second = text[1..].chars().next().map_or(0, char::len_utf8);
    copy(text, 1 + second, out)
}

/// The length of `{n}`, `{n,}` or `{n,m}`.
fn repetition(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let inside = &text[1..end];
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!low.is_empty() && digits(low) && digits(high)).then_some(end + 1)
}

/// A class in brackets; how long it is.
fn class(text: &str, out: &mut String) -> usize {
    let mut at = copy(text, 1, out);
    if text[at..].starts_with('^') {
        at += copy(&text[at..], 1, out);
    }
    let mut is_first = true;
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let named = rest.strip_prefix("[:").and_then(|name| name.find(":]"));
        at += match next {
            ']' if !is_first => return at + copy(rest, 1, out),
            '\\' => escape(rest, out),
            '[' if named.is_some() => copy(rest, named.unwrap_or_default() + 4, out),
            ']' | '[' | '&' | '~' => {
                out.push('\\');
                copy(rest, 1, out)
            }
            _ => copy(rest, next.len_utf8(), out),
        };
        is_first = false;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::translate;
    use regex::Regex;

    #[test]
    fn what_both_read_alike_is_not_touched() {
        for pattern in [
            "",
            "^orders\\.(eu|us)$",
            "(?i)a{2,3}b{4}c{5,}",
            "[a-z_\\]-]+\\d\\pL[[:alpha:]x][^\\w]",
            "(?P<name>x)?",
        ] {
            assert_eq!(translate(pattern), pattern);
            Regex::new(&translate(pattern)).unwrap();
        }
    }

    #[test]
    fn what_only_go_reads_so_is_rewritten() {
        for (pattern, matching, other) in [
            ("^\\Qa.b*\\Ec$", "a.b*c", "aXbbc"),
            ("^\\Q(", "(x", "x"),
            ("^x{,2}$", "x{,2}", "xx"),
            ("^{$", "{", ""),
            ("^[a&&b]$", "&", "c"),
            ("^[[a]$", "[", "b"),
            ("^[]a]$", "]", "b"),
            ("^[^]a]$", "b", "]"),
            ("^[a~~b]$", "~", "c"),
        ] {
            let regex = Regex::new(&translate(pattern)).unwrap();
            assert!(regex.is_match(matching), "{pattern} on {matching}");
            assert!(!regex.is_match(other), "{pattern} on {other}");
        }
    }

    #[test]
    fn what_is_broken_stays_broken() {
        for pattern in ["(", "*", "[a", "a\\", "x{3,1}", "[z-a]"] {
            assert!(Regex::new(&translate(pattern)).is_err(), "{pattern}");
        }
    }
}
