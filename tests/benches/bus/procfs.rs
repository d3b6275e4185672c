//! Figures that the kernel keeps about a process. It never looks at a process that this bench did not start.

use std::fs;

use crate::fail::{Outcome, fail};

/// Nanoseconds that the living threads of `pid` have run, in user and kernel mode.
fn cpu_ns(pid: u32) -> u64 {
    per_task(pid, "schedstat", |text| text.split_whitespace().next()?.parse().ok())
}

/// The same for several processes.
pub(crate) fn cpu_ns_of(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| cpu_ns(*pid)).sum()
}

/// How often the threads of `pid` went to sleep on their own account; each is followed by a wake-up.
pub(crate) fn sleeps(pid: u32) -> u64 {
    per_task(pid, "status", |text| field(text, "voluntary_ctxt_switches:"))
}

/// Resident memory of `pid` in KiB.
pub(crate) fn resident_kib(pid: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    match field(&text, "VmRSS:") {
        Some(kib) => Ok(kib),
        None => fail(format!("no VmRSS in the status of process {pid}")),
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn per_task(pid: u32, file: &str, read: impl Fn(&str) -> Option<u64>) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join(file)).ok())
        .filter_map(|text| read(&text))
        .sum()
}
