//! The commands of an nsqd.

use nsq_fuzz::pieces;
use nsq_proto::{LINE_BYTES_MAX, TopicName};

use crate::protocol::{BODY_BYTES_MAX, Command, decode, truncation_error};
use crate::registry::Announcement;

/// What a connection has told, and how it ended.
type Told = (Vec<Command>, Option<String>, usize);

/// The seed of the cuts (2), then what follows the magic.
pub(super) fn run(input: &[u8]) {
    let Some((&[c0, c1], stream)) = input.split_first_chunk() else {
        return;
    };
    let whole = told([stream].into_iter());
    assert_eq!(told(pieces(stream, u16::from_le_bytes([c0, c1]))), whole);
    let (commands, ..) = &whole;
    let mut again = Vec::new();
    commands
        .iter()
        .for_each(|command| encode(command, &mut again));
    assert_eq!(told([&again[..]].into_iter()), (commands.clone(), None, 0));
}

fn told<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Told {
    let (mut buffer, mut start) = (Vec::new(), 0);
    let (mut commands, mut is_identified) = (Vec::new(), false);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&buffer[start..], is_identified) {
                Ok(Some((command, len))) => {
                    assert!((1..=buffer.len() - start).contains(&len));
                    assert!(
                        is_identified || matches!(command, Command::Ping | Command::Identify(_))
                    );
                    is_identified |= matches!(command, Command::Identify(_));
                    start += len;
                    commands.push(command);
                }
                Ok(None) => break,
                Err(error) => return (commands, Some(error.to_string()), 0),
            }
        }
        let waiting = buffer.len() - start;
        assert!(
            waiting < LINE_BYTES_MAX + 4 + BODY_BYTES_MAX,
            "what is waited for is bounded"
        );
    }
    let rest = &buffer[start..];
    let told = truncation_error(rest).map(|error| error.to_string());
    assert!(told.is_none() || rest.contains(&b'\n'));
    (commands, told, rest.len())
}

/// The command as an nsqd would send it.
fn encode(command: &Command, out: &mut Vec<u8>) {
    let line = |verb: &str, topic: &TopicName, channel: Option<&dyn std::fmt::Display>| {
        let channel = channel.map_or_else(String::new, |channel| format!(" {channel}"));
        format!("{verb} {topic}{channel}\n").into_bytes()
    };
    match command {
        Command::Ping => out.extend_from_slice(b"PING\n"),
        Command::Register { topic, channel } => {
            out.extend(line(
                "REGISTER",
                topic,
                channel.as_ref().map(|name| name as _),
            ));
        }
        Command::Unregister { topic, channel } => {
            out.extend(line(
                "UNREGISTER",
                topic,
                channel.as_ref().map(|name| name as _),
            ));
        }
        Command::Identify(announcement) => {
            let body = body(announcement);
            let size = u32::try_from(body.len()).expect("a body is short");
            out.extend_from_slice(b"IDENTIFY\n");
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn body(announcement: &Announcement) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        r#"{{"hostname":{},"broadcast_address":{},"tcp_port":{},"http_port":{},"version":{},"topology_zone":{},"topology_region":{}}}"#,
        quoted(&announcement.hostname),
        quoted(&announcement.broadcast_address),
        announcement.tcp_port,
        announcement.http_port,
        quoted(&announcement.version),
        quoted(&announcement.topology_zone),
        quoted(&announcement.topology_region),
    )
}

/// A connection of an nsqd, and commands that are refused.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let body =
        r#"{"broadcast_address":"b","hostname":"h","tcp_port":1,"http_port":2,"version":"v"}"#;
    let size = u32::try_from(body.len()).expect("short").to_be_bytes();
    let identify = [b"IDENTIFY\n", &size[..], body.as_bytes()].concat();
    let commands =
        b"PING\nREGISTER t\nREGISTER t c\nUNREGISTER t c\nUNREGISTER t c#ephemeral\nPING\n";
    let session = [&identify[..], commands].concat();
    let streams = [
        &session[..],
        &session[..session.len() / 2],
        b"PING\n\xc2\xa0 PING\r\nREGISTER t\n",
        b"IDENTIFY\n\0\0\0\x04null",
    ];
    let seeds = streams.iter().flat_map(|stream| {
        [b"\0\0", b"\x01\0", b"\x07\0"].map(|control| [&control[..], stream].concat())
    });
    seeds.collect()
}
