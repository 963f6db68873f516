//! Rules one by one, then random scripts against a naive model.

mod model;

use super::*;

const SECOND: i64 = 1_000_000_000;
const ALL: usize = usize::MAX;

fn registry() -> Registry {
    Registry::new(Limits {
        registrations_max: 100,
        keys_max: 100,
    })
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name.as_bytes()).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name.as_bytes()).unwrap()
}

fn announcement(host: &str) -> Announcement {
    Announcement {
        remote_address: "10.0.0.1:5000".to_owned(),
        hostname: "h".to_owned(),
        broadcast_address: host.to_owned(),
        tcp_port: 4150,
        http_port: 4151,
        version: "1.3.0".to_owned(),
        topology_zone: String::new(),
        topology_region: String::new(),
    }
}

fn visibility(now: i64) -> Visibility {
    Visibility {
        now: Now(now),
        inactive_timeout: 300 * SECOND,
        tombstone_lifetime: 45 * SECOND,
    }
}

/// The producers that a lookup of the topic shows.
fn shown(registry: &Registry, name: &str, now: i64) -> Vec<ProducerId> {
    let (topic, visibility) = (registry.topic(name).expect("known"), visibility(now));
    let producers = topic.producers_after(None).filter(|producer| {
        visibility.is_active(producer)
            && !visibility.is_tombstoned(topic.tombstone_of(producer.id()))
    });
    producers.map(|producer| producer.id()).collect()
}

fn channels(registry: &Registry, name: &str) -> Vec<String> {
    let topic = registry.topic(name).expect("known");
    topic
        .channels_after(None)
        .map(ToString::to_string)
        .collect()
}

fn leave(registry: &mut Registry, id: ProducerId) -> Removed {
    let mut removed = Removed::default();
    assert_eq!(registry.leave(id, ALL, &mut removed), Progress::Done);
    registry.check_invariants();
    removed
}

fn unregister(registry: &mut Registry, id: ProducerId, name: &str) -> Removed {
    let mut removed = Removed::default();
    let progress = registry.unregister_topic(id, &topic(name), ALL, &mut removed);
    assert_eq!(progress, Progress::Done);
    registry.check_invariants();
    removed
}

fn tombstone(registry: &mut Registry, name: &str, node: &str, now: i64) {
    let tombstone = Tombstone {
        node: NodeAddress::parse(node).expect("an address"),
        set: Now(now),
    };
    assert_eq!(
        registry.tombstone(name, &tombstone, &mut None, ALL),
        Progress::Done
    );
    registry.check_invariants();
}

#[test]
fn a_channel_brings_its_topic_and_comes_once() {
    let mut registry = registry();
    let id = registry.identify(announcement("a"), Now(0)).id();
    let register = |registry: &mut Registry| {
        registry
            .register(id, &topic("t"), Some(&channel("c")))
            .expect("room")
    };
    let added = register(&mut registry);
    assert_eq!((added.topic, added.channel), (true, true));
    assert_eq!(register(&mut registry), Added::default());
    assert_eq!(shown(&registry, "t", 0), [id]);
    assert_eq!(channels(&registry, "t"), ["c"]);
    registry.check_invariants();
}

#[test]
fn silence_hides_and_a_ping_shows_again() {
    let mut registry = registry();
    let producer = registry.identify(announcement("a"), Now(0));
    registry.register(producer.id(), &topic("t"), None).unwrap();
    assert_eq!(shown(&registry, "t", 300 * SECOND), [producer.id()]);
    assert_eq!(shown(&registry, "t", 300 * SECOND + 1), []);
    assert_eq!(producer.touch(Now(400 * SECOND)), Now(0));
    assert_eq!(shown(&registry, "t", 700 * SECOND), [producer.id()]);
}

#[test]
fn a_tombstone_hides_for_its_topic_and_its_time() {
    let mut registry = registry();
    let [a, b] = ["a", "b"].map(|host| registry.identify(announcement(host), Now(0)).id());
    for id in [a, b] {
        registry.register(id, &topic("t"), None).unwrap();
        registry.register(id, &topic("u"), None).unwrap();
    }
    tombstone(&mut registry, "t", "a:4151", 0);
    tombstone(&mut registry, "unknown", "a:4151", 0);
    assert_eq!(shown(&registry, "t", 45 * SECOND - 1), [b]);
    assert_eq!(shown(&registry, "u", 0), [a, b]);
    assert_eq!(shown(&registry, "t", 45 * SECOND), [a, b]);
    // A REGISTER of what is registered changes nothing; one after an UNREGISTER starts clean.
    assert_eq!(
        registry.register(a, &topic("t"), None),
        Ok(Added::default())
    );
    assert_eq!(shown(&registry, "t", 1), [b]);
    unregister(&mut registry, a, "t");
    registry.register(a, &topic("t"), None).unwrap();
    assert_eq!(shown(&registry, "t", 1), [a, b]);
}

#[test]
fn nodes_are_named_as_announced_and_ipv6_in_brackets_too() {
    let mut registry = registry();
    let producer = registry.identify(announcement("fe80::1"), Now(0));
    let is_at = |text: &str| NodeAddress::parse(text).is_some_and(|node| producer.is_at(&node));
    for (text, expected) in [
        ("fe80::1:4151", true),
        ("[fe80::1]:4151", true),
        ("fe80::1:4150", false),
        ("fe80::1:04151", false),
        ("[fe80::1:4151", false),
        ("fe80::2:4151", false),
        ("4151", false),
        ("", false),
    ] {
        assert_eq!(is_at(text), expected, "{text}");
    }
}

#[test]
fn topics_and_channels_outlive_producers_unless_ephemeral() {
    let mut registry = registry();
    let id = registry.identify(announcement("a"), Now(0)).id();
    for (name, of) in [("t", "c"), ("t", "e#ephemeral"), ("e#ephemeral", "c")] {
        registry
            .register(id, &topic(name), Some(&channel(of)))
            .unwrap();
    }
    let removed = leave(&mut registry, id);
    assert_eq!(removed.registrations.len(), 5);
    assert_eq!(channels(&registry, "t"), ["c"]);
    assert!(registry.topic("e#ephemeral").is_none());
    assert_eq!(registry.keys(), 2);
}

#[test]
fn a_topic_takes_its_channels_along() {
    let mut registry = registry();
    let [a, b] = ["a", "b"].map(|host| registry.identify(announcement(host), Now(0)).id());
    for id in [a, b] {
        registry
            .register(id, &topic("t"), Some(&channel("c")))
            .unwrap();
    }
    registry
        .register(a, &topic("t"), Some(&channel("d")))
        .unwrap();
    let removed = unregister(&mut registry, a, "t").registrations;
    let names = removed
        .iter()
        .map(|gone| gone.channel.as_ref().map(ChannelName::as_str));
    assert_eq!(names.collect::<Vec<_>>(), [Some("c"), Some("d"), None]);
    assert_eq!(shown(&registry, "t", 0), [b]);
    assert_eq!(channels(&registry, "t"), ["c", "d"]);
    assert_eq!(unregister(&mut registry, a, "t").registrations, []);
}

#[test]
fn a_producer_that_leaves_is_hidden_before_it_is_gone() {
    let mut registry = registry();
    let id = registry.identify(announcement("a"), Now(0)).id();
    for name in ["t", "u", "v"] {
        registry.register(id, &topic(name), None).unwrap();
    }
    let mut removed = Removed::default();
    assert_eq!(registry.leave(id, 1, &mut removed), Progress::More);
    for name in ["t", "u", "v"] {
        assert_eq!(shown(&registry, name, 0), [], "{name}");
    }
    while registry.leave(id, 1, &mut removed) == Progress::More {}
    assert_eq!(removed.registrations.len(), 3);
    assert_eq!(registry.nodes_after(None).count(), 0);
    assert_eq!(registry.leave(id, 1, &mut removed), Progress::Done);
}

#[test]
fn deleting_takes_the_registrations_along() {
    let mut registry = registry();
    let id = registry.identify(announcement("a"), Now(0)).id();
    registry
        .register(id, &topic("t"), Some(&channel("c")))
        .unwrap();
    registry
        .register(id, &topic("t"), Some(&channel("d")))
        .unwrap();
    assert_eq!(
        registry.delete_channel(&topic("t"), &channel("x"), ALL),
        None
    );
    assert_eq!(
        registry.delete_channel(&topic("t"), &channel("c"), ALL),
        Some(Progress::Done)
    );
    assert_eq!(channels(&registry, "t"), ["d"]);
    registry.check_invariants();
    let mut names = Vec::new();
    assert_eq!(
        registry.delete_topic(&topic("t"), ALL, &mut names),
        Some(Progress::Done)
    );
    assert_eq!(names, [channel("d")]);
    assert!(registry.topic("t").is_none());
    assert_eq!(registry.delete_topic(&topic("t"), ALL, &mut names), None);
    registry.check_invariants();
    assert_eq!(leave(&mut registry, id).registrations, []);
}

#[test]
fn limits_refuse_and_leave_everything_as_it_is() {
    let mut registry = Registry::new(Limits {
        registrations_max: 3,
        keys_max: 4,
    });
    let a = registry.identify(announcement("a"), Now(0)).id();
    let b = registry.identify(announcement("b"), Now(0)).id();
    registry
        .register(a, &topic("t"), Some(&channel("c")))
        .unwrap();
    registry.register(a, &topic("u"), None).unwrap();
    let more = registry.register(a, &topic("v"), None);
    assert_eq!(more, Err(Refusal::TooManyRegistrations));
    assert_eq!(
        registry.register(a, &topic("t"), Some(&channel("c"))),
        Ok(Added::default())
    );
    let more = registry.register(b, &topic("v"), Some(&channel("c")));
    assert_eq!(more, Err(Refusal::TooManyKeys));
    assert_eq!(registry.keys(), 3);
    assert!(registry.topic("v").is_none());
    assert_eq!(registry.create(&topic("v"), None), Ok(()));
    assert_eq!(registry.create(&topic("v"), None), Ok(()));
    assert_eq!(
        registry.create(&topic("w"), None),
        Err(Refusal::TooManyKeys)
    );
    registry.check_invariants();
}
