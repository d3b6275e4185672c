//! The output of a command that is kept for a reply, up to a limit. It never waits for processes that the command leaves behind.

use crate::os;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::ChildStdout;

const CHUNK_BYTES: usize = 16 * 1024;

/// What a command has printed.
#[derive(Debug)]
pub(super) enum Captured {
    /// All of it.
    All(Vec<u8>),
    /// More than the limit. Nothing is kept.
    TooLarge,
}

/// The output of a command that runs.
#[derive(Debug)]
pub(super) struct Capture {
    /// Until its end, or until the limit is exceeded: then it is closed, which ends most commands.
    stdout: Option<ChildStdout>,
    captured: Captured,
    bytes_max: usize,
}

impl Capture {
    pub(super) fn new(stdout: ChildStdout, bytes_max: usize) -> Self {
        Self { stdout: Some(stdout), captured: Captured::All(Vec::new()), bytes_max }
    }

    /// Reads what has been printed, and registers for what will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let mut chunk = [0; CHUNK_BYTES];
        while let Some(stdout) = &mut self.stdout {
            let mut chunk = ReadBuf::new(&mut chunk);
            match Pin::new(stdout).poll_read(cx, &mut chunk) {
                Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                    if !self.captured.push(chunk.filled(), self.bytes_max) {
                        self.stdout = None;
                    }
                }
                Poll::Ready(Ok(()) | Err(_)) => self.stdout = None,
                Poll::Pending => return,
            }
        }
    }

    /// All that the command has printed before it ended.
    pub(super) async fn finish(mut self) -> Captured {
        if let Some(stdout) = self.stdout {
            os::read_printed(stdout, |bytes| self.captured.push(bytes, self.bytes_max)).await;
        }
        self.captured
    }
}

impl Captured {
    /// Returns whether more is wanted.
    fn push(&mut self, bytes: &[u8], bytes_max: usize) -> bool {
        match self {
            Self::All(all) if all.len() + bytes.len() <= bytes_max => {
                all.extend_from_slice(bytes);
                true
            }
            Self::All(_) | Self::TooLarge => {
                *self = Self::TooLarge;
                false
            }
        }
    }
}
