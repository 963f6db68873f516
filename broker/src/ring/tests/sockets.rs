//! Accepting, receiving, stopping, moving, and waiting for room.

use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use super::super::{Ring, RingOptions, Wait, send_vectored};
use super::{
    Event, SegmentIo, is_closed, next_event, pattern, received, ring, settle, shared, tag,
    turn_until,
};

/// Sends until the socket is full; how many bytes it took.
fn fill(socket: &OwnedFd) -> usize {
    let chunk = pattern(10_000);
    let mut taken = 0;
    loop {
        match send_vectored(
            socket.as_fd(),
            &[IoSlice::new(&chunk), IoSlice::new(&chunk)],
        ) {
            Ok(sent) => taken += sent,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return taken;
            }
        }
    }
}

#[test]
fn accepted_connections_are_echoed_to() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    ring.accept(shared(listener), 7);
    let mut clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let events = turn_until(&mut ring, |events| events.len() == 3);
    let mut servers = Vec::new();
    for (slot, event) in (0..).zip(events) {
        let Event::Accepted(7, fd) = event else {
            panic!("{event:?}")
        };
        let fd = Rc::new(fd);
        ring.receive(Rc::clone(&fd), tag(slot, 1));
        servers.push(fd);
    }
    for round in 0..10u8 {
        for client in &mut clients {
            client.write_all(&[round; 100]).unwrap();
            let Event::Received(from, data) = next_event(&mut ring) else {
                panic!()
            };
            let (first, second) = data.split_at(40);
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            let server = &servers[usize::try_from(from & 0xffff_ffff).unwrap()];
            assert_eq!(send_vectored(server.as_fd(), &parts).unwrap(), 100);
            let mut echo = [0; 100];
            client.read_exact(&mut echo).unwrap();
            assert_eq!(echo, [round; 100]);
        }
    }
    drop(clients);
    let closed = turn_until(&mut ring, |events| events.len() == 3);
    for slot in 0..3 {
        assert!(
            closed.iter().any(|event| is_closed(event, tag(slot, 1))),
            "{closed:?}"
        );
    }
}

#[test]
fn four_busy_connections_share_two_small_buffers() {
    const BYTES: usize = 1 << 20;
    let options = RingOptions {
        entries: 4,
        recv_buffers: 2,
        recv_buffer_bytes: 1024,
        segment_io: SegmentIo::Buffered,
    };
    let mut ring = Ring::new(options).unwrap();
    let mut senders = Vec::new();
    for slot in 0..4 {
        let (here, mut there) = UnixStream::pair().unwrap();
        ring.receive(shared(here), tag(slot, 9));
        senders.push(thread::spawn(move || {
            there.write_all(&pattern(BYTES)).unwrap()
        }));
    }
    let is_end = |event: &Event| matches!(event, Event::Closed(..));
    let events = turn_until(&mut ring, |events| {
        events.iter().filter(|event| is_end(event)).count() == 4
    });
    for slot in 0..4 {
        assert!(
            received(&events, tag(slot, 9)) == pattern(BYTES),
            "slot {slot} differs"
        );
        assert!(events.iter().any(|event| is_closed(event, tag(slot, 9))));
    }
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
}

#[test]
fn receives_that_wait_for_a_buffer_can_be_stopped_forgotten_and_dropped() {
    const BYTES: usize = 50_000;
    let options = RingOptions {
        entries: 8,
        recv_buffers: 1,
        recv_buffer_bytes: 512,
        segment_io: SegmentIo::Buffered,
    };
    let mut ring = Ring::new(options).unwrap();
    let mut fds = Vec::new();
    for slot in 0..4 {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&pattern(BYTES)).unwrap();
        let here = shared(here);
        ring.receive(Rc::clone(&here), tag(slot, 1));
        fds.push((here, there));
    }
    // One buffer for four connections that have much to say: most are waiting now.
    let mut events = turn_until(&mut ring, |events| events.len() > 4);
    ring.forget(tag(3, 1));
    let forgotten_at = events.len();
    ring.stop_receive(tag(0, 1));
    ring.stop_receive(tag(1, 1));
    let mut stopped = 0;
    while stopped < 2 {
        events.extend(turn_until(&mut ring, |events| !events.is_empty()));
        stopped = events
            .iter()
            .filter(|event| matches!(event, Event::Stopped(_)))
            .count();
    }
    assert!(received(&events[forgotten_at..], tag(3, 1)).is_empty());
    for (slot, (fd, _)) in (0..2).zip(&fds) {
        assert_eq!(Rc::strong_count(fd), 1);
        let mut bytes = received(&events, tag(slot, 1));
        let mut rest = vec![0; BYTES - bytes.len()];
        UnixStream::from(fd.try_clone().unwrap())
            .read_exact(&mut rest)
            .unwrap();
        bytes.extend(rest);
        assert!(bytes == pattern(BYTES), "slot {slot} differs");
    }
    ring.receive(Rc::clone(&fds[3].0), tag(3, 2));
    ring.turn(Wait::No, || true, |completion| drop(completion))
        .unwrap();
    drop(ring);
    assert!(fds.iter().all(|(fd, _)| Rc::strong_count(fd) == 1));
}

#[test]
fn connection_moves_between_rings_without_losing_a_byte() {
    const BYTES: usize = 4 << 20;
    const HOPS: usize = 30;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let sender = thread::spawn(move || client.write_all(&pattern(BYTES)).unwrap());
    let mut fd = OwnedFd::from(server);
    let mut bytes = Vec::new();
    for hop in 0..HOPS {
        let visit = move || {
            let (mut ring, tag) = (ring(), tag(3, 1));
            let shared = Rc::new(fd);
            ring.receive(Rc::clone(&shared), tag);
            let mut events = turn_until(&mut ring, |events| !events.is_empty());
            if hop + 1 == HOPS {
                let at_end = |events: &[Event]| events.iter().any(|event| is_closed(event, tag));
                if !at_end(&events) {
                    events.extend(turn_until(&mut ring, at_end));
                }
            } else {
                ring.stop_receive(tag);
                events.extend(turn_until(&mut ring, |events| {
                    events
                        .iter()
                        .any(|event| matches!(event, Event::Stopped(_)))
                }));
                assert!(
                    matches!(events.last(), Some(Event::Stopped(_))),
                    "comes last"
                );
            }
            (
                received(&events, tag),
                Rc::try_unwrap(shared).expect("the ring let go"),
            )
        };
        let (part, moved) = thread::spawn(visit).join().unwrap();
        bytes.extend(part);
        fd = moved;
    }
    sender.join().unwrap();
    assert!(bytes == pattern(BYTES), "{} bytes arrived", bytes.len());
}

#[test]
fn stop_is_answered_when_nothing_is_received() {
    let mut ring = ring();
    ring.stop_receive(tag(5, 1));
    ring.stop_receive(tag(5, 1));
    assert!(matches!(next_event(&mut ring), Event::Stopped(stopped) if stopped == tag(5, 1)));
    assert!(settle(&mut ring).is_empty());
}

#[test]
fn stop_is_answered_when_the_peer_closes_meanwhile_and_the_end_is_found_again() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    ring.receive(Rc::clone(&here), tag(0, 1));
    assert!(settle(&mut ring).is_empty());
    there.write_all(b"last words").unwrap();
    drop(there);
    ring.stop_receive(tag(0, 1));
    let events = turn_until(&mut ring, |events| {
        matches!(events.last(), Some(Event::Stopped(_)))
    });
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Closed(..))),
        "{events:?}"
    );
    let mut words = received(&events, tag(0, 1));
    ring.receive(here, tag(0, 1));
    let rest = turn_until(&mut ring, |events| {
        events.iter().any(|event| is_closed(event, tag(0, 1)))
    });
    words.extend(received(&rest, tag(0, 1)));
    assert_eq!(words, b"last words");
}

#[test]
fn reception_resumes_after_a_stop() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    for round in 0..50u8 {
        ring.receive(Rc::clone(&here), tag(0, 1));
        there.write_all(&[round]).unwrap();
        assert_eq!(received(&[next_event(&mut ring)], tag(0, 1)), [round]);
        ring.stop_receive(tag(0, 1));
        assert!(matches!(next_event(&mut ring), Event::Stopped(_)));
        assert_eq!(Rc::strong_count(&here), 1);
    }
}

#[test]
fn late_data_of_a_dead_connection_does_not_reach_the_next_user_of_its_slot() {
    let mut ring = ring();
    for forget in [true, false] {
        let (old_here, mut old_there) = UnixStream::pair().unwrap();
        let (new_here, mut new_there) = UnixStream::pair().unwrap();
        ring.receive(shared(old_here), tag(2, 1));
        assert!(settle(&mut ring).is_empty());
        // In the kernel's hands, not yet taken.
        old_there.write_all(b"old").unwrap();
        if forget {
            ring.forget(tag(2, 1));
        }
        ring.receive(shared(new_here), tag(2, 2));
        new_there.write_all(b"new").unwrap();
        let mut events = turn_until(&mut ring, |events| !events.is_empty());
        drop(old_there);
        events.extend(settle(&mut ring));
        assert_eq!(received(&events, tag(2, 2)), b"new");
        assert_eq!(events.len(), 1, "{events:?}");
        ring.forget(tag(2, 2));
        assert!(settle(&mut ring).is_empty());
    }
}

#[test]
fn forgotten_connection_is_closed_once_its_owner_lets_go() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    ring.receive(Rc::clone(&here), tag(0, 1));
    fill(&here);
    ring.poll_writable(Rc::clone(&here), tag(0, 1));
    assert!(settle(&mut ring).is_empty());
    ring.forget(tag(0, 1));
    drop(here);
    assert!(settle(&mut ring).is_empty());
    let mut rest = Vec::new();
    there
        .read_to_end(&mut rest)
        .expect("the end of the stream arrives");
}

#[test]
fn broken_connection_is_reported_with_its_error() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    ring.receive(shared(server), tag(1, 1));
    let client = socket2::Socket::from(client);
    client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let Event::Closed(_, Some(error)) = next_event(&mut ring) else {
        panic!()
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn non_blocking_sockets_are_waited_for_all_the_same() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    ring.accept(shared(listener), 1);
    let (here, mut there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    ring.receive(shared(here), tag(0, 1));
    assert!(settle(&mut ring).is_empty());
    there.write_all(b"x").unwrap();
    assert_eq!(received(&[next_event(&mut ring)], tag(0, 1)), b"x");
    let _client = TcpStream::connect(address).unwrap();
    assert!(matches!(next_event(&mut ring), Event::Accepted(1, _)));
}

#[test]
fn room_to_send_is_reported_once() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    let mut buffer = vec![0; fill(&here)];
    ring.poll_writable(Rc::clone(&here), tag(4, 1));
    ring.poll_writable(Rc::clone(&here), tag(4, 1));
    assert!(settle(&mut ring).is_empty());
    there.read_exact(&mut buffer).unwrap();
    assert!(matches!(next_event(&mut ring), Event::Writable(at) if at == tag(4, 1)));
    assert!(settle(&mut ring).is_empty());
    assert_eq!(Rc::strong_count(&here), 1);
}

#[test]
fn cancelled_wait_for_room_stays_silent_and_can_be_renewed() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    let mut buffer = vec![0; fill(&here)];
    ring.poll_writable(Rc::clone(&here), tag(4, 1));
    assert!(settle(&mut ring).is_empty());
    ring.cancel_writable(tag(4, 1));
    there.read_exact(&mut buffer).unwrap();
    assert!(settle(&mut ring).is_empty());
    ring.poll_writable(Rc::clone(&here), tag(4, 1));
    assert!(matches!(next_event(&mut ring), Event::Writable(_)));
}

#[test]
fn stop_covers_a_wait_for_room_and_an_older_cancelled_one() {
    let mut ring = ring();
    let (here, _there) = UnixStream::pair().unwrap();
    let here = shared(here);
    fill(&here);
    ring.receive(Rc::clone(&here), tag(0, 1));
    ring.poll_writable(Rc::clone(&here), tag(0, 1));
    ring.cancel_writable(tag(0, 1));
    ring.poll_writable(Rc::clone(&here), tag(0, 1));
    ring.stop_receive(tag(0, 1));
    assert!(matches!(next_event(&mut ring), Event::Stopped(_)));
    assert_eq!(Rc::strong_count(&here), 1);
    assert!(settle(&mut ring).is_empty());
}

#[test]
fn failed_accept_is_reported_once_and_can_be_tried_again() {
    let mut ring = ring();
    let (not_a_listener, _there) = UnixStream::pair().unwrap();
    ring.accept(shared(not_a_listener), 3);
    let Event::AcceptFailed(3, error) = next_event(&mut ring) else {
        panic!()
    };
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(settle(&mut ring).is_empty());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ring.accept(shared(listener), 3);
    assert!(matches!(next_event(&mut ring), Event::Accepted(3, _)));
}

#[test]
fn stopped_listener_accepts_no_more() {
    let mut ring = ring();
    let listener = shared(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = socket2::SockRef::from(&*listener).local_addr().unwrap();
    ring.accept(Rc::clone(&listener), 3);
    assert!(settle(&mut ring).is_empty());
    ring.stop_accept(3);
    assert!(settle(&mut ring).is_empty());
    assert_eq!(Rc::strong_count(&listener), 1);
    let _client = TcpStream::connect(address.as_socket().unwrap()).unwrap();
    assert!(settle(&mut ring).is_empty());
    ring.accept(listener, 3);
    assert!(matches!(next_event(&mut ring), Event::Accepted(3, _)));
}

#[test]
fn sending_to_a_gone_peer_is_an_error_and_not_a_signal() {
    let (here, there) = UnixStream::pair().unwrap();
    drop(there);
    let error = send_vectored(here.as_fd(), &[IoSlice::new(b"x")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(send_vectored(here.as_fd(), &[]).unwrap(), 0);
}

#[test]
fn more_parts_than_the_kernel_takes_are_sent_in_part() {
    let (here, _there) = UnixStream::pair().unwrap();
    let parts = vec![IoSlice::new(b"x"); 3000];
    assert_eq!(send_vectored(here.as_fd(), &parts).unwrap(), 1024);
}

#[test]
fn dropped_ring_lets_go_of_everything() {
    let mut ring = ring();
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = shared(here);
    let listener = shared(TcpListener::bind("127.0.0.1:0").unwrap());
    let (pipe, _keep_open) = io::pipe().unwrap();
    let pipe = shared(pipe);
    ring.receive(Rc::clone(&here), tag(0, 1));
    ring.accept(Rc::clone(&listener), 1);
    ring.read(1, Rc::clone(&pipe), 0, 100_000);
    assert!(settle(&mut ring).is_empty());
    there.write_all(b"not taken").unwrap();
    drop(ring);
    for held in [&here, &listener, &pipe] {
        assert_eq!(Rc::strong_count(held), 1);
    }
    // A ring with requests that never reached the kernel.
    let mut ring = super::ring();
    ring.receive(Rc::clone(&here), tag(0, 1));
    drop(ring);
    assert_eq!(Rc::strong_count(&here), 1);
}
