//! Fields as Go's decoder reads them, where that differs from serde's.

use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Error, MapAccess};
use serde_json::value::RawValue;

/// Reads a value into its field. A `null` leaves the field as it is, so that it also does not undo
/// an earlier duplicate.
pub(super) fn read<'de, T, A>(field: &mut T, map: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    if let Some(value) = map.next_value::<Option<T>>()? {
        *field = value;
    }
    Ok(())
}

/// The same for an integer, of which the digits are looked at: to serde `-0` is a fraction.
pub(super) fn read_integer<'de, T, A>(field: &mut T, map: &mut A) -> Result<(), A::Error>
where
    T: FromStr,
    A: MapAccess<'de>,
{
    let mut raw: Option<&RawValue> = None;
    read(&mut raw, map)?;
    if let Some(raw) = raw {
        let number = raw.get().parse();
        *field = number.map_err(|_| A::Error::custom("not an integer of the field's size"))?;
    }
    Ok(())
}
