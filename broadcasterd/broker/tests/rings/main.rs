//! Rings in shared memory, one event after the other: which streams change, and exactly where.

#![allow(clippy::unwrap_used)]

mod bus;
mod counts;
mod introductions;
mod pace;
#[path = "../common/run.rs"]
mod run;
mod sequences;
mod stop;
mod uploads;

use broadcaster_broker::Limits;
use bus::Bus;

fn bus() -> Bus {
    Bus::new(Limits::default())
}
