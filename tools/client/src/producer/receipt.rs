//! The answer to come of one publish.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::{NsqdError, PublishError};

/// Resolves to the nsqd's answer to one publish.
#[derive(Debug)]
#[must_use = "the publish may fail"]
pub struct Receipt {
    pub(super) answer: oneshot::Receiver<Result<(), NsqdError>>,
}

impl Future for Receipt {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            // Whoever was to answer is gone: the connection was lost.
            answer
                .map_err(|_| PublishError::NotConnected)?
                .map_err(PublishError::Refused)
        })
    }
}
