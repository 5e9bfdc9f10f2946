//! Floods of HTTP/2 frames that ask for nothing.
//!
//! h2 bounds what clients can have it keep (streams, resets before a request is taken up, header lists, CONTINUATION frames), not
//! how often they can have it do something: resets of requests that were taken up (CVE-2023-44487), pings (CVE-2019-9512),
//! settings (CVE-2019-9515), empty frames (CVE-2019-9518). Here the heads of the frames are counted as they come in.

use std::time::Duration;

use tokio::time::Instant;

/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// How long frames are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many frames without a request or its body may come in a window.
const MOST: u64 = 1000;
/// For so many bytes that we write one more frame may come: clients that read tell that they have room for more.
const BYTES_PER_FRAME: u64 = 1024;

/// Reads the heads of frames in what a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes to skip: what is left of the preface or of the payload of a frame.
    skip: usize,
    /// The head of the frame that comes.
    head: [u8; 9],
    have: usize,
    since: Instant,
    noise: u64,
    written: u64,
}

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self { skip: PREFACE, head: [0; 9], have: 0, since: now, noise: 0, written: 0 }
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Takes in what a client sends. Says whether it is too much.
    pub(super) fn is_flood(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        if now >= self.since + WINDOW {
            (self.since, self.noise, self.written) = (now, 0, 0);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped;
            let missing = if self.skip > 0 { 0 } else { (self.head.len() - self.have).min(bytes.len()) };
            self.head[self.have..self.have + missing].copy_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            self.have += missing;
            if self.have == self.head.len() {
                let [high, middle, low, kind, flags, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.have = 0;
                self.noise += u64::from(is_noise(kind, flags, self.skip));
            }
        }
        self.noise > MOST + self.written / BYTES_PER_FRAME
    }
}

/// Whether a frame brings nothing of a request.
fn is_noise(kind: u8, flags: u8, length: usize) -> bool {
    const END_STREAM: u8 = 1;
    match kind {
        // DATA: an empty one may end a body.
        0 => length == 0 && flags & END_STREAM == 0,
        // HEADERS: a request, or the end of a body.
        1 => false,
        // CONTINUATION.
        9 => length == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, 0, 0, 0, 0, 1];
        [head.to_vec(), vec![0xff; usize::from(length)]].concat()
    }

    #[test]
    fn frames_without_a_request_are_counted() {
        let now = Instant::now();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, length, flood) in
            [(6, 8, true), (3, 4, true), (4, 0, true), (0, 0, true), (9, 0, true), (0, 9, false), (1, 9, false)]
        {
            let mut all = preface.clone();
            (0..1001).for_each(|_| all.extend(frame(kind, length)));
            // However it is cut.
            for piece in [1, 7, 9, 64, all.len()] {
                let mut frames = Frames::new(now);
                let found = all.chunks(piece).any(|bytes| frames.is_flood(bytes, now));
                assert_eq!(found, flood, "frames of kind {kind} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn clients_that_read_may_say_so() {
        let now = Instant::now();
        let mut frames = Frames::new(now);
        frames.wrote(1 << 20);
        let updates: Vec<u8> = (0..2000).flat_map(|_| frame(8, 4)).collect();
        assert!(!frames.is_flood(&[vec![0; PREFACE], updates.clone()].concat(), now));
        assert!(!frames.is_flood(&updates[..13 * 1000], now + WINDOW), "a new window");
        assert!(frames.is_flood(&updates, now + WINDOW));
    }
}
