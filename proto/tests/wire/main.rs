//! The wire protocol as the rest of the system sees it.

mod decode;
mod deliveries;
mod frames;
mod mpub;
mod properties;
mod requests;
mod truncation;

use nsq_proto::{Command, DecodeContext, Decoded, Limits, SessionState, decode};

/// Small enough that the texts with a limit in them stay readable.
const CONTEXT: DecodeContext = DecodeContext {
    state: SessionState::Init,
    heartbeats_disabled: false,
    tls_missing: false,
    limits: Limits {
        message_bytes_max: 100,
        body_bytes_max: 200,
        ready_count_max: 2500,
        defer_ms_max: 3_600_000,
    },
};

const SUBSCRIBED: DecodeContext = DecodeContext {
    state: SessionState::Subscribed,
    ..CONTEXT
};
const CLOSING: DecodeContext = DecodeContext {
    state: SessionState::Closing,
    ..CONTEXT
};

/// A context in which this verb passes the check of the state.
fn context_for(input: &[u8]) -> DecodeContext {
    let consumer = ["RDY", "FIN", "REQ", "TOUCH", "CLS"];
    if consumer
        .iter()
        .any(|verb| input.starts_with(verb.as_bytes()))
    {
        SUBSCRIBED
    } else {
        CONTEXT
    }
}

/// What the decoder says, as one line: the command, `needs <n>`, or the error.
/// The second value is the number of bytes taken, zero unless it was a command.
fn outcome(input: &[u8], context: &DecodeContext) -> (String, usize) {
    match decode(input, context) {
        Ok(Decoded::Command { command, consumed }) => (show(command), consumed),
        Ok(Decoded::Incomplete { needed }) => {
            assert!(needed > input.len(), "asks for {needed} of {}", input.len());
            (format!("needs {needed}"), 0)
        }
        Err(error) => {
            assert!(error.code.is_fatal(), "{error}");
            (error.to_string(), 0)
        }
    }
}

fn show(command: Command<'_>) -> String {
    let id = |id: [u8; 16]| id.escape_ascii().to_string();
    let quoted = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
    match command {
        Command::Nop => "NOP".to_owned(),
        Command::Identify { body } => format!("IDENTIFY {}", quoted(body)),
        Command::Auth { secret } => format!("AUTH {}", quoted(secret)),
        Command::Sub { topic, channel } => format!("SUB {topic} {channel}"),
        Command::Rdy { count } => format!("RDY {count}"),
        Command::Fin { id: message } => format!("FIN {}", id(message)),
        Command::Req {
            id: message,
            delay_ms,
        } => format!("REQ {} {delay_ms}", id(message)),
        Command::Touch { id: message } => format!("TOUCH {}", id(message)),
        Command::Cls => "CLS".to_owned(),
        Command::Pub { topic, body } => format!("PUB {topic} {}", quoted(body)),
        Command::Mpub { topic, bodies } => {
            let (count, bytes) = (bodies.len(), bodies.total_bytes());
            let shown: Vec<_> = bodies.map(quoted).collect();
            assert_eq!(shown.len(), count);
            format!(
                "MPUB {topic} {count} messages of {bytes} bytes: {}",
                shown.join(" ")
            )
        }
        Command::Dpub {
            topic,
            delay_ms,
            body,
        } => {
            format!("DPUB {topic} {delay_ms} {}", quoted(body))
        }
    }
}

/// The lines of a vector file, split at `|`; `#` begins a comment.
fn vectors(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('|').map(str::trim).collect())
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    assert_eq!(digits.len() % 2, 0, "{text}");
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits"))
        .collect()
}

/// A line, then a body with its length.
fn with_body(line: &str, body: &[u8]) -> Vec<u8> {
    let len = i32::try_from(body.len()).expect("test bodies are small");
    [line.as_bytes(), b"\n", &len.to_be_bytes(), body].concat()
}

/// A list of messages as HTTP sends it.
fn list(count: i32, bodies: &[&[u8]]) -> Vec<u8> {
    let mut list = count.to_be_bytes().to_vec();
    for body in bodies {
        list.extend(
            i32::try_from(body.len())
                .expect("test bodies are small")
                .to_be_bytes(),
        );
        list.extend(*body);
    }
    list
}
