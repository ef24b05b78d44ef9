//! Copies bytes both ways through a tunnel. An idle tunnel holds no buffer: all tunnels of a thread read into the same
//! one, and only what the other end does not take at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// How long a tunnel may be silent in both directions. A chat over a WebSocket can be silent for long.
pub const SILENT: Duration = Duration::from_secs(30 * 60);
/// The same once one end has closed its direction.
const HALF_CLOSED: Duration = Duration::from_secs(2 * 60);
/// The size of the buffer that all tunnels share.
const SCRATCH: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// Copies until both ends have closed, one of them fails, or the tunnel is silent for too long. `first` are bytes of the
/// server that arrived already. Calls `count` for all bytes that were moved.
///
/// # Errors
/// The error of the end that failed, or `TimedOut`.
pub async fn copy<A, B>(client: A, server: B, first: Vec<u8>, count: impl Fn(Direction, u64)) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client, mut server) = (client, server);
    let mut up = Way::new(Vec::new());
    let mut down = Way::new(first);
    let mut last = Instant::now();
    let mut timer = pin!(sleep(SILENT));
    poll_fn(|context| {
        let (went_up, went_down) =
            (up.poll(context, &mut client, &mut server), down.poll(context, &mut server, &mut client));
        let (sent, received) = (std::mem::take(&mut up.moved), std::mem::take(&mut down.moved));
        if sent + received > 0 {
            last = Instant::now();
            count(Direction::ToServer, sent);
            count(Direction::ToClient, received);
        }
        match (went_up, went_down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            _ => {}
        }
        let limit = if up.is_over() || down.is_over() { HALF_CLOSED } else { SILENT };
        if timer.deadline() > last + limit {
            timer.as_mut().reset(last + limit); // one end has just closed
        }
        while timer.as_mut().poll(context).is_ready() {
            if last + limit <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(last + limit);
        }
        Poll::Pending
    })
    .await
}

/// One direction of a tunnel.
struct Way {
    /// Bytes that the other end has not taken yet, from `at` on.
    left: Vec<u8>,
    at: usize,
    /// Bytes that it took since this was last asked.
    moved: u64,
    phase: Phase,
}

#[derive(PartialEq)]
enum Phase {
    Open,
    /// The end of the stream is being passed on.
    Closing,
    Over,
}

impl Way {
    fn new(left: Vec<u8>) -> Self {
        Way { left, at: 0, moved: 0, phase: Phase::Open }
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Moves what can be moved now. Ready at the end of the stream. Tokio's budget keeps a busy tunnel from starving others.
    fn poll<R, W>(&mut self, context: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.phase {
                Phase::Open => {
                    ready!(self.write_left(context, to))?;
                    if ready!(self.read(context, from, to))? == 0 {
                        self.phase = Phase::Closing;
                    }
                }
                Phase::Closing => {
                    // An end that has gone already cannot be told.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(context));
                    self.phase = Phase::Over;
                }
                Phase::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    fn write_left<W: AsyncWrite + Unpin>(&mut self, context: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.at < self.left.len() {
            let wrote = ready!(Pin::new(&mut *to).poll_write(context, &self.left[self.at..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += wrote;
            self.moved += wrote as u64;
        }
        self.left = Vec::new();
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the other end takes at once. Returns how many bytes were read.
    fn read<R, W>(&mut self, context: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            let wrote = match Pin::new(to).poll_write(context, bytes) {
                Poll::Ready(wrote) if !bytes.is_empty() => wrote?,
                _ => 0,
            };
            self.moved += wrote as u64;
            self.left = bytes[wrote..].to_vec();
            Poll::Ready(Ok(bytes.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_each_end_is_closed_when_the_other_is() {
        let ((mut browser, client), (mut site, server)) = (duplex(100), duplex(7));
        let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |direction, bytes| {
            let counter = if direction == Direction::ToServer { &up } else { &down };
            counter.fetch_add(bytes, Ordering::Relaxed);
        };
        let browser = async move {
            browser.write_all(&[1; 10_000]).await.unwrap();
            browser.shutdown().await.unwrap();
            let mut all = Vec::new();
            browser.read_to_end(&mut all).await.unwrap();
            all
        };
        let site = async move {
            let mut all = Vec::new();
            site.read_to_end(&mut all).await.unwrap();
            site.write_all(&[2; 20_000]).await.unwrap();
            drop(site);
            all
        };
        let (copied, shown, sent) = tokio::join!(copy(client, server, b"first".into(), count), browser, site);
        copied.expect("both ends closed in order");
        assert_eq!((sent, &shown[..5], shown.len()), (vec![1; 10_000], &b"first"[..], 20_005));
        assert_eq!((up.into_inner(), down.into_inner()), (10_000, 20_005));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_ends_and_one_that_speaks_stays() {
        let ((browser, client), (mut site, server)) = (duplex(100), duplex(100));
        let copying = tokio::spawn(copy(client, server, Vec::new(), |_, _| {}));
        for _ in 0..3 {
            tokio::time::sleep(SILENT - Duration::from_secs(1)).await;
            site.write_all(b"still there").await.expect("the tunnel is open");
        }
        let began = Instant::now();
        let ended = copying.await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= SILENT && began.elapsed() < SILENT + Duration::from_secs(2));
        drop(browser);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_has_closed_does_not_hold_a_silent_tunnel_for_long() {
        let ((mut browser, client), (site, server)) = (duplex(100), duplex(100));
        let copying = tokio::spawn(copy(client, server, Vec::new(), |_, _| {}));
        browser.shutdown().await.unwrap();
        let began = Instant::now();
        assert_eq!(copying.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < HALF_CLOSED + Duration::from_secs(2));
        drop(site);
    }
}
