//! `/topic/*` and `/channel/*`: changes of topics and channels.
//!
//! Names travel in the query; bodies are read and ignored. All answer 200 without a body.

use nsq_proto::{ChannelName, TopicName};

use super::parse_query;
use super::query::Query;
use super::response::{self, ApiError, Response};
use super::routes::Action;
use crate::config::SyncMode;
use crate::gateway::{AdminError, AdminRequest, Broker};

/// `POST /topic/<action>`.
pub(super) async fn change_topic<B: Broker>(
    broker: &B,
    action: Action,
    query: &str,
) -> Result<Response, ApiError> {
    let query = parse_query(broker, query)?;
    let illegal = match action {
        Action::Create | Action::Empty => ApiError::INVALID_TOPIC,
        // These do not judge names: there simply is no topic of an illegal one.
        Action::Delete | Action::Pause | Action::Unpause => ApiError::TOPIC_NOT_FOUND,
    };
    let topic = topic(&query, illegal)?;
    let request = match action {
        Action::Create => AdminRequest::CreateTopic {
            sync: sync(&query, &topic)?,
            topic,
        },
        Action::Delete => AdminRequest::DeleteTopic { topic },
        Action::Empty => AdminRequest::EmptyTopic { topic },
        Action::Pause => AdminRequest::PauseTopic {
            topic,
            paused: true,
        },
        Action::Unpause => AdminRequest::PauseTopic {
            topic,
            paused: false,
        },
    };
    submit(broker, request).await
}

/// `POST /channel/<action>`.
pub(super) async fn change_channel<B: Broker>(
    broker: &B,
    action: Action,
    query: &str,
) -> Result<Response, ApiError> {
    let query = parse_query(broker, query)?;
    let topic = topic(&query, ApiError::INVALID_ARG_TOPIC)?;
    let channel = query.get("channel").ok_or(ApiError::MISSING_ARG_CHANNEL)?;
    let channel = ChannelName::parse(&channel).map_err(|_| ApiError::INVALID_ARG_CHANNEL)?;
    let request = match action {
        Action::Create => AdminRequest::CreateChannel { topic, channel },
        Action::Delete => AdminRequest::DeleteChannel { topic, channel },
        Action::Empty => AdminRequest::EmptyChannel { topic, channel },
        Action::Pause => AdminRequest::PauseChannel {
            topic,
            channel,
            paused: true,
        },
        Action::Unpause => AdminRequest::PauseChannel {
            topic,
            channel,
            paused: false,
        },
    };
    submit(broker, request).await
}

async fn submit<B: Broker>(broker: &B, request: AdminRequest) -> Result<Response, ApiError> {
    broker.admin(request).await.map_err(|error| match error {
        AdminError::TopicNotFound => ApiError::TOPIC_NOT_FOUND,
        AdminError::ChannelNotFound => ApiError::CHANNEL_NOT_FOUND,
        AdminError::Internal(reason) => {
            broker.log_warning(format_args!("change over HTTP failed - {reason}"));
            ApiError::INTERNAL_ERROR
        }
    })?;
    Ok(response::empty())
}

/// `sync`: one of the words of `--sync`, for this topic alone. An ephemeral one has nothing to sync.
fn sync(query: &Query<'_>, topic: &TopicName) -> Result<Option<SyncMode>, ApiError> {
    let Some(word) = query.get("sync") else {
        return Ok(None);
    };
    let word = std::str::from_utf8(&word).ok();
    let mode = word.and_then(SyncMode::parse);
    let mode = mode.filter(|_| !topic.is_ephemeral());
    mode.map(Some).ok_or(ApiError::INVALID_SYNC)
}

fn topic(query: &Query<'_>, illegal: ApiError) -> Result<TopicName, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    TopicName::parse(&name).map_err(|_| illegal)
}
