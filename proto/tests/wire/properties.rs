use nsq_proto::{
    DecodeContext, Decoded, IdentifyLimits, IdentifyRequest, Limits, SessionState, decode,
    decode_bodies, truncation_error,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;

use super::{CONTEXT, SUBSCRIBED, list, outcome, with_body};

fn any_context() -> impl Strategy<Value = DecodeContext> {
    let states = [
        SessionState::Init,
        SessionState::Subscribed,
        SessionState::Closing,
    ];
    let state = proptest::sample::select(states.to_vec());
    (state, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(
        |(state, heartbeats_disabled, tls_missing)| DecodeContext {
            state,
            heartbeats_disabled,
            tls_missing,
            ..CONTEXT
        },
    )
}

/// Bytes that look enough like commands to get past the first check.
fn almost_commands() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        &b"PUB"[..],
        b"MPUB",
        b"DPUB",
        b"FIN",
        b"RDY",
        b"REQ",
        b"TOUCH",
        b"NOP",
        b"SUB",
        b"CLS",
        b"IDENTIFY",
        b"AUTH",
        b" ",
        b" ",
        b" t",
        b" c#ephemeral",
        b" 5",
        b"\n",
        b"\n",
        b"\r\n",
        b"\0\0\0\x01",
        b"\0\0\0\x05",
        b"\0\0\0\x09",
        b"\0\0\0\x0e",
        b"\0\0\0\0",
        b"\xff",
        b" 18a27a7b78269000",
        b"x",
    ];
    vec(proptest::sample::select(words.to_vec()), 0..16).prop_map(|words| words.concat())
}

/// What a connection would do: hand over what has come, one byte more each time it is allowed to.
fn outcome_byte_by_byte(input: &[u8], context: &DecodeContext) -> (String, usize) {
    let mut needed = 0;
    for len in 0..=input.len() {
        if len < needed {
            continue;
        }
        match decode(&input[..len], context) {
            Ok(Decoded::Incomplete { needed: more }) => needed = more,
            Ok(Decoded::Command { .. }) | Err(_) => return outcome(&input[..len], context),
        }
    }
    (format!("needs {needed}"), 0)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(input in vec(any::<u8>(), 0..200), context in any_context()) {
        let (_, consumed) = outcome(&input, &context);
        prop_assert!(consumed <= input.len());
        prop_assert!(truncation_error(&input, &context).is_none_or(|e| e.code.is_fatal()));
        if let Ok(bodies) = decode_bodies(&input, &CONTEXT.limits) {
            let (count, bytes) = (bodies.len(), bodies.total_bytes());
            prop_assert_eq!(bodies.clone().count(), count);
            prop_assert_eq!(bodies.map(<[u8]>::len).sum::<usize>(), bytes);
        }
    }

    #[test]
    fn cuts_do_not_change_the_outcome(input in almost_commands(), context in any_context()) {
        prop_assert_eq!(outcome_byte_by_byte(&input, &context), outcome(&input, &context));
    }

    #[test]
    fn what_was_broken_off_has_an_error_iff_it_was_in_a_body(
        input in almost_commands(),
        context in any_context(),
    ) {
        let expected = match decode(&input, &context) {
            Ok(Decoded::Command { .. }) => false,
            Ok(Decoded::Incomplete { .. }) => input.contains(&b'\n'),
            Err(_) => true,
        };
        prop_assert_eq!(truncation_error(&input, &context).is_some(), expected);
    }

    #[test]
    fn publishes_round_trip(
        topic in "[.a-zA-Z0-9_-]{1,54}(#ephemeral)?",
        body in vec(any::<u8>(), 1..100),
        delay_ms in 0..=3_600_000_u64,
    ) {
        let shown = body.escape_ascii();
        let input = with_body(&format!("PUB {topic}"), &body);
        prop_assert_eq!(outcome(&input, &CONTEXT), (format!("PUB {topic} \"{shown}\""), input.len()));
        let input = with_body(&format!("DPUB {topic} {delay_ms}"), &body);
        let expected = format!("DPUB {topic} {delay_ms} \"{shown}\"");
        prop_assert_eq!(outcome(&input, &CONTEXT), (expected, input.len()));
    }

    #[test]
    fn lists_round_trip_through_both_doors(bodies in vec(vec(any::<u8>(), 1..50), 1..20)) {
        let slices: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let list = list(i32::try_from(bodies.len()).unwrap(), &slices);
        let limits = Limits { body_bytes_max: 2000, ..CONTEXT.limits };
        let context = DecodeContext { limits, ..CONTEXT };
        let over_http: Vec<_> = decode_bodies(&list, &limits).unwrap().collect();
        prop_assert_eq!(&over_http, &slices);

        let input = with_body("MPUB t", &list);
        let Ok(Decoded::Command { command: nsq_proto::Command::Mpub { bodies, .. }, consumed }) =
            decode(&input, &context)
        else {
            panic!("{}", outcome(&input, &context).0);
        };
        prop_assert_eq!(consumed, input.len());
        prop_assert_eq!(bodies.collect::<Vec<_>>(), slices);
    }

    #[test]
    fn any_sixteen_bytes_without_space_and_newline_are_an_id(
        id in proptest::array::uniform16(any::<u8>().prop_filter("separator", |b| !b" \n".contains(b))),
    ) {
        let shown = id.escape_ascii().to_string();
        // A trailing `\r` would belong to the line, so one that is not dropped follows.
        let input = [b"FIN ", &id[..], b" \n"].concat();
        prop_assert_eq!(outcome(&input, &SUBSCRIBED), (format!("FIN {shown}"), input.len()));
        if id[15] != b'\r' {
            let input = [b"FIN ", &id[..], b"\n"].concat();
            prop_assert_eq!(outcome(&input, &SUBSCRIBED), (format!("FIN {shown}"), input.len()));
        }
    }

    #[test]
    fn numbers_mean_themselves_or_are_refused(number in "[0-9]{1,25}") {
        let (told, _) = outcome(format!("REQ 18a27a7b78269000 {number}\n").as_bytes(), &SUBSCRIBED);
        let expected = match number.parse::<u64>() {
            Ok(number) => format!("REQ 18a27a7b78269000 {number}"),
            Err(_) => format!("E_INVALID REQ could not parse timeout {number}"),
        };
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn identify_never_panics_and_stays_in_range(body in "[{}\\[\\]\":,a-z_0-9\\-. ]{0,40}|\\{\"(heartbeat_interval|sample_rate|msg_timeout|output_buffer_size|output_buffer_timeout)\": ?-?[0-9]{1,6}\\}") {
        let limits = IdentifyLimits {
            max_heartbeat_interval: Duration::from_secs(60),
            min_output_buffer_timeout: Duration::from_millis(25),
            max_output_buffer_timeout: Duration::from_secs(30),
            output_buffer_timeout: Duration::from_millis(250),
            max_output_buffer_size: 65_536,
            msg_timeout: Duration::from_secs(60),
            max_msg_timeout: Duration::from_secs(900),
            max_deflate_level: 6,
        };
        if let Ok(request) = IdentifyRequest::parse(body.as_bytes(), &limits) {
            prop_assert!(request.sample_rate <= 99);
            prop_assert!((1..=65_536).contains(&request.output_buffer_size));
            prop_assert!(request.msg_timeout >= Duration::from_secs(1));
            prop_assert!(request.heartbeat_interval.is_none_or(|i| i >= Duration::from_secs(1)));
        }
    }
}
