//! Operating system errors in the words of the Go programs, which scripts match on.

use std::io;

use nix::errno::Errno;

/// The reason alone, in lower case and without the number: `no such file or directory`.
#[must_use]
pub fn errno_text(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    let errno = Errno::from_raw(code);
    if errno == Errno::EAGAIN {
        return "resource temporarily unavailable".to_owned();
    }
    let text = errno.desc();
    let mut chars = text.chars();
    // Only the first letter: "I/O error" and the like keep theirs.
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_ascii_lowercase() => {
            first.to_ascii_lowercase().to_string() + &text[first.len_utf8()..]
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        let cases = [
            (Errno::ENOENT, "no such file or directory"),
            (Errno::EACCES, "permission denied"),
            (Errno::ENOTDIR, "not a directory"),
            (Errno::EADDRINUSE, "address already in use"),
            (Errno::EAGAIN, "resource temporarily unavailable"),
            (Errno::EIO, "I/O error"),
        ];
        for (errno, expected) in cases {
            let error = io::Error::from_raw_os_error(errno as i32);
            assert_eq!(errno_text(&error), expected);
        }
        assert_eq!(errno_text(&io::Error::other("Own words")), "Own words");
    }
}
