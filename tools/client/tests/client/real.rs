//! Against real brokers. Each test says so when there is none.

use std::collections::HashSet;
use std::time::Duration;

use nsq_client::{Batch, Config, Consumer, Log, Producer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::broker::Broker;
use crate::support::{Lines, config, soon};

/// Messages of a round trip; more than fits any buffer on the way.
const COUNT: u32 = 10_000;

async fn publish(broker: &Broker, config: &Config, log: Log) -> Producer {
    let producer = Producer::new(&broker.address, config, log).unwrap();
    let mut receipts = Vec::new();
    let bodies: Vec<_> = (0..COUNT).map(body).collect();
    let (single, batched) = bodies.split_at(bodies.len() / 2);
    for body in single {
        receipts.push(soon(producer.send("t", body.clone())).await.unwrap());
    }
    for bodies in batched.chunks(100) {
        let batch: Batch = bodies.iter().collect();
        receipts.push(soon(producer.send_batch("t", &batch)).await.unwrap());
    }
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    producer
}

/// The n-th body: of every size up to a few hundred bytes, partly compressible.
fn body(number: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number.into());
    let mut body = number.to_be_bytes().to_vec();
    body.extend(std::iter::repeat_with(|| random.u8(b'a'..b'e')).take((number % 300) as usize));
    body
}

async fn consume_all(consumer: &Consumer) {
    let (mut seen, mut batch) = (HashSet::new(), Vec::new());
    while seen.len() < COUNT as usize {
        assert!(soon(consumer.recv_many(&mut batch, 1000)).await > 0);
        for message in batch.drain(..) {
            let number = message
                .body()
                .first_chunk()
                .map(|n| u32::from_be_bytes(*n))
                .unwrap();
            assert_eq!(message.body(), &body(number));
            seen.insert(number);
            message.finish();
        }
    }
}

async fn round_trip(broker: &Broker, config: Config, lines: &Lines) {
    let consumer = Consumer::builder("t", "c")
        .config(config.clone())
        .log(lines.log())
        .build()
        .unwrap();
    consumer.connect_to_nsqds([&broker.address]).await.unwrap();
    let producer = publish(broker, &config, lines.log()).await;
    consume_all(&consumer).await;
    assert_eq!(soon(consumer.stop()).await, Ok(()));
    soon(producer.stop()).await;
}

#[tokio::test]
async fn what_is_published_is_consumed() {
    for broker in Broker::all() {
        let lines = Lines::default();
        round_trip(&broker, config(&[("max_in_flight", "2500")]), &lines).await;
        for trouble in ["WRN  1", "ERR", "error"] {
            assert!(!lines.contain(trouble), "{}", lines.text());
        }
    }
}

#[tokio::test]
async fn what_fails_comes_again() {
    for broker in Broker::all() {
        let producer = Producer::new(&broker.address, &config(&[]), Log::silent()).unwrap();
        soon(producer.publish("t", "x")).await.unwrap();
        let consumer = Consumer::builder("t", "c")
            .config(config(&[("backoff_multiplier", "1ms")]))
            .build()
            .unwrap();
        consumer.connect_to_nsqds([&broker.address]).await.unwrap();
        for attempts in 1..=4 {
            let message = soon(consumer.recv()).await.unwrap();
            assert_eq!(message.attempts(), attempts);
            message.touch();
            match attempts {
                1 => message.requeue(Some(Duration::ZERO)),
                2 => message.requeue_without_backoff(Some(Duration::from_millis(20))),
                3 => message.requeue(Some(Duration::from_millis(1))),
                _ => message.finish(),
            }
        }
        assert_eq!(soon(consumer.stop()).await, Ok(()));
    }
}

#[tokio::test]
async fn refusals_are_those_of_the_broker() {
    for broker in Broker::all() {
        let lines = Lines::default();
        let producer = Producer::new(&broker.address, &config(&[]), lines.log()).unwrap();
        let error = soon(producer.publish("a$", "x")).await.unwrap_err();
        let expected = r#"E_BAD_TOPIC PUB topic name "a$" is not valid"#;
        assert_eq!(error.to_string(), expected);
        let huge = vec![0; 2 << 20];
        let error = soon(producer.publish("t", huge)).await.unwrap_err();
        let expected = "E_BAD_MESSAGE PUB message too big 2097152 > 1048576";
        assert_eq!(error.to_string(), expected, "{}", lines.text());
        soon(producer.publish("t", "x")).await.unwrap();
    }
}

/// Certificates of an authority of our own, in files.
struct Certificates {
    directory: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let certificates = Self { directory };
        certificates.write("ca.pem", &root.pem());
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            certificates.write(&format!("{name}.pem"), &certificate.pem());
            certificates.write(&format!("{name}.key"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// Flags of an nsqd that shows its certificate, and wants one of this authority.
    fn flags(&self) -> Vec<String> {
        vec![
            format!("-tls-cert={}", self.path("server.pem")),
            format!("-tls-key={}", self.path("server.key")),
            format!("-tls-root-ca-file={}", self.path("ca.pem")),
            "-tls-client-auth-policy=require-verify".to_owned(),
        ]
    }

    /// Options of a client that trusts the authority and shows its certificate.
    fn config(&self) -> Config {
        config(&[
            ("tls_v1", "true"),
            ("tls_root_ca_file", &self.path("ca.pem")),
            ("tls_cert", &self.path("client.pem")),
            ("tls_key", &self.path("client.key")),
            ("max_in_flight", "2500"),
        ])
    }
}

#[tokio::test]
async fn the_layers_carry_everything() {
    let certificates = Certificates::new();
    let flags = certificates.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let pairs = [
        (Broker::ours(&flags), Broker::ours(&[])),
        (Broker::reference(&flags), Broker::reference(&[])),
    ];
    for (inside, plain) in pairs {
        let (Some(inside), Some(plain)) = (inside, plain) else {
            continue;
        };
        for (tls, broker) in [(true, &inside), (false, &plain)] {
            every_compression(&certificates, tls, broker).await;
        }
    }
}

async fn every_compression(certificates: &Certificates, tls: bool, broker: &Broker) {
    let layers = [
        ("", ""),
        ("snappy", "upgrading to Snappy"),
        ("deflate", "upgrading to Deflate"),
    ];
    for (option, said) in layers {
        let mut config = certificates.config();
        config.tls_v1 = tls;
        if !option.is_empty() {
            config.set_option(option).unwrap();
        }
        let lines = Lines::default();
        round_trip(broker, config, &lines).await;
        assert!(lines.contain(said));
        assert_eq!(lines.contain("upgrading to TLS"), tls);
    }
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let certificates = Certificates::new();
    let flags = certificates.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let both = [Broker::ours(&flags), Broker::reference(&flags)];
    for broker in both.into_iter().flatten() {
        certificates_matter_to(&broker, &certificates).await;
    }
}

async fn certificates_matter_to(broker: &Broker, certificates: &Certificates) {
    let others = Certificates::new();
    let mut config = certificates.config();
    config
        .set("tls_root_ca_file", &others.path("ca.pem"))
        .unwrap();
    let publish = async |config: &Config| {
        let producer = Producer::new(&broker.address, config, Log::silent()).unwrap();
        soon(producer.publish("t", "x")).await
    };
    let error = publish(&config).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    config.set("tls_insecure_skip_verify", "true").unwrap();
    publish(&config).await.unwrap();
    // Without a certificate of its own the nsqd does not take it.
    let stranger = crate::support::config(&[
        ("tls_v1", "true"),
        ("tls_root_ca_file", &certificates.path("ca.pem")),
    ]);
    assert!(publish(&stranger).await.is_err());
}
