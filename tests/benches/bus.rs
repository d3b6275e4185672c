//! The cross-process bench: measures the bus against minimal brokers (the floors) in the same run.
//!
//! Sender, broker and listener are always separate processes. The bench never touches the user's own bus and never hides a
//! loss.
//!
//! ```text
//! cargo build --release -p broadcasterd
//! cargo bench -p broadcaster-tests --bench bus -- [FILTER...] [--runs N] [--quick] [--floors] [--json FILE]
//! ```
//!
//! All systems of a case take turns (a b c ours, a b c ours, ...). Each figure is the median over the runs, and each ratio is
//! the median of the ratios within a turn, so that a slow minute of the machine affects both sides of the division. The
//! program starts itself again for every process of a run.
//!
//! The floors are the least that a broker can do:
//!
//! - **a** reads header and payload, frame by frame, and makes one write per listener and frame;
//! - **b** reads as much as is available and forwards all complete frames in one write per listener; its listeners read the
//!   same way;
//! - **c** is b with a sender that puts 64 KiB of frames into each write;
//! - **ring** is the ring of the bus in shared memory, without a daemon, and **polled** the same with listeners that never sleep;
//! - **wide** is c with socket buffers of 1 MiB. No goal refers to it. It shows what the kernel's default buffers cost.
//!
//! Floors block: they lose nothing, and one stalled listener stops all others. The bus is lossy by contract. Its unpaced
//! figure is therefore printed with its loss, followed by the highest paced rate that loses less than 0.1 %. With backpressure
//! (`lossless`), it must lose nothing either.

#![allow(missing_docs, clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]

#[path = "bus/bench.rs"]
mod bench;
#[path = "bus/children.rs"]
mod children;
#[path = "bus/clock.rs"]
mod clock;
#[path = "bus/error.rs"]
mod error;
#[path = "bus/exchange.rs"]
mod exchange;
#[path = "bus/fields.rs"]
mod fields;
#[path = "bus/floor.rs"]
mod floor;
#[path = "bus/ours.rs"]
mod ours;
#[path = "bus/payload.rs"]
mod payload;
#[path = "bus/procfs.rs"]
mod procfs;
#[path = "bus/ring.rs"]
mod ring;
#[path = "bus/roles.rs"]
mod roles;
#[path = "bus/sections.rs"]
mod sections;
#[path = "bus/stats.rs"]
mod stats;
#[path = "bus/system.rs"]
mod system;
#[path = "bus/table.rs"]
mod table;
#[path = "bus/traffic.rs"]
mod traffic;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo bench -p broadcaster-tests --bench bus -- [FILTER...] [--runs N] [--quick] [--floors] [--json FILE]
  FILTER       latency, fanout, payload, fanin, lossless, memory, backpressure, exchange, patterns, idle, cold, stall,
               recovery (default: all)
  --runs N     number of runs; each figure is their median (default 5, with --quick 3)
  --quick      shorter runs, less precise figures
  --floors     measure the floors only
  --json FILE  also write the rows to FILE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "--role") {
        return roles::main(&args[1..]);
    }
    // `cargo test --benches` starts benches without this argument and expects them to end quickly.
    if !args.iter().any(|arg| arg == "--bench") {
        eprintln!("{USAGE}\n(started without --bench: nothing measured)");
        return ExitCode::SUCCESS;
    }
    match bench::Options::parse(&args) {
        Ok(options) => bench::main(options),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
