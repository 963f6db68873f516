//! One function per verb, each with its checks in the order of spec nsqd.md §2.5.

use super::bodies::{List, Surplus, check_list};
use super::body::{BodyOf, FIELD_LEN, Missing, Request};
use super::line::{Words, line_len, parse_number};
use super::{Command, DecodeContext, Progress, SessionState};
use crate::ProtoError;
use crate::name;

const ID_LEN: usize = 16;
/// Length of a FIN in its usual form: `FIN `, the id, `\n`.
pub const FIN_LINE_LEN: usize = 4 + ID_LEN + 1;

/// Decodes the first command of `input`, as far as it is there.
pub(super) fn parse<'a>(
    input: &'a [u8],
    context: &DecodeContext,
) -> Result<Progress<'a>, ProtoError> {
    if let Some(id) = plain_fins(input).next()
        && context.state != SessionState::Init
        && !context.tls_missing
    {
        return Ok(Progress::Whole {
            command: Command::Fin { id },
            consumed: FIN_LINE_LEN,
        });
    }
    let Some(line_len) = line_len(input)? else {
        return Ok(Progress::Partial {
            needed: input.len() + 1,
            missing: None,
        });
    };
    let mut params = Words::new(&input[..line_len]);
    let verb = params.next().unwrap_or_default();
    let request = Request {
        input,
        line_len,
        params,
        context: *context,
    };
    if context.tls_missing && verb != b"IDENTIFY" {
        return Err(ProtoError::tls_required(verb));
    }
    match verb {
        b"PUB" => publish(request),
        b"MPUB" => multi_publish(request),
        b"DPUB" => deferred_publish(request),
        b"FIN" => finish(request),
        b"RDY" => ready(request),
        b"REQ" => requeue(request),
        b"TOUCH" => touch(request),
        b"NOP" => Ok(request.complete(Command::Nop)),
        b"SUB" => subscribe(request),
        b"CLS" => close(&request),
        b"IDENTIFY" => identify(&request),
        b"AUTH" => authenticate(request),
        _ => Err(ProtoError::unknown_command(verb)),
    }
}

/// The ids of the FINs at the beginning of `input`, as far as they have their usual form, of
/// [`FIN_LINE_LEN`] bytes each: found without looking for the ends of the lines, for one comes for every
/// message that is consumed. A FIN in any other form, right or wrong, is [`decode`](super::decode)'s.
pub fn plain_fins(input: &[u8]) -> impl Iterator<Item = [u8; ID_LEN]> {
    let (lines, _) = input.as_chunks::<FIN_LINE_LEN>();
    lines.iter().map_while(|line| {
        let id = line.strip_prefix(b"FIN ")?.strip_suffix(b"\n")?;
        let id = id.first_chunk::<ID_LEN>()?;
        // Above the space there is no space, `\r` or `\n`, which would make it another line.
        id.iter().all(|byte| *byte > b' ').then_some(*id)
    })
}

/// The topic of an MPUB at the beginning of `input`, once its line has arrived and is sound. It alone
/// must be allowed before its body is looked at (spec §2.5).
#[must_use]
pub fn mpub_topic<'a>(input: &'a [u8], context: &DecodeContext) -> Option<&'a str> {
    if context.tls_missing || !input.starts_with(b"MPUB ") {
        return None;
    }
    let mut words = Words::new(&input[..line_len(input).ok()??]);
    words.next();
    name::validate(words.next()?).ok()
}

fn require(condition: bool, verb: &str) -> Result<(), ProtoError> {
    if condition {
        Ok(())
    } else {
        Err(ProtoError::wrong_state(verb))
    }
}

/// In flight messages outlive CLS.
fn require_consumer(request: &Request<'_>, verb: &str) -> Result<(), ProtoError> {
    require(request.context.state != SessionState::Init, verb)
}

fn topic<'a>(word: &'a [u8], verb: &str) -> Result<&'a str, ProtoError> {
    name::validate(word).map_err(|_| ProtoError::bad_topic(verb, word))
}

fn message_id(word: &[u8]) -> Result<[u8; ID_LEN], ProtoError> {
    word.try_into()
        .map_err(|_| ProtoError::invalid_message_id())
}

fn publish(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    let name = request
        .params
        .next()
        .ok_or_else(|| ProtoError::too_few("PUB", "parameters"))?;
    let topic = topic(name, "PUB")?;
    request.with_body(BodyOf::Pub, |body| Command::Pub { topic, body })
}

fn multi_publish(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    let name = request
        .params
        .next()
        .ok_or_else(|| ProtoError::too_few("MPUB", "parameters"))?;
    let topic = topic(name, "MPUB")?;
    let start = request.line_len + FIELD_LEN;
    let Some(len) = request.body_len(BodyOf::Mpub)? else {
        return Ok(Progress::Partial {
            needed: start,
            missing: Some(Missing::Size(BodyOf::Mpub)),
        });
    };
    let end = start + len;
    let arrived = &request.input[start..];
    Ok(
        match check_list(arrived, len, Surplus::Reject, &request.context.limits)? {
            List::Whole(bodies) => Progress::Whole {
                command: Command::Mpub { topic, bodies },
                consumed: end,
            },
            List::Partial(missing) => Progress::Partial {
                needed: end,
                missing: Some(missing),
            },
        },
    )
}

fn deferred_publish(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    let (Some(name), Some(delay)) = (request.params.next(), request.params.next()) else {
        return Err(ProtoError::too_few("DPUB", "parameters"));
    };
    let topic = topic(name, "DPUB")?;
    let delay_ms =
        parse_number(delay).ok_or_else(|| ProtoError::not_a_number("DPUB", "timeout", delay))?;
    let delay_ms_max = request.context.limits.defer_ms_max;
    if delay_ms > delay_ms_max {
        return Err(ProtoError::out_of_range(
            "DPUB",
            "timeout",
            delay_ms,
            delay_ms_max,
        ));
    }
    request.with_body(BodyOf::Dpub, |body| Command::Dpub {
        topic,
        delay_ms,
        body,
    })
}

fn finish(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require_consumer(&request, "FIN")?;
    let id = request
        .params
        .next()
        .ok_or_else(|| ProtoError::too_few("FIN", "params"))?;
    let id = message_id(id)?;
    Ok(request.complete(Command::Fin { id }))
}

fn requeue(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require_consumer(&request, "REQ")?;
    let (Some(id), Some(delay)) = (request.params.next(), request.params.next()) else {
        return Err(ProtoError::too_few("REQ", "params"));
    };
    let id = message_id(id)?;
    let delay_ms =
        parse_number(delay).ok_or_else(|| ProtoError::not_a_number("REQ", "timeout", delay))?;
    Ok(request.complete(Command::Req { id, delay_ms }))
}

fn touch(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require_consumer(&request, "TOUCH")?;
    let id = request
        .params
        .next()
        .ok_or_else(|| ProtoError::too_few("TOUCH", "params"))?;
    let id = message_id(id)?;
    Ok(request.complete(Command::Touch { id }))
}

fn ready(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require_consumer(&request, "RDY")?;
    if request.context.state == SessionState::Closing {
        // A client may have sent it before it read CLOSE_WAIT: ignored, even if it is wrong.
        return Ok(request.complete(Command::Nop));
    }
    let count = match request.params.next() {
        None => 1,
        Some(b"") => 0,
        Some(word) => {
            parse_number(word).ok_or_else(|| ProtoError::not_a_number("RDY", "count", word))?
        }
    };
    let count_max = request.context.limits.ready_count_max;
    if count > count_max {
        return Err(ProtoError::out_of_range("RDY", "count", count, count_max));
    }
    // More in flight than a `u32` counts is no limit at all.
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Ok(request.complete(Command::Rdy { count }))
}

fn subscribe(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require(request.context.state == SessionState::Init, "SUB")?;
    if request.context.heartbeats_disabled {
        return Err(ProtoError::heartbeats_disabled());
    }
    let (Some(name), Some(channel)) = (request.params.next(), request.params.next()) else {
        return Err(ProtoError::too_few("SUB", "parameters"));
    };
    let topic = topic(name, "SUB")?;
    let channel = name::validate(channel).map_err(|_| ProtoError::bad_channel("SUB", channel))?;
    Ok(request.complete(Command::Sub { topic, channel }))
}

fn close<'a>(request: &Request<'a>) -> Result<Progress<'a>, ProtoError> {
    require(request.context.state == SessionState::Subscribed, "CLS")?;
    Ok(request.complete(Command::Cls))
}

fn identify<'a>(request: &Request<'a>) -> Result<Progress<'a>, ProtoError> {
    require(request.context.state == SessionState::Init, "IDENTIFY")?;
    request.with_body(BodyOf::Identify, |body| Command::Identify { body })
}

fn authenticate(mut request: Request<'_>) -> Result<Progress<'_>, ProtoError> {
    require(request.context.state == SessionState::Init, "AUTH")?;
    if request.params.next().is_some() {
        return Err(ProtoError::auth_parameters());
    }
    request.with_body(BodyOf::Auth, |secret| Command::Auth { secret })
}
