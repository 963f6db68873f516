//! `/pub` and `/mpub`: from a request to [`Broker::publish`].
//!
//! Everything is checked before the broker is asked, so that a request that is refused creates no
//! topic and publishes nothing.
//! While the topic's shard has no room the body is not read, so what waits is the peer's memory.
//! Hot path: message bodies are not copied here (a body that arrives in pieces is gathered once),
//! nothing is formatted, and nothing is logged unless it fails.

use std::time::Duration;

use bytes::Bytes;
use nsq_proto::{ErrorCode, Limits, TopicName, decode_bodies};

use super::body::{BodyError, RequestBody};
use super::parse_query;
use super::query::Query;
use super::response::{self, ApiError, Response};
use crate::gateway::{AdminRequest, Broker, BrokerInfo};

const OK: Bytes = Bytes::from_static(b"OK");

/// `POST /pub`: the body is one message. The body is looked at before the parameters.
pub(super) async fn publish_one<B: Broker>(
    broker: &B,
    query: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let info = broker.info();
    // What is wrong with the parameters is said after what is wrong with the body.
    let early = Query::parse(query.as_bytes()).ok();
    if let Some(Ok(topic)) = early.as_ref().map(topic) {
        broker.room(&topic).await;
    }
    let message = read(body, info.max_msg_size, ApiError::MSG_TOO_BIG).await?;
    if message.is_empty() {
        return Err(ApiError::MSG_EMPTY);
    }
    let query = parse_query(broker, query)?;
    let topic = topic(&query)?;
    let delay = delay(&query, info.max_req_timeout)?;
    submit(broker, topic, delay, vec![message]).await
}

/// `POST /mpub`: the body is a list of messages. The parameters are looked at before the body.
pub(super) async fn publish_many<B: Broker>(
    broker: &B,
    query: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let info = broker.info();
    body.check_announced(info.max_body_size)
        .map_err(|_| ApiError::BODY_TOO_BIG)?;
    let query = parse_query(broker, query)?;
    let topic = topic(&query)?;
    let is_binary = is_binary(broker, &query);
    broker.room(&topic).await;
    let body = read(body, info.max_body_size, ApiError::BODY_TOO_BIG).await?;
    let messages = if is_binary {
        split_list(&body, info)?
    } else {
        split_lines(&body, info.max_msg_size)?
    };
    if messages.is_empty() {
        return touch(broker, topic).await;
    }
    submit(broker, topic, Duration::ZERO, messages).await
}

async fn submit<B: Broker>(
    broker: &B,
    topic: TopicName,
    delay: Duration,
    messages: Vec<Bytes>,
) -> Result<Response, ApiError> {
    match broker.publish(topic, delay, messages).await {
        Ok(()) => Ok(response::text(OK)),
        Err(failure) => {
            broker.log_warning(format_args!("publish over HTTP failed - {failure}"));
            Err(ApiError::EXITING)
        }
    }
}

/// A list of no messages is accepted; all that it does is to create the topic.
async fn touch<B: Broker>(broker: &B, topic: TopicName) -> Result<Response, ApiError> {
    match broker
        .admin(AdminRequest::CreateTopic { topic, sync: None })
        .await
    {
        Ok(()) => Ok(response::text(OK)),
        Err(failure) => {
            broker.log_warning(format_args!("publish over HTTP failed - {failure}"));
            Err(ApiError::EXITING)
        }
    }
}

async fn read(body: &mut RequestBody, limit: u64, too_big: ApiError) -> Result<Bytes, ApiError> {
    body.read(limit).await.map_err(|error| match error {
        BodyError::TooBig => too_big,
        BodyError::Broken => ApiError::INTERNAL_ERROR,
    })
}

fn topic(query: &Query<'_>) -> Result<TopicName, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    TopicName::parse(&name).map_err(|_| ApiError::INVALID_TOPIC)
}

/// `defer`: milliseconds in decimal, a sign allowed, from 0 to the broker's maximum.
fn delay(query: &Query<'_>, max: Duration) -> Result<Duration, ApiError> {
    let Some(text) = query.get("defer") else {
        return Ok(Duration::ZERO);
    };
    let text = std::str::from_utf8(&text).map_err(|_| ApiError::INVALID_DEFER)?;
    let millis: i64 = text.parse().map_err(|_| ApiError::INVALID_DEFER)?;
    let millis = u64::try_from(millis).map_err(|_| ApiError::INVALID_DEFER)?;
    let delay = Duration::from_millis(millis);
    (delay <= max)
        .then_some(delay)
        .ok_or(ApiError::INVALID_DEFER)
}

/// Anything but a plain no means binary, as it did when the mere presence of the parameter counted.
fn is_binary<B: Broker>(broker: &B, query: &Query<'_>) -> bool {
    match query.get("binary").as_deref() {
        None | Some(b"false" | b"0") => false,
        Some(b"true" | b"1") => true,
        Some(other) => {
            broker.log_warning(format_args!(
                "deprecated value '{}' used for /mpub binary param",
                other.escape_ascii()
            ));
            true
        }
    }
}

/// One message a line; empty lines are dropped and `\r` is part of the message.
fn split_lines(body: &Bytes, message_bytes_max: u64) -> Result<Vec<Bytes>, ApiError> {
    let mut messages = Vec::new();
    for line in body
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        if u64::try_from(line.len()).is_ok_and(|length| length > message_bytes_max) {
            return Err(ApiError::MSG_TOO_BIG);
        }
        messages.push(body.slice_ref(line));
    }
    Ok(messages)
}

/// The list of an MPUB without its length.
fn split_list(body: &Bytes, info: &BrokerInfo) -> Result<Vec<Bytes>, ApiError> {
    let limits = Limits {
        message_bytes_max: info.max_msg_size,
        body_bytes_max: info.max_body_size,
        ready_count_max: 0,
        defer_ms_max: 0,
    };
    let messages = decode_bodies(body, &limits).map_err(|error| {
        if error.code == ErrorCode::BadBody {
            ApiError::BAD_BODY
        } else {
            ApiError::BAD_MESSAGE
        }
    })?;
    Ok(messages.map(|message| body.slice_ref(message)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(body: &'static str) -> Vec<Bytes> {
        split_lines(&Bytes::from_static(body.as_bytes()), 5).unwrap()
    }

    #[test]
    fn lines_keep_carriage_returns_and_drop_empty_ones() {
        assert_eq!(lines("a\r\n\nb\n"), ["a\r", "b"]);
        assert_eq!(lines("a\nb"), ["a", "b"]);
        assert!(lines("").is_empty());
        assert!(lines("\n\n").is_empty());
    }

    #[test]
    fn a_line_may_have_the_maximum_and_no_more() {
        assert_eq!(lines("12345\n"), ["12345"]);
        let too_long = Bytes::from_static(b"a\n123456");
        assert_eq!(split_lines(&too_long, 5), Err(ApiError::MSG_TOO_BIG));
    }

    #[test]
    fn defer_is_a_signed_decimal_within_the_maximum() {
        let delay = |raw: &str| {
            delay(
                &Query::parse(raw.as_bytes()).unwrap(),
                Duration::from_secs(3600),
            )
            .map(|delay| delay.as_millis())
        };
        for (raw, expected) in [
            ("", 0),
            ("defer=0", 0),
            ("defer=-0", 0),
            ("defer=%2B5", 5),
            ("defer=3600000", 3600000),
        ] {
            assert_eq!(delay(raw), Ok(expected), "{raw}");
        }
        for raw in [
            "defer=",
            "defer=x",
            "defer=-1",
            "defer=1_0",
            "defer=0x10",
            "defer=%205",
            "defer=3600001",
            "defer=9223372036854775807",
            "defer=9999999999999999999999",
        ] {
            assert_eq!(delay(raw), Err(ApiError::INVALID_DEFER), "{raw}");
        }
    }
}
