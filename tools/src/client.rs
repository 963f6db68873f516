//! The client library as the utilities use it: options, log, signals, runtime.

use std::future::Future;

use nsq_cli::{Custom, EarlyExit, Flag, Form, Kind, Settings, VERSION, Value};
use nsq_client::{Builder, Config, Consumer, Log, LogLevel, Message};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command::{Failure, Sources, note};

/// The row of `--consumer-opt` or `--producer-opt`, of which each occurrence is checked at once.
/// The help is that of the reference.
pub(crate) fn option_flag(name: &'static str, help: &str) -> Flag {
    let parse = |text: &str| match Config::new().set_option(text) {
        Ok(()) => Ok(Value::List(vec![text.to_owned()])),
        Err(error) => Err(error.to_string()),
    };
    let kind = Kind::Custom(Custom {
        parse,
        form: Form::Required,
        type_name: "value",
    });
    Flag::new(name, kind, Value::List(Vec::new()), help)
}

/// What a consumer does with a message that fails again and again, unless `max_attempts` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempts {
    /// It is never given up: copying tools must not lose what they cannot deliver now.
    Unlimited,
    /// The library's default.
    Limited,
}

/// The options of a row of [`option_flag`].
pub(crate) fn config(settings: &Settings, row: &str, program: &str) -> Result<Config, EarlyExit> {
    let mut config = Config::new();
    for option in settings.list(row) {
        let result = config.set_option(option);
        result.map_err(|error| EarlyExit::Plain(error.to_string()))?;
    }
    config.user_agent = format!(
        "{program}/{VERSION} nsq-client/{}",
        env!("CARGO_PKG_VERSION")
    );
    Ok(config)
}

/// The options of a consumer, `--max-in-flight` included.
pub(crate) fn consumer_config(
    settings: &Settings,
    program: &str,
    attempts: Attempts,
) -> Result<Config, EarlyExit> {
    let mut config = config(settings, "consumer-opt", program)?;
    let max_in_flight = settings.int("max-in-flight");
    config.max_in_flight = u32::try_from(max_in_flight)
        .map_err(|_| EarlyExit::Plain(format!("invalid MaxInFlight ! {max_in_flight} < 0")))?;
    let is_max_attempts = |option: &String| {
        let key = option.split(',').next().unwrap_or(option);
        key.replace('-', "_") == "max_attempts"
    };
    let given = settings.list("consumer-opt").iter().any(is_max_attempts);
    if attempts == Attempts::Unlimited && !given {
        config.max_attempts = 0;
    }
    Ok(config)
}

/// Where the library logs.
pub(crate) fn log() -> Log {
    Log::stderr(LogLevel::Info)
}

/// Describes a consumer that says loudly when it gives up a message.
pub(crate) fn builder(topic: &str, channel: &str, config: &Config) -> Builder {
    let scope = format!("{topic}/{channel}");
    let on_give_up = move |message: &Message| {
        let (id, attempts) = (message.id(), message.attempts() - 1);
        note(format_args!(
            "ERROR: [{scope}] message {id} is dropped after {attempts} failed attempts"
        ));
    };
    Consumer::builder(topic, channel)
        .config(config.clone())
        .log(log())
        .on_give_up(on_give_up)
}

/// Makes a consumer, not connected yet.
pub(crate) fn consumer(topic: &str, channel: &str, config: &Config) -> Result<Consumer, Failure> {
    builder(topic, channel, config)
        .build()
        .map_err(Failure::plain)
}

/// Connects it; an nsqd that cannot be reached is an error.
pub(crate) async fn connect(consumer: &Consumer, sources: &Sources) -> Result<(), Failure> {
    let connected = consumer.connect_to_nsqds(&sources.nsqd).await;
    connected.map_err(Failure::plain)?;
    if sources.lookupd.is_empty() {
        return Ok(());
    }
    let connected = consumer.connect_to_lookupds(&sources.lookupd).await;
    connected.map_err(Failure::plain)
}

/// Runs the asynchronous part of a utility, on the thread that calls and a worker per core.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a process can start threads");
    let output = runtime.block_on(future);
    // A task may still be stuck in a write that nobody takes: it must not hold up the end.
    runtime.shutdown_background();
    output
}

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes them over; call it inside the runtime, before anything that must be ended in order.
    pub(crate) fn install() -> Self {
        Self {
            interrupt: handler(SignalKind::interrupt()),
            terminate: handler(SignalKind::terminate()),
        }
    }

    /// Waits for the next of them. Cancelling it loses nothing.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Takes over one signal.
pub(crate) fn handler(kind: SignalKind) -> Signal {
    signal(kind).expect("the system lets a process handle its signals")
}

/// Waits until everything that was taken from these consumers is answered. They have begun to stop.
pub(crate) async fn wait_for_stop(consumers: &[Consumer]) {
    for consumer in consumers {
        if let Err(error) = consumer.stopped().await {
            note(format_args!("WARNING: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::command;

    fn settings(args: &[&str]) -> Result<Settings, EarlyExit> {
        let flags = vec![
            option_flag("consumer-opt", ""),
            Flag::int("max-in-flight", 200, ""),
        ];
        command::table("nsq_tail", "", flags).load(args.iter().map(OsString::from))
    }

    #[test]
    fn options_are_checked_where_they_stand() {
        let Err(EarlyExit::Usage { message, .. }) = settings(&["-consumer-opt=bogus,1"]) else {
            panic!("accepted")
        };
        let text = "invalid value \"bogus,1\" for flag -consumer-opt: invalid option bogus";
        assert_eq!(message, text);
    }

    #[test]
    fn copying_tools_never_give_up_unless_told_to() {
        let attempts = |args: &[&str], attempts| {
            let settings = settings(args).expect("fine");
            let config = consumer_config(&settings, "nsq_tail", attempts).expect("fine");
            (config.max_in_flight, config.max_attempts)
        };
        assert_eq!(attempts(&[], Attempts::Limited), (200, 5));
        assert_eq!(attempts(&["-max-in-flight=7"], Attempts::Unlimited), (7, 0));
        let given = ["-consumer-opt", "max-attempts,3"];
        assert_eq!(attempts(&given, Attempts::Unlimited), (200, 3));
    }

    #[test]
    fn a_negative_window_is_refused() {
        let settings = settings(&["-max-in-flight=-1"]).expect("a number");
        let exit = consumer_config(&settings, "nsq_tail", Attempts::Limited).expect_err("refused");
        assert_eq!(
            exit,
            EarlyExit::Plain("invalid MaxInFlight ! -1 < 0".into())
        );
    }
}
