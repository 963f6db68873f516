//! Texts to values, and the errors of the standard clients about them.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use nsq_cli::{format_duration, parse_bool, parse_duration, parse_float, parse_int};

use super::{ConfigError, FOREVER};

/// The value cannot be read at all.
pub(super) fn unreadable(key: &str, value: &str, reason: &str) -> ConfigError {
    ConfigError(format!(
        "failed to coerce option {key} ({value}) - {reason}"
    ))
}

fn below(key: &str, value: &str, least: &str) -> ConfigError {
    ConfigError(format!("invalid {key} ! {value} < {least}"))
}

fn above(key: &str, value: &str, greatest: &str) -> ConfigError {
    ConfigError(format!("invalid {key} ! {value} > {greatest}"))
}

/// A duration as Go writes it; what it cannot hold appears as its longest.
pub(crate) fn go_duration(duration: Duration) -> String {
    format_duration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

pub(super) fn check_duration(
    key: &str,
    value: Duration,
    (least, greatest): (Duration, Duration),
) -> Result<(), ConfigError> {
    if value < least {
        return Err(below(key, &go_duration(value), &go_duration(least)));
    }
    if value > greatest {
        return Err(above(key, &go_duration(value), &go_duration(greatest)));
    }
    Ok(())
}

pub(super) fn check_integer(
    key: &str,
    value: i64,
    least: i64,
    greatest: i64,
) -> Result<(), ConfigError> {
    if value < least {
        return Err(below(key, &value.to_string(), &least.to_string()));
    }
    if value > greatest {
        return Err(above(key, &value.to_string(), &greatest.to_string()));
    }
    Ok(())
}

pub(super) fn check_float(
    key: &str,
    value: f64,
    least: f64,
    greatest: f64,
) -> Result<(), ConfigError> {
    if value > greatest {
        return Err(above(key, &value.to_string(), &greatest.to_string()));
    }
    // Also what is no number at all.
    if !(least..=greatest).contains(&value) {
        return Err(below(key, &value.to_string(), &least.to_string()));
    }
    Ok(())
}

fn nanos(key: &str, value: &str) -> Result<i64, ConfigError> {
    parse_duration(value).ok_or_else(|| {
        let number = !value.is_empty() && parse_float(value).is_ok();
        let problem = if number { "missing unit in" } else { "invalid" };
        unreadable(key, value, &format!("time: {problem} duration {value:?}"))
    })
}

pub(super) fn duration(
    key: &str,
    value: &str,
    range: (Duration, Duration),
) -> Result<Duration, ConfigError> {
    let nanos = nanos(key, value)?;
    let Ok(magnitude) = u64::try_from(nanos) else {
        return Err(below(key, &format_duration(nanos), &go_duration(range.0)));
    };
    let value = Duration::from_nanos(magnitude);
    check_duration(key, value, range)?;
    Ok(value)
}

/// A duration, or -1 ns for "disabled".
pub(super) fn or_disabled(key: &str, value: &str) -> Result<Option<Duration>, ConfigError> {
    match nanos(key, value)? {
        -1 => Ok(None),
        _ => duration(key, value, (Duration::ZERO, FOREVER)).map(Some),
    }
}

/// A number of bytes, or -1 for "none".
pub(super) fn size(key: &str, value: &str) -> Result<Option<u32>, ConfigError> {
    let bytes: i64 = integer(key, value, -1, i64::from(i32::MAX))?;
    Ok(u32::try_from(bytes).ok())
}

pub(super) fn integer<T: TryFrom<i64>>(
    key: &str,
    value: &str,
    least: i64,
    greatest: i64,
) -> Result<T, ConfigError> {
    let number = parse_int(value, 10).map_err(|error| {
        let reason = format!("strconv.ParseInt: parsing {value:?}: {error}");
        unreadable(key, value, &reason)
    })?;
    check_integer(key, number, least, greatest)?;
    T::try_from(number).map_err(|_| above(key, value, &greatest.to_string()))
}

pub(super) fn float(key: &str, value: &str, least: f64, greatest: f64) -> Result<f64, ConfigError> {
    let number = parse_float(value).map_err(|error| {
        let reason = format!("strconv.ParseFloat: parsing {value:?}: {error}");
        unreadable(key, value, &reason)
    })?;
    check_float(key, number, least, greatest)?;
    Ok(number)
}

pub(super) fn boolean(key: &str, value: &str) -> Result<bool, ConfigError> {
    parse_bool(value).ok_or_else(|| {
        let reason = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
        unreadable(key, value, &reason)
    })
}

/// `host:port`; a host that is a name is resolved, an empty one is any address.
pub(super) fn address(key: &str, value: &str) -> Result<SocketAddr, ConfigError> {
    let Some((host, _)) = value.rsplit_once(':') else {
        let reason = format!("address {value}: missing port in address");
        return Err(unreadable(key, value, &reason));
    };
    let full = if host.is_empty() {
        format!("0.0.0.0{value}")
    } else {
        value.to_owned()
    };
    full.to_socket_addrs()
        .map_err(|error| unreadable(key, value, &error.to_string()))?
        .next()
        .ok_or_else(|| unreadable(key, value, "no such host"))
}
