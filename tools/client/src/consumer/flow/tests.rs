use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A flow, its clock, and the RDY that each connection has been sent.
struct Scene {
    flow: Flow,
    now: Instant,
    ready: BTreeMap<u64, u32>,
    said: Vec<Action>,
}

impl Scene {
    fn new(options: &[(&str, &str)]) -> Self {
        let mut config = Config::new();
        for (key, value) in options {
            config.set(key, value).unwrap();
        }
        let now = Instant::now();
        Self {
            flow: Flow::new(&config, fastrand::Rng::with_seed(1), now),
            now,
            ready: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    /// Does it, carries out what follows, and checks that it may.
    fn act(&mut self, act: impl FnOnce(&mut Flow, Instant)) -> &mut Self {
        act(&mut self.flow, self.now);
        for action in self.flow.take_actions() {
            if let Action::Ready(id, count) = action {
                assert_ne!(self.ready.insert(id.0, count), Some(count), "sent twice");
            } else {
                self.said.push(action);
            }
        }
        self.flow.check_invariants();
        self
    }

    fn open(&mut self, id: u64) -> &mut Self {
        self.open_with(id, 2500)
    }

    fn open_with(&mut self, id: u64, ready_max: u32) -> &mut Self {
        self.act(|flow, now| flow.on_open(ConnectionId(id), ready_max, now))
    }

    fn close(&mut self, id: u64) -> &mut Self {
        self.act(|flow, now| flow.on_close(ConnectionId(id), now));
        self.ready.remove(&id);
        self
    }

    /// Lets time pass, doing what is due when it is due.
    fn pass(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        while self.flow.deadline() <= end {
            self.now = self.flow.deadline();
            self.act(Flow::on_time);
        }
        self.now = end;
        self
    }

    fn fail(&mut self) -> &mut Self {
        self.act(Flow::on_failure)
    }

    fn succeed(&mut self) -> &mut Self {
        self.act(Flow::on_success)
    }

    fn ready(&self) -> Vec<u32> {
        self.ready.values().copied().collect()
    }

    fn said(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.said)
    }
}

#[test]
fn connections_share_what_may_be_in_flight() {
    let mut scene = Scene::new(&[("max_in_flight", "200")]);
    assert_eq!(scene.open(1).ready(), [200]);
    assert_eq!(scene.open(2).ready(), [100, 100]);
    assert_eq!(scene.open(3).ready(), [66, 66, 66]);
    assert_eq!(scene.close(2).ready(), [100, 100]);
    assert_eq!(scene.close(1).ready(), [200]);
}

#[test]
fn no_connection_gets_more_than_its_nsqd_takes() {
    let mut scene = Scene::new(&[("max_in_flight", "200")]);
    assert_eq!(scene.open_with(1, 10).ready(), [10]);
    assert_eq!(scene.open_with(2, 0).ready(), [10]);
    assert_eq!(scene.open_with(3, 2500).ready.get(&3), Some(&66));
}

#[test]
fn what_may_be_in_flight_can_change() {
    let mut scene = Scene::new(&[("max_in_flight", "10")]);
    scene.open(1).open(2).open(3);
    let change = |scene: &mut Scene, max| {
        scene
            .act(|flow, now| flow.on_max_in_flight(max, now))
            .ready()
    };
    assert_eq!(change(&mut scene, 30), [10, 10, 10]);
    assert_eq!(change(&mut scene, 0), [0, 0, 0]);
    let two = change(&mut scene, 2);
    assert_eq!(two.iter().sum::<u32>(), 2, "{two:?}");
    assert_eq!(change(&mut scene, 3), [1, 1, 1]);
}

#[test]
fn a_closing_connection_leaves_its_share_to_the_others() {
    let mut scene = Scene::new(&[("max_in_flight", "10")]);
    scene.open(1).open(2);
    scene.act(|flow, now| flow.on_closing(ConnectionId(1), now));
    assert_eq!(scene.ready[&2], 10);
    scene.fail();
    assert_eq!(scene.ready[&2], 0);
}

#[test]
fn scarce_ready_moves_from_silent_connections() {
    let mut scene = Scene::new(&[("max_in_flight", "2"), ("low_rdy_idle_timeout", "10s")]);
    scene.open(1).open(2).open(3).open(4);
    assert_eq!(scene.ready(), [1, 1]);
    let mut served = [false; 4];
    for _ in 0..40 {
        scene.pass(5 * SECOND);
        assert_eq!(scene.ready.values().sum::<u32>(), 2);
        for (id, count) in &scene.ready {
            served[usize::try_from(*id).unwrap() - 1] |= *count > 0;
        }
    }
    assert_eq!(served, [true; 4]);
}

#[test]
fn a_busy_connection_keeps_scarce_ready_until_the_longer_timeout() {
    let mut scene = Scene::new(&[("max_in_flight", "1")]);
    scene.open(1).open(2);
    let mut seconds = 0;
    while scene.ready[&1] == 1 {
        scene.flow.note_message(ConnectionId(1), scene.now);
        scene.pass(SECOND);
        seconds += 1;
        assert!(seconds <= 120, "never moved");
    }
    assert!(seconds >= 30, "moved after {seconds} s");
}

#[test]
fn a_lost_share_is_taken_over_at_once() {
    let mut scene = Scene::new(&[("max_in_flight", "1")]);
    scene.open(1).open(2);
    assert_eq!(scene.ready(), [1]);
    assert_eq!(scene.close(1).ready(), [1]);
}

#[test]
fn failures_back_off_and_successes_return() {
    let mut scene = Scene::new(&[("max_in_flight", "200")]);
    scene.open(1);
    scene.fail();
    assert_eq!(scene.ready(), [0]);
    assert_eq!(scene.said(), [Action::BackingOff(2 * SECOND, 1)]);
    // One result per back-off counts.
    scene.fail().succeed().fail();
    assert!(scene.said().is_empty() && scene.flow.is_backing_off());
    scene.pass(2 * SECOND);
    assert_eq!(scene.said(), [Action::Resuming(ConnectionId(1))]);
    assert_eq!(scene.ready(), [1]);
    scene.fail();
    assert_eq!(scene.said(), [Action::BackingOff(4 * SECOND, 2)]);
    scene.pass(4 * SECOND).succeed();
    let expected = [
        Action::Resuming(ConnectionId(1)),
        Action::BackingOff(2 * SECOND, 1),
    ];
    assert_eq!(scene.said(), expected);
    scene.pass(2 * SECOND).succeed();
    let expected = [
        Action::Resuming(ConnectionId(1)),
        Action::ExitingBackoff(200),
    ];
    assert_eq!(scene.said(), expected);
    assert_eq!(scene.ready(), [200]);
    assert!(!scene.flow.is_backing_off());
    assert!(scene.succeed().said().is_empty());
}

#[test]
fn the_time_of_a_back_off_is_bounded() {
    let options = [
        ("max_backoff_duration", "10s"),
        ("backoff_multiplier", "1s"),
    ];
    let mut scene = Scene::new(&options);
    scene.open(1);
    for (duration, level) in [(2, 1), (4, 2), (8, 3), (8, 3)] {
        scene.fail();
        let said = scene.said();
        assert_eq!(
            said.last(),
            Some(&Action::BackingOff(duration * SECOND, level))
        );
        scene.pass(duration * SECOND);
    }
}

#[test]
fn back_off_can_be_switched_off() {
    for strategy in ["exponential", "full_jitter"] {
        let options = [
            ("max_backoff_duration", "0s"),
            ("backoff_strategy", strategy),
        ];
        let mut scene = Scene::new(&options);
        scene.open(1).fail().fail();
        assert_eq!(scene.ready(), [1]);
        assert!(scene.said().is_empty());
    }
}

#[test]
fn jitter_stays_below_the_exponential_time() {
    let mut scene = Scene::new(&[("backoff_strategy", "full_jitter")]);
    scene.open(1);
    for _ in 0..100 {
        scene.fail();
        for action in scene.said() {
            if let Action::BackingOff(duration, level) = action {
                assert!(
                    duration <= 2_u32.pow(level) * SECOND,
                    "{duration:?} at {level}"
                );
            }
        }
        scene.pass(120 * SECOND);
    }
}

#[test]
fn a_requeue_without_failure_only_prolongs() {
    let mut scene = Scene::new(&[]);
    scene.open(1).act(Flow::on_neither);
    assert!(scene.said().is_empty());
    scene.fail().pass(2 * SECOND).act(Flow::on_neither);
    assert_eq!(
        scene.said().last(),
        Some(&Action::BackingOff(2 * SECOND, 1))
    );
}

#[test]
fn in_back_off_a_lost_probe_is_asked_of_another_connection() {
    let mut scene = Scene::new(&[("max_in_flight", "200")]);
    scene.open(1).fail().pass(2 * SECOND);
    assert_eq!(scene.ready(), [1]);
    scene.close(1).open(2);
    assert_eq!(scene.ready[&2], 1);
    scene.open(3);
    assert_eq!(scene.ready.get(&3), None);
    scene.close(2);
    assert_eq!(scene.ready[&3], 1);
}

#[test]
fn in_back_off_without_connections_it_looks_again() {
    let mut scene = Scene::new(&[]);
    scene.open(1).fail().close(1).pass(2 * SECOND);
    assert_eq!(scene.said().last(), Some(&Action::NothingToResume(SECOND)));
    scene.open(2);
    assert_eq!(scene.ready.get(&2), None);
    scene.pass(SECOND);
    assert_eq!(scene.ready[&2], 1);
}

#[test]
fn in_back_off_the_probe_wanders() {
    let mut scene = Scene::new(&[("max_in_flight", "200")]);
    scene.open(1).open(2).open(3).fail().pass(2 * SECOND);
    let mut served = [false; 3];
    for _ in 0..40 {
        scene.pass(5 * SECOND);
        assert_eq!(scene.ready.values().sum::<u32>(), 1);
        for (id, count) in &scene.ready {
            served[usize::try_from(*id).unwrap() - 1] |= *count > 0;
        }
    }
    assert_eq!(served, [true; 3]);
}
