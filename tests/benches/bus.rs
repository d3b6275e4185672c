//! The cross-process bench: what the bus does beside floors that are measured in the same run.
//!
//! It never runs sender, broker and listener in one process, never touches the user's own bus, and never hides a loss.
//!
//! ```text
//! cargo build --release -p broadcasterd
//! cargo bench -p broadcaster-tests --bench bus -- [FILTER...] [--runs N] [--quick] [--json FILE]
//! ```
//!
//! Each figure is a median over runs in which all systems of one case take turns (a b c ours, a b c ours, ...), and each
//! ratio is the median of the ratios of one turn, so that a slow minute of the machine hits both sides of the division. The
//! program starts itself again for each process of a run. The floors are the least that a broker can be:
//!
//! - **a** reads header and payload, frame by frame, and makes one write per listener and frame;
//! - **b** reads what is there, forwards all whole frames in one write per listener, and its listeners read likewise;
//! - **c** is b, and the sender puts 64 KiB of frames into each write;
//! - **wide** is c with socket buffers of 1 MiB. No goal refers to it; it tells what the kernel's default buffers cost.
//!
//! Floors block: they lose nothing and one stalled listener stops them all. Ours is lossy by contract, therefore an unpaced
//! figure stands beside its loss, and beside the highest paced rate whose loss is under 0.1 %.

#![allow(missing_docs, clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]

#[path = "bus/bench.rs"]
mod bench;
#[path = "bus/clock.rs"]
mod clock;
#[path = "bus/fail.rs"]
mod fail;
#[path = "bus/floor.rs"]
mod floor;
#[path = "bus/link.rs"]
mod link;
#[path = "bus/nursery.rs"]
mod nursery;
#[path = "bus/ours.rs"]
mod ours;
#[path = "bus/payload.rs"]
mod payload;
#[path = "bus/procfs.rs"]
mod procfs;
#[path = "bus/roles.rs"]
mod roles;
#[path = "bus/sections.rs"]
mod sections;
#[path = "bus/stats.rs"]
mod stats;
#[path = "bus/table.rs"]
mod table;
#[path = "bus/traffic.rs"]
mod traffic;
#[path = "bus/words.rs"]
mod words;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo bench -p broadcaster-tests --bench bus -- [FILTER...] [--runs N] [--quick] [--json FILE]
  FILTER    latency, fanout, payload, fanin, idle, cold, stall (default: all)
  --runs N  runs per figure, the median is reported (default 5, with --quick 3)
  --quick   shorter runs, coarser figures
  --floors  the floors alone
  --json F  write the rows to F as well";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "--role") {
        return roles::main(&args[1..]);
    }
    // `cargo test --benches` starts benches without this word, and six minutes are not what it asks for.
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
