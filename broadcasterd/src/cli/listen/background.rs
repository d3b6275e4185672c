//! The thread beside the one that receives. It reports losses, drives the commands, and ends the process after both when a signal requests
//! it. It receives no messages.

use super::exec::Commands;
use super::loss::Losses;
use crate::os::EndSignals;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::thread;
use tokio::runtime::{Builder, Handle, Runtime};

/// The thread, before it runs. Signals that request the end wait for it.
pub(super) struct Background {
    runtime: Runtime,
    signals: EndSignals,
}

impl Background {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            EndSignals::catch()?
        };
        Ok(Self { runtime, signals })
    }

    /// Runs tasks on the thread.
    pub(super) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    pub(super) fn start(self, losses: Losses, commands: Commands) -> io::Result<()> {
        thread::Builder::new().name("background".to_owned()).spawn(move || self.run(&losses, &commands))?;
        Ok(())
    }

    fn run(mut self, losses: &Losses, commands: &Commands) {
        let signals = &mut self.signals;
        let signal = self.runtime.block_on(async {
            let mut reports = pin!(losses.report_all());
            let signal = poll_fn(|cx| match signals.poll_next(cx) {
                Poll::Pending => match reports.as_mut().poll(cx) {
                    Poll::Ready(never) => match never {},
                    Poll::Pending => Poll::Pending,
                },
                ready @ Poll::Ready(_) => ready,
            })
            .await;
            commands.pass(signal);
            let mut ended = pin!(commands.ended());
            poll_fn(|cx| {
                // A further signal is for commands that have not ended after the first.
                while signals.poll_next(cx).is_ready() {
                    commands.kill();
                }
                ended.as_mut().poll(cx)
            })
            .await;
            signal
        });
        losses.exit_if_any();
        signal.end_process()
    }
}
