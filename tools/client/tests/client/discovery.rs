use nsq_client::Consumer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::fake::Fake;
use crate::support::{Lines, config, eventually, soon};

/// An nsqlookupd that serves one request and returns what was asked.
async fn answer_one(listener: &TcpListener, status: &str, body: &str) -> String {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        soon(stream.read_exact(&mut byte)).await.unwrap();
        request.push(byte[0]);
    }
    let (len, header) = (body.len(), "X-NSQ-Content-Type: nsq; version=1.0");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\n{header}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

fn producers(nsqds: &[&Fake]) -> String {
    let list: Vec<_> = nsqds
        .iter()
        .map(|nsqd| {
            let address = nsqd.address();
            let (host, port) = address.rsplit_once(':').unwrap();
            format!(r#"{{"broadcast_address":"{host}","tcp_port":{port}}}"#)
        })
        .collect();
    format!(r#"{{"channels":[],"producers":[{}]}}"#, list.join(","))
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn what_any_lookupd_knows_is_connected_to() {
    let (nsqd, other) = (Fake::listen().await, Fake::listen().await);
    let ((first, first_address), (second, second_address)) = (listen().await, listen().await);
    let (down, down_address) = listen().await;
    drop(down);
    let lines = Lines::default();
    let consumer = Consumer::builder("t", "c")
        .config(config(&[("auth_secret", "s")]))
        .log(lines.log())
        .build()
        .unwrap();
    let addresses = [
        first_address,
        format!("http://{second_address}/"),
        down_address.clone(),
    ];
    let (all, some) = (producers(&[&other, &nsqd]), producers(&[&nsqd]));
    let (connected, request, _) = tokio::join!(
        consumer.connect_to_lookupds(addresses),
        answer_one(&first, "200 OK", &some),
        answer_one(&second, "200 OK", &all),
    );
    connected.unwrap();
    nsqd.accept_consumer().await;
    other.accept_consumer().await;
    assert!(
        request.starts_with("GET /lookup?topic=t HTTP/1.1\r\n"),
        "{request}"
    );
    for header in [
        "accept: application/vnd.nsq; version=1.0",
        "authorization: Bearer s",
    ] {
        assert!(request.contains(header), "{request}");
    }
    let url = format!("http://{down_address}/lookup?topic=t");
    let line = format!(
        "error querying nsqlookupd ({url}) - Get {url:?}: dial tcp {down_address}: connect: connection refused"
    );
    assert!(lines.contain(&line), "{}", lines.text());
    let bad = consumer.connect_to_lookupds(["host"]).await;
    assert_eq!(bad.unwrap_err().to_string(), "missing port");
}

#[tokio::test]
async fn a_round_without_any_answer_is_tried_three_times_and_then_later() {
    let nsqd = Fake::listen().await;
    let (lookupd, address) = listen().await;
    let lines = Lines::default();
    let consumer = Consumer::builder("t", "c")
        .config(config(&[("lookupd_poll_interval", "10ms")]))
        .log(lines.log())
        .build()
        .unwrap();
    let answers = async {
        for _ in 0..3 {
            answer_one(
                &lookupd,
                "404 Not Found",
                r#"{"message":"TOPIC_NOT_FOUND"}"#,
            )
            .await;
        }
    };
    let (connected, ()) = tokio::join!(consumer.connect_to_lookupds([&address]), answers);
    connected.unwrap();
    let line = r#"got response 404 Not Found "{\"message\":\"TOPIC_NOT_FOUND\"}""#;
    assert_eq!(lines.text().matches(line).count(), 3, "{}", lines.text());
    answer_one(&lookupd, "200 OK", &producers(&[&nsqd])).await;
    nsqd.accept_consumer().await;
}

#[tokio::test]
async fn a_lost_connection_is_looked_for_before_the_next_poll() {
    let nsqd = Fake::listen().await;
    let (lookupd, address) = listen().await;
    let consumer = Consumer::builder("t", "c").build().unwrap();
    let answer = producers(&[&nsqd]);
    let (connected, _) = tokio::join!(
        consumer.connect_to_lookupds([&address]),
        answer_one(&lookupd, "200 OK", &answer),
    );
    connected.unwrap();
    drop(nsqd.accept_consumer().await);
    eventually("no connection", || consumer.stats().connections == 0).await;
    // The interval is a minute: it would take too long.
    answer_one(&lookupd, "200 OK", &producers(&[&nsqd])).await;
    nsqd.accept_consumer().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_lookup() {
    let (_silent, address) = listen().await;
    let consumer = Consumer::builder("t", "c").build().unwrap();
    let (connected, stopped) = tokio::join!(
        soon(consumer.connect_to_lookupds([&address])),
        soon(consumer.stop())
    );
    assert!(connected.is_err());
    assert_eq!(stopped, Ok(()));
}
