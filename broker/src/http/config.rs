//! `/config/<option>`: reading and changing options of the running broker.

use super::body::{BodyError, RequestBody};
use super::response::{self, ApiError, Response};
use crate::gateway::Broker;

/// `GET`: any option.
pub(super) fn read<B: Broker>(broker: &B, option: &str) -> Result<Response, ApiError> {
    broker
        .config_get(option)
        .map(answer)
        .ok_or(ApiError::INVALID_OPTION)
}

/// `PUT`: the body is the new value. Its length is judged first, also for unknown options.
pub(super) async fn change<B: Broker>(
    broker: &B,
    option: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let value = body
        .read(broker.info().max_msg_size)
        .await
        .map_err(|error| match error {
            BodyError::TooBig => ApiError::VALUE_TOO_BIG,
            BodyError::Broken => ApiError::INTERNAL_ERROR,
        })?;
    if value.is_empty() {
        return Err(ApiError::VALUE_TOO_BIG);
    }
    broker
        .config_put(option, &value)
        .map(answer)
        .map_err(ApiError::bad_request)
}

fn answer((value, is_json): (String, bool)) -> Response {
    if is_json {
        response::json(value)
    } else if value.is_empty() {
        // Nothing has no type.
        response::empty()
    } else {
        response::text(value)
    }
}
