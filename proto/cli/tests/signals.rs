//! Signals as events, in a process of their own.

use nix::sys::signal::{Signal as Os, raise};
use nsq_cli::{Signal, Signals};

#[test]
fn signals_become_events() {
    let mut signals = Signals::install().expect("installed");
    let send = |signal| raise(signal).expect("sent");

    send(Os::SIGHUP);
    assert_eq!(signals.wait(), Signal::Hup);

    // Neither kills the process nor is an event: what is reported next is the HUP behind it.
    send(Os::SIGUSR1);
    send(Os::SIGHUP);
    assert_eq!(signals.wait(), Signal::Hup);

    send(Os::SIGTERM);
    assert_eq!(signals.wait(), Signal::Stop);

    // Reported once, whichever of the two comes again.
    send(Os::SIGTERM);
    send(Os::SIGINT);
    send(Os::SIGHUP);
    assert_eq!(signals.wait(), Signal::Hup);

    // Two that arrive together are both reported.
    let mut others = Signals::install().expect("installed beside the first");
    send(Os::SIGHUP);
    send(Os::SIGINT);
    let mut events = [others.wait(), others.wait()];
    events.sort_by_key(|event| *event == Signal::Stop);
    assert_eq!(events, [Signal::Hup, Signal::Stop]);
}
