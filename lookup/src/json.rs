//! JSON as Go writes it: `<`, `>`, `&` and the two line separators of Unicode are escaped.

use serde::Serialize;

/// The JSON of a value.
///
/// # Panics
/// When the value cannot be written as JSON, such as a map with keys that are no text.
pub fn to_string(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain values are always JSON");
    let is_special = |letter| matches!(letter, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    if !text.contains(is_special) {
        return text;
    }
    // They can stand nowhere but in strings.
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_special(letter) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::to_string;

    #[test]
    fn what_html_would_trip_over_is_escaped() {
        assert_eq!(
            to_string(&"a<b>&\u{2028}\"\n"),
            r#""a\u003cb\u003e\u0026\u2028\"\n""#
        );
        assert_eq!(to_string(&["x", "ü"]), r#"["x","ü"]"#);
    }
}
