use std::sync::atomic::AtomicUsize;

use super::encode::{bytes, number};
use super::*;

fn parse(given: Given<'_>) -> Result<Option<Settings>, Vec<String>> {
    Settings::parse(given)
}

#[test]
fn endpoints_and_headers_are_read_as_the_standard_says() {
    assert!(parse(Given::default()).is_ok_and(|settings| settings.is_none()));
    let given = Given {
        endpoint: Some("http://collector:4318/"),
        headers: Some("api-key=k%20y%3D, x-tenant = 1"),
        service: Some("api"),
        attributes: Some("service.name=other,deployment.environment.name=prod"),
        ..Given::default()
    };
    let settings = parse(given).expect("right").expect("on");
    assert_eq!(settings.endpoint, "http://collector:4318/v1/traces");
    let headers: Vec<_> = settings.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(headers, [("api-key", &b"k y="[..]), ("x-tenant", b"1")]);
    let named = |name: &str| {
        settings.resource.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((named("service.name"), named("deployment.environment.name")), (vec!["api"], vec!["prod"]));
    let whole = Given { traces_endpoint: Some("https://x.example/otlp?a=b"), ..given };
    assert_eq!(parse(whole).expect("right").expect("on").endpoint, "https://x.example/otlp?a=b");
    assert!(!format!("{settings:?}").contains("k y"));
}

#[test]
fn what_is_wrong_is_named_and_keys_are_not_repeated() {
    let given = Given {
        endpoint: Some("https://user:hunter2@collector"),
        headers: Some("hunter2"),
        protocol: Some("grpc"),
        attributes: Some("=hunter2"),
        sampler: Some("xray"),
        ..Given::default()
    };
    let problems = parse(given).expect_err("wrong").join("\n");
    for name in ["ENDPOINT", "HEADERS", "PROTOCOL", "ATTRIBUTES", "SAMPLER"] {
        assert!(problems.contains(&format!("{name} ")), "{name}: {problems}");
    }
    assert!(!problems.contains("hunter2"), "{problems}");
    for bad in ["collector:4318", "ftp://collector", "/v1", "localhost"] {
        assert!(parse(Given { endpoint: Some(bad), ..Given::default() }).is_err(), "{bad}");
    }
}

/// The examples of "Encoding" in the documentation of Protocol Buffers.
#[test]
fn numbers_are_written_as_protocol_buffers_are() {
    let mut out = Vec::new();
    number(&mut out, 1, 150);
    bytes(&mut out, 2, b"testing");
    assert_eq!(out, [0x08, 0x96, 0x01, 0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g']);
    out.clear();
    number(&mut out, 1, (-2_i64).cast_unsigned());
    assert_eq!(out, [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
}

/// A collector that gives these answers, the last one again and again, and counts how often it was asked.
async fn collector(answers: &'static [(u16, &'static str)]) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move || {
        let (status, pause) = answers[count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
        std::future::ready((hyper::StatusCode::from_u16(status).expect("a status"), [(RETRY_AFTER, pause)]))
    };
    let router = axum::Router::new().route(TRACES, axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

/// A tracer whose spans are sent there, and what sends them.
fn exporter(url: &str) -> (Tracer, Exporter) {
    let settings = parse(Given { endpoint: Some(url), ..Given::default() }).expect("right").expect("on");
    let delay = Duration::from_millis(1);
    Exporter::new(Settings { delay, timeout: Duration::from_mins(1), ..settings }).expect("an exporter")
}

#[tokio::test]
async fn a_batch_is_sent_again_where_that_may_help() {
    for (answers, tries, is_taken) in [
        (&[(503, "0"), (429, "0"), (200, "")][..], 3, true),
        (&[(503, "0")][..], 3, false),
        (&[(400, "0")][..], 1, false),
    ] {
        let (url, asked) = collector(answers).await;
        let (tracer, exporter) = exporter(&url);
        tokio::spawn(exporter.run());
        drop(tracer.begin("x".into(), None, Duration::ZERO));
        let counts = tracer.counts().expect("on");
        let told = || [&counts.exported, &counts.failed].map(|count| count.load(Ordering::Relaxed));
        timeout(Duration::from_secs(30), async {
            while told() == [0, 0] {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("an end");
        assert_eq!(
            (told(), asked.load(Ordering::Relaxed)),
            ([is_taken.into(), (!is_taken).into()], tries),
            "{answers:?}"
        );
    }
}

/// It asks for half a minute: nothing comes in the second after which it would else.
#[tokio::test]
async fn a_collector_says_when_to_come_back() {
    let (url, asked) = collector(&[(503, "30")]).await;
    let (tracer, exporter) = exporter(&url);
    tokio::spawn(exporter.run());
    drop(tracer.begin("x".into(), None, Duration::ZERO));
    timeout(Duration::from_secs(30), async {
        while asked.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("an attempt");
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// It takes connections and says nothing: the process ends all the same.
#[tokio::test]
async fn the_end_does_not_wait_for_a_collector_that_hangs() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (tracer, mut exporter) = exporter(&format!("http://{}", listener.local_addr().expect("an address")));
    exporter.settings.timeout = Duration::from_millis(20);
    drop(tracer.begin("x".into(), None, Duration::ZERO));
    tracer.close();
    timeout(Duration::from_secs(30), exporter.run()).await.expect("an end");
    assert_eq!(tracer.counts().expect("on").failed.load(Ordering::Relaxed), 1);
}
