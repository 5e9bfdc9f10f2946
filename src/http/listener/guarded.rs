//! The socket of a connection, whose every step is told to its [`Progress`].

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::caps::Slot;
use super::frames::Frames;
use super::progress::{Progress, Reason};
use super::{MOST_LINGERED, Timeouts, slow_head};

/// The socket.
pub(super) struct Guarded {
    stream: TcpStream,
    progress: Arc<Progress>,
    timeouts: Timeouts,
    frames: Option<Frames>,
    /// Whether our side is shut, and how much has come since.
    shut: Option<usize>,
    /// The place of the connection among all; a WebSocket keeps it, too.
    _slot: Slot,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, progress: Arc<Progress>, timeouts: Timeouts, slot: Slot) -> Self {
        Self { stream, progress, timeouts, frames: None, shut: None, _slot: slot }
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.progress.is_blocked(Instant::now()),
            Poll::Ready(Ok(bytes)) => {
                self.progress.took(*bytes, Instant::now());
                if let Some(frames) = &mut self.frames {
                    frames.wrote(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl Drop for Guarded {
    /// What a client does not read the kernel need not keep.
    fn drop(&mut self) {
        if self.progress.reason() == Some(Reason::SlowReader) {
            drop(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.progress.is_expired() {
            // Nothing else is being written: there is no request. What the socket does not take at once is not worth more.
            drop(this.stream.try_write(slow_head().as_bytes()));
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let (bytes, now) = (&buf.filled()[before..], Instant::now());
        if this.progress.read(bytes, now) && this.frames.get_or_insert_with(|| Frames::new(now)).is_flood(bytes, now) {
            this.progress.ends(Reason::Flood);
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, "a flood of frames")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when nothing is left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.progress.flushed(Instant::now());
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Ends our side. A client that still sends is listened to for a while, so that it comes to read what we said; the task of the
    /// connection ends it when that takes too long.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shut.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.progress.lingers() {
                return Poll::Ready(Ok(()));
            }
            this.shut = Some(0);
            this.progress.shuts(this.timeouts.linger, Instant::now());
        }
        let taken = this.shut.get_or_insert(0);
        while *taken < MOST_LINGERED {
            let mut buf = [0; 16 * 1024];
            let mut buf = ReadBuf::new(&mut buf);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => *taken += buf.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
