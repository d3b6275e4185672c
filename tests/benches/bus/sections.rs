//! The sections of the bench, in the order in which they run. A failure in one section is recorded, and the next section
//! runs.

#[path = "sections/backpressure.rs"]
mod backpressure;
#[path = "sections/cold.rs"]
mod cold;
#[path = "sections/exchange.rs"]
mod exchange;
#[path = "sections/idle.rs"]
mod idle;
#[path = "sections/latency.rs"]
mod latency;
#[path = "sections/memory.rs"]
mod memory;
#[path = "sections/patterns.rs"]
mod patterns;
#[path = "sections/recovery.rs"]
mod recovery;
#[path = "sections/stall.rs"]
mod stall;
#[path = "sections/throughput.rs"]
mod throughput;

use crate::bench::Bench;

type Section = (&'static str, fn(&Bench));

pub(crate) const ALL: [Section; 13] = [
    ("latency", latency::measure),
    ("fanout", throughput::fanout),
    ("payload", throughput::payload),
    ("fanin", throughput::fanin),
    ("lossless", throughput::lossless),
    ("memory", memory::measure),
    ("backpressure", backpressure::measure),
    ("exchange", exchange::measure),
    ("patterns", patterns::measure),
    ("idle", idle::measure),
    ("cold", cold::measure),
    ("stall", stall::measure),
    ("recovery", recovery::measure),
];
