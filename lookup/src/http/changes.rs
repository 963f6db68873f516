//! What operators change: each request changes this directory only.

use http::StatusCode;
use nsq_http::{ApiError, Query, Response, response};
use nsq_proto::{ChannelName, TopicName};

use crate::registry::{NodeAddress, Refusal, Tombstone};
use crate::service::Service;

const MISSING_ARG_NODE: ApiError = ApiError::bad_request("MISSING_ARG_NODE");

/// `POST /topic/create`
pub(super) fn create_topic(service: &Service, query: &Query<'_>) -> Result<Response, ApiError> {
    let topic = topic(query)?;
    service
        .logger
        .info(format_args!("DB: adding topic({topic})"));
    service.directory.create(&topic, None).map_err(refused)?;
    Ok(response::empty())
}

/// `POST /topic/delete`: also of a name that is not known, or not legal.
pub(super) async fn delete_topic(
    service: &Service,
    query: &Query<'_>,
) -> Result<Response, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    if let Ok(topic) = TopicName::parse(&name) {
        let each = |channel: ChannelName| {
            service.logger.info(format_args!(
                "DB: removing channel({channel}) from topic({topic})"
            ));
        };
        if service.directory.delete_topic(&topic, each).await {
            service
                .logger
                .info(format_args!("DB: removing topic({topic})"));
        }
    }
    Ok(response::empty())
}

/// `POST /channel/create`: the topic too.
pub(super) fn create_channel(service: &Service, query: &Query<'_>) -> Result<Response, ApiError> {
    let (topic, channel) = topic_and_channel(query)?;
    service.logger.info(format_args!(
        "DB: adding channel({channel}) in topic({topic})"
    ));
    service
        .logger
        .info(format_args!("DB: adding topic({topic})"));
    service
        .directory
        .create(&topic, Some(&channel))
        .map_err(refused)?;
    Ok(response::empty())
}

/// `POST /channel/delete`
pub(super) async fn delete_channel(
    service: &Service,
    query: &Query<'_>,
) -> Result<Response, ApiError> {
    let (topic, channel) = topic_and_channel(query)?;
    if !service.directory.delete_channel(&topic, &channel).await {
        return Err(ApiError::CHANNEL_NOT_FOUND);
    }
    service.logger.info(format_args!(
        "DB: removing channel({channel}) from topic({topic})"
    ));
    Ok(response::empty())
}

/// `POST /topic/tombstone`: also where nothing matches.
pub(super) async fn tombstone(service: &Service, query: &Query<'_>) -> Result<Response, ApiError> {
    let topic = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    let node = query.get("node").ok_or(MISSING_ARG_NODE)?;
    let (topic, node) = (
        String::from_utf8_lossy(&topic),
        String::from_utf8_lossy(&node),
    );
    service.logger.info(format_args!(
        "DB: setting tombstone for producer@{node} of topic({topic})"
    ));
    if let Some(node) = NodeAddress::parse(&node) {
        let tombstone = Tombstone {
            node,
            set: service.now(),
        };
        service.directory.tombstone(&topic, &tombstone).await;
    }
    Ok(response::empty())
}

fn topic(query: &Query<'_>) -> Result<TopicName, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    TopicName::parse(&name).map_err(|_| ApiError::INVALID_ARG_TOPIC)
}

fn topic_and_channel(query: &Query<'_>) -> Result<(TopicName, ChannelName), ApiError> {
    let topic = topic(query)?;
    let name = query.get("channel").ok_or(ApiError::MISSING_ARG_CHANNEL)?;
    let channel = ChannelName::parse(&name).map_err(|_| ApiError::INVALID_ARG_CHANNEL)?;
    Ok((topic, channel))
}

fn refused(refusal: Refusal) -> ApiError {
    ApiError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: match refusal {
            Refusal::TooManyKeys => "TOO_MANY_TOPICS_AND_CHANNELS",
            Refusal::TooManyRegistrations => "TOO_MANY_REGISTRATIONS",
        },
    }
}
