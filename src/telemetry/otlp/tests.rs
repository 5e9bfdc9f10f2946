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
