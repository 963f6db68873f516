//! From command line to serving, and back down at the end.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nsq_cli::{Logger, Signal, Signals, banner, fatal, fatal_startup};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::config::{self, Config, PROGRAM};
use crate::listen::{self, Door, ListenError};
use crate::service::{Ports, Service};
use crate::{http, tcp};

/// How long answers under way may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of eight descriptors this process may have: for nsqd, and for those who ask; the rest is ours.
const TCP_EIGHTHS: u64 = 5;
const HTTP_EIGHTHS: u64 = 2;

/// Runs the directory until it is told to stop.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match config::parse(args) {
        Ok(config) => config,
        Err(exit) => return exit.report(PROGRAM),
    };
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fatal(PROGRAM, &error),
    };
    abort_on_panic();
    let logger = Logger::new(config.log_prefix.clone(), config.log_level);
    logger.info(format_args!("{}", banner(PROGRAM)));
    for warning in &config.warnings {
        logger.warn(format_args!("{warning}"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fatal_startup(PROGRAM, &error),
    };
    let stop = on_stop(signals);
    let outcome = runtime.block_on(async { serve(&config, &logger, stop).await });
    finish(runtime);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fatal_startup(PROGRAM, &error),
    }
}

/// A panic takes the process with it: nobody shall see what it left half done.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::abort();
    }));
}

fn finish(runtime: Runtime) {
    runtime.shutdown_timeout(FAREWELL);
}

/// Becomes true when a signal asks for it. A hang-up changes nothing: there is nothing to read again.
fn on_stop(mut signals: Signals) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    thread::spawn(move || {
        loop {
            match signals.wait() {
                Signal::Stop => sender.send_replace(true),
                Signal::Hup => continue,
            };
        }
    });
    receiver
}

async fn serve(
    config: &Config,
    logger: &Logger,
    stop: watch::Receiver<bool>,
) -> Result<(), ListenError> {
    let tcp = listen::bind(&config.tcp_address)?;
    let http = listen::bind(&config.http_address)?;
    let (tcp_address, http_address) = (shown(&tcp), shown(&http));
    let port = |listener: &TcpListener| listener.local_addr().map_or(0, |address| address.port());
    let ports = Ports {
        tcp: port(&tcp),
        http: port(&http),
    };
    let service = Arc::new(Service::new(config, logger.clone(), ports, stop));
    let descriptors = descriptors();
    logger.info(format_args!("TCP: listening on {tcp_address}"));
    logger.info(format_args!("HTTP: listening on {http_address}"));
    let tcp = Door::new(tcp, share(descriptors, TCP_EIGHTHS));
    let http = Door::new(http, share(descriptors, HTTP_EIGHTHS));
    let tcp_closed = async {
        tcp::run(tcp, Arc::clone(&service)).await;
        logger.info(format_args!("TCP: closing {tcp_address}"));
    };
    let http_closed = async {
        http::run(http, Arc::clone(&service), FAREWELL).await;
        logger.info(format_args!("HTTP: closing {http_address}"));
    };
    tokio::join!(tcp_closed, http_closed);
    Ok(())
}

fn shown(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// As many descriptors as the process may have, with the soft limit raised to the hard one.
fn descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

fn share(descriptors: u64, eighths: u64) -> usize {
    usize::try_from(descriptors / 8 * eighths).unwrap_or(usize::MAX)
}
