//! Per-process figures of the kernel. Only processes of this bench are inspected.

use std::fs;

use crate::error::{Result, fail};

/// CPU time of the live threads of `pid` in nanoseconds, user and kernel mode together.
fn cpu_ns(pid: u32) -> u64 {
    per_task(pid, "schedstat", |text| text.split_whitespace().next()?.parse().ok())
}

/// The sum of [`cpu_ns`] over several processes.
pub(crate) fn cpu_ns_of(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| cpu_ns(*pid)).sum()
}

/// Voluntary context switches of the threads of `pid`. Each one is followed by a wake-up.
pub(crate) fn voluntary_switches(pid: u32) -> u64 {
    per_task(pid, "status", |text| field(text, "voluntary_ctxt_switches:"))
}

/// Resident memory of `pid` in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
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
