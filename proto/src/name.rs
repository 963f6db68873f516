//! Topic and channel names (spec nsqd.md §2.10): `^[.a-zA-Z0-9_-]+(#ephemeral)?$`, 1..=64 bytes.

use std::fmt;
use std::sync::Arc;

const EPHEMERAL_SUFFIX: &[u8] = b"#ephemeral";
/// Length limit in bytes, suffix included.
const NAME_LEN_MAX: usize = 64;

/// The bytes are not a legal name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid name")]
pub struct NameError;

/// The bytes as text, if they are a legal name.
pub(crate) fn validate(name: &[u8]) -> Result<&str, NameError> {
    let stem = name.strip_suffix(EPHEMERAL_SUFFIX).unwrap_or(name);
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.len() > NAME_LEN_MAX || stem.is_empty() || !stem.iter().all(legal) {
        return Err(NameError);
    }
    std::str::from_utf8(name).map_err(|_| NameError)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and copies.
            ///
            /// # Errors
            /// [`NameError`] when the bytes are not a legal name.
            pub fn parse(name: &[u8]) -> Result<Self, NameError> {
                validate(name).map(|name| Self(name.into()))
            }

            /// Whether the bytes are a legal name.
            #[must_use]
            pub fn is_valid(name: &[u8]) -> bool {
                validate(name).is_ok()
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether it ends in `#ephemeral`: lives in memory only, goes with its last user.
            #[must_use]
            pub fn is_ephemeral(&self) -> bool {
                self.0.as_bytes().ends_with(EPHEMERAL_SUFFIX)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A legal topic name; cloning shares the text.
    TopicName
);
name_type!(
    /// A legal channel name; cloning shares the text.
    ChannelName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names() {
        for name in ["a", "..", "a.b-c_D9", "x#ephemeral", &"n".repeat(64)] {
            assert!(TopicName::is_valid(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn illegal_names() {
        for name in [
            "",
            "#ephemeral",
            "a b",
            "a:b",
            "a#ephemeralx",
            "ü",
            "a/b",
            &"n".repeat(65),
        ] {
            assert!(!ChannelName::is_valid(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn ephemeral_by_suffix() {
        let name = TopicName::parse(b"x#ephemeral").unwrap();
        assert!(name.is_ephemeral());
        assert!(!TopicName::parse(b"ephemeral").unwrap().is_ephemeral());
    }
}
