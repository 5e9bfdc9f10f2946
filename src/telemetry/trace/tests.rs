use super::*;

fn parse(header: &str) -> Option<(String, String, bool)> {
    Remote::parse(header).map(|remote| (remote.trace.to_string(), remote.span.to_string(), remote.sampled))
}

/// The examples of the recommendation, and what its validation suite sends that is wrong.
#[test]
fn traceparent_is_read_as_the_recommendation_says() {
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), "00f067aa0ba902b7".to_owned());
    let good = |flags: &str, sampled| {
        assert_eq!(parse(&format!("00-{trace}-{span}-{flags}")), Some((trace.clone(), span.clone(), sampled)));
    };
    good("01", true);
    good("00", false);
    good("ff", true);
    assert!(parse(&format!("cc-{trace}-{span}-01")).is_some());
    assert!(parse(&format!("cc-{trace}-{span}-01-what-the-future-will-be-like")).is_some());
    for bad in [
        String::new(),
        format!("ff-{trace}-{span}-01"),
        format!("00-{trace}-{span}-01-what-the-future-will-be-like"),
        format!("00-{trace}-{span}-01."),
        format!("cc-{trace}-{span}-01.what"),
        format!("00-{}-{span}-01", "0".repeat(32)),
        format!("00-{trace}-{}-01", "0".repeat(16)),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("0x-{trace}-{span}-01"),
        format!("00-{trace}-{span}-0"),
        format!("00-{trace}-{span}"),
        format!("00-+{}-{span}-01", &trace[1..]),
        format!("00-{}é-{span}-01", &trace[2..]),
    ] {
        assert_eq!(parse(&bad), None, "{bad}");
    }
}

#[test]
fn samplers_have_the_names_of_the_standard() {
    assert_eq!(Sampler::parse(None, None), Ok(Sampler { ratio: 1.0, parent_based: true }));
    let share = Sampler::parse(Some("traceidratio"), Some("0.25"));
    assert_eq!(share, Ok(Sampler { ratio: 0.25, parent_based: false }));
    let never = Sampler::parse(Some("parentbased_always_off"), Some("nonsense"));
    assert_eq!(never, Ok(Sampler { ratio: 0.0, parent_based: true }));
    for (name, argument) in [("jaeger_remote", "1"), ("traceidratio", "2"), ("traceidratio", "NaN")] {
        assert!(Sampler::parse(Some(name), Some(argument)).is_err(), "{name} {argument}");
    }
}

#[test]
fn a_share_is_drawn() {
    let sampler = Sampler { ratio: 0.25, parent_based: false };
    let drawn = (0..2_000).filter(|_| sampler.draws()).count();
    // Ten times the standard deviation, which is 19.
    assert!((300..700).contains(&drawn), "{drawn}");
}

fn tracer(ratio: f64, believes: bool, room: usize) -> (Tracer, mpsc::UnboundedReceiver<Vec<Ended>>) {
    let (tracer, _, queue) = Tracer::new(Sampler { ratio, parent_based: true }, believes, room);
    (tracer, queue)
}

/// A stranger neither has everything recorded nor hides.
#[test]
fn a_caller_decides_only_where_it_is_believed() {
    let remote = |sampled| Some(Remote { trace: TraceId(7), span: SpanId(9), sampled });
    let records = |ratio, believes, sampled| {
        tracer(ratio, believes, 8).0.begin("x".into(), remote(sampled), Duration::ZERO).is_some()
    };
    assert!(!records(0.0, false, true) && records(1.0, false, false));
    assert!(records(0.0, true, true) && !records(1.0, true, false));
}

#[test]
fn spans_hang_together_and_their_number_is_bounded() {
    let (tracer, mut queue) = tracer(1.0, false, 4 * MAX_SPANS);
    let remote = Remote { trace: TraceId(7), span: SpanId(9), sampled: false };
    let root = tracer.begin("root".into(), Some(remote), Duration::from_secs(5)).expect("recorded");
    let child = root.scope().child("child", Kind::Client).expect("recorded");
    for _ in 0..MAX_SPANS {
        drop(child.scope().child("grandchild", Kind::Internal));
    }
    let (root_id, child_id) = (root.scope().span_id(), child.scope().span_id());
    drop(child);
    drop(root);
    let mut spans = Vec::new();
    while let Ok(more) = queue.try_recv() {
        spans.extend(more);
    }
    assert_eq!(spans.len(), MAX_SPANS);
    assert_eq!(tracer.counts().expect("on").too_many.load(Ordering::Relaxed), 2);
    let root = spans.last().expect("the root ends last");
    assert_eq!((root.id, root.parent, root.is_remote), (root_id, Some(SpanId(9)), true));
    assert!(spans.iter().all(|span| span.trace == TraceId(7) && span.start >= Duration::from_secs(5)));
    assert!(spans.iter().filter(|span| span.name == "grandchild").all(|span| span.parent == Some(child_id)));
}

/// Nobody takes anything out: what does not fit is dropped and counted.
#[test]
fn a_full_queue_drops_and_counts() {
    let (tracer, _queue) = tracer(1.0, false, 10);
    for _ in 0..25 {
        drop(tracer.begin("x".into(), None, Duration::ZERO));
    }
    assert_eq!(tracer.counts().expect("on").overflowed.load(Ordering::Relaxed), 15);
    tracer.close();
    drop(tracer.begin("x".into(), None, Duration::ZERO));
    assert_eq!(tracer.counts().expect("on").overflowed.load(Ordering::Relaxed), 16);
}
