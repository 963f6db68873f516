//! The usage text, laid out as Go's `flag` package does.

use crate::flag::{Flag, Kind};

/// `Usage of <program>:` and two lines per flag, in alphabetical order as the table has them.
pub(crate) fn render(program: &str, flags: &[Flag]) -> String {
    let mut out = format!("Usage of {program}:\n");
    for flag in flags {
        let (type_name, help) = type_and_help(flag);
        let mut entry = format!("  -{}", flag.name);
        if !type_name.is_empty() {
            entry = format!("{entry} {type_name}");
        }
        // A one-letter boolean leaves room for its help on the same line.
        entry.push_str(if entry.len() <= 4 { "\t" } else { "\n    \t" });
        entry.push_str(&help.replace('\n', "\n    \t"));
        let default = match flag.default_text {
            Some(text) => Some(text.to_owned()),
            None => flag.default.to_usage_default(),
        };
        if let Some(default) = default.filter(|text| !text.is_empty()) {
            entry = format!("{entry} (default {default})");
        }
        out.push_str(&entry);
        out.push('\n');
    }
    out
}

/// The type as shown, and the help. A word in backquotes in the help names the type.
fn type_and_help(flag: &Flag) -> (String, String) {
    if let Some((before, rest)) = flag.help.split_once('`')
        && let Some((name, after)) = rest.split_once('`')
    {
        return (name.to_owned(), format!("{before}{name}{after}"));
    }
    let name = match flag.kind {
        Kind::Bool => "",
        Kind::Int => "int",
        Kind::Float => "float",
        Kind::Duration => "duration",
        Kind::Text => "string",
        Kind::List | Kind::Floats => "value",
        Kind::Custom(custom) => custom.type_name,
    };
    (name.to_owned(), flag.help.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_go() {
        let flags = [
            Flag::duration("a-time", "1m", "some time"),
            Flag::bool("b", true, "short"),
            Flag::list("c-list", "a list\nof things"),
            Flag::text("d-prefix", "[nsqd] ", "log message prefix"),
            crate::log_level_flag(),
            Flag::int("rotate-size", 0, "bigger than `rotate-size` bytes"),
            Flag::float("sample", 1.0, "share"),
        ];
        let expected = "Usage of nsqd:\n\
            \x20 -a-time duration\n    \tsome time (default 1m0s)\n\
            \x20 -b\tshort (default true)\n\
            \x20 -c-list value\n    \ta list\n    \tof things\n\
            \x20 -d-prefix string\n    \tlog message prefix (default \"[nsqd] \")\n\
            \x20 -log-level value\n    \t\
            set log verbosity: debug, info, warn, error, or fatal (default INFO)\n\
            \x20 -rotate-size rotate-size\n    \tbigger than rotate-size bytes\n\
            \x20 -sample float\n    \tshare (default 1)\n";
        assert_eq!(render("nsqd", &flags), expected);
    }
}
