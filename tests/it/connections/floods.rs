//! Floods of HTTP/2 frames, written by hand.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://a/` (RFC 7541, appendix A: 2, 6, 4, and 1 with a literal).
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a flood is made of.
type Pieces = Box<dyn Iterator<Item = Vec<u8>>>;

/// Sends what a client begins with, then piece after piece, until the server has had enough.
async fn flood(server: &Server, pieces: Pieces) -> usize {
    let mut stream = server.connect().await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("a preface");
    let (mut reading, mut writing) = stream.split();
    let count = std::cell::Cell::new(0);
    let sending = async {
        for piece in pieces {
            if writing.write_all(&piece).await.is_err() {
                return;
            }
            count.set(count.get() + 1);
        }
        // All is sent: the server ends it or not.
        std::future::pending::<()>().await;
    };
    let ending = async {
        let mut some = vec![0; 16 * 1024];
        while reading.read(&mut some).await.is_ok_and(|bytes| bytes > 0) {}
    };
    let ended = timeout(PATIENCE, async {
        tokio::select! {
            () = sending => {}
            () = ending => {}
        }
    });
    assert!(ended.await.is_ok(), "the connection stays open");
    count.get()
}

/// The connection of a flood ends long before the flood does, and a client beside it is served.
#[tokio::test]
async fn floods_end_their_connection_only() {
    const MANY: u32 = 100_000;
    let server = Server::plain(Timeouts::default()).await;
    let (end, asking) = normal(&server);
    let odd = |n: u32| 2 * n + 1;
    let opened = move |n| frame(HEADERS, END_HEADERS, odd(n), REQUEST);
    let floods: Vec<(&str, Pieces)> = vec![
        ("pings", Box::new((0..MANY).map(|_| frame(PING, 0, 0, &[0; 8])))),
        ("settings", Box::new((0..MANY).map(|_| frame(SETTINGS, 0, 0, &[])))),
        ("priorities", Box::new((0..MANY).map(|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])))),
        // CVE-2023-44487.
        ("resets", Box::new((0..MANY).map(move |n| [opened(n), frame(RST_STREAM, 0, odd(n), &[0, 0, 0, 8])].concat()))),
        ("empty data", Box::new((0..MANY).map(move |n| if n == 0 { opened(0) } else { frame(DATA, 0, 1, &[]) }))),
        // CVE-2024-27316: a head that never ends.
        (
            "continuation",
            Box::new((0..MANY).map(|n| match n {
                0 => frame(HEADERS, END_STREAM, 1, REQUEST),
                _ => frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100)),
            })),
        ),
        // MadeYouReset, CVE-2025-8671: our own resets.
        ("resets of ours", Box::new((0..MANY).map(move |n| [opened(n), frame(8, 0, odd(n), &[0, 0, 0, 0])].concat()))),
        ("streams", Box::new((0..MANY).map(move |n| frame(HEADERS, END_HEADERS, odd(n), REQUEST)))),
    ];
    for (name, flood_of) in floods {
        let sent = flood(&server, flood_of).await;
        println!("{name}: {sent} were sent");
        assert!(sent < MANY as usize, "{name}");
    }
    end.send_replace(true);
    let longest = asking.await.expect("a normal client");
    println!("a normal client waited {longest:?} at most");
    assert!(server.closed("flood") >= 3);
    server.is_left().await;
}

/// Streams that are not read are cut off, also where the socket itself has room.
#[tokio::test]
async fn streams_that_are_not_read_are_cut_off() {
    let server = Server::plain(Timeouts { idle: PATIENCE, ..short() }).await;
    let mut stream = server.connect().await;
    // `:path: /endless`, as a literal.
    let request = [&[0x82, 0x86, 0x41, 1, b'a', 0x04, 8][..], b"/endless"].concat();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM | END_HEADERS, 1, &request)].concat();
    stream.write_all(&begin).await.expect("a request");
    // Read from the socket, but no more room is given (RFC 9113, section 5.2): 65,535 bytes and no more come.
    let answer = timeout(PATIENCE, async {
        let (mut all, mut some) = (0, vec![0; 16 * 1024]);
        while let Ok(bytes @ 1..) = stream.read(&mut some).await {
            all += bytes;
        }
        all
    });
    let all = answer.await.expect("the connection ends");
    assert!((65_535..70_000).contains(&all), "{all}");
    server.has_closed("slow_reader", 1).await;
}

/// Requests over the bound of a connection are refused, and a client that says nothing to a ping is gone.
#[tokio::test]
async fn streams_are_bounded_and_pings_are_to_be_answered() {
    let ping = Duration::from_millis(300);
    let router = Router::new().route("/", get(std::future::pending::<&str>));
    let server = Server::start(router, Caps::default(), Timeouts { ping, pong: ping, ..Timeouts::default() }).await;
    let mut stream = server.connect().await;
    let requests =
        (0..129).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, REQUEST)).collect::<Vec<_>>();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &requests].concat()).await.expect("requests");
    let mut all = Vec::new();
    let reading = async { while stream.read_buf(&mut all).await.is_ok_and(|bytes| bytes > 0) {} };
    timeout(PATIENCE, reading).await.expect("the connection ends");
    let has = |frame: &[u8]| all.windows(frame.len()).any(|some| some == frame);
    // REFUSED_STREAM (RFC 9113, section 7).
    let refused = |n: u32| frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 7]);
    assert!(has(&refused(128)) && !has(&refused(127)), "{all:?}");
    server.is_left().await;
}
