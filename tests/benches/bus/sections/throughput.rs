//! Deliveries per second, with loss and CPU time. Only frames that a listener has checked count.

use serde_json::json;

use crate::bench::Bench;
use crate::error::{Result, fail};
use crate::stats::{median, spread};
use crate::system::System::{
    self, FloorA, FloorB, FloorC, FloorRing, FloorWide, Lossless, LosslessBatched, LosslessMemory,
    LosslessMemoryBatched, Memory, MemoryBatched, Ours, OursBatched,
};
use crate::table::{Goal, Row, bytes, millions, percent, ratio_with_goal};
use crate::traffic::{Plan, Traffic, calibrate, run};

const CPU_GOAL: f64 = 1.3;
/// A rate is steady if it loses less than this share.
const PACED_LOST_SHARE_MAX: f64 = 0.001;
/// The first rate of the search, as a share of the unpaced sender's rate.
const PACED_FIRST: f64 = 0.85;
/// How often an unsteady rate is lowered before the search gives up.
const PACED_LOWERED_MAX: u32 = 12;
/// The factor by which it is lowered.
const PACED_LOWERED: f64 = 0.93;
/// Steps of the binary search for the highest steady rate.
const PACED_STEPS: u32 = 4;
const PACED_HALVINGS_MAX: u32 = 10;

/// Compares `system` with the fastest of `floors`.
struct Comparison {
    system: System,
    floors: &'static [System],
    goal: Option<f64>,
}

pub(crate) fn fanout(bench: &Bench) {
    let comparisons = [
        Comparison { system: Ours, floors: &[FloorB], goal: Some(0.8) },
        Comparison { system: OursBatched, floors: &[FloorC], goal: Some(0.6) },
    ];
    for listeners in [1, 8, 64] {
        let systems = [FloorA, FloorB, FloorC, FloorWide, Ours, OursBatched];
        case(bench, "fanout", (64, 1, listeners), &systems, &comparisons);
    }
}

pub(crate) fn payload(bench: &Bench) {
    let small = [
        Comparison { system: Ours, floors: &[FloorA, FloorB], goal: Some(0.9) },
        Comparison { system: OursBatched, floors: &[FloorA, FloorB, FloorC], goal: Some(0.9) },
    ];
    // From 64 KiB on, each frame is a batch by itself.
    let large = [Comparison { system: Ours, floors: &[FloorA, FloorB], goal: Some(0.9) }];
    for listeners in [1, 8] {
        let systems = [FloorA, FloorB, FloorC, FloorWide, Ours, OursBatched];
        case(bench, "payload", (1 << 10, 1, listeners), &systems, &small);
        for payload_bytes in [64 << 10, 1 << 20] {
            let shape = (payload_bytes, 1, listeners);
            case(bench, "payload", shape, &[FloorA, FloorB, FloorWide, Ours], &large);
        }
    }
}

pub(crate) fn fanin(bench: &Bench) {
    let comparisons = [
        Comparison { system: Ours, floors: &[FloorB], goal: None },
        Comparison { system: OursBatched, floors: &[FloorC], goal: Some(0.6) },
    ];
    let systems = [FloorB, FloorC, FloorWide, Ours, OursBatched];
    case(bench, "fanin", (64, 8, 1), &systems, &comparisons);
}

/// With backpressure, against floors that lose nothing either.
pub(crate) fn lossless(bench: &Bench) {
    let one_sender = [
        Comparison { system: Lossless, floors: &[FloorB], goal: Some(0.8) },
        Comparison { system: LosslessBatched, floors: &[FloorC], goal: Some(0.8) },
        Comparison { system: LosslessMemory, floors: &[FloorB], goal: Some(0.8) },
        Comparison { system: LosslessMemoryBatched, floors: &[FloorC], goal: Some(0.8) },
    ];
    // Each frame is a batch by itself.
    let large = [
        Comparison { system: Lossless, floors: &[FloorB, FloorC], goal: Some(0.8) },
        Comparison { system: LosslessMemory, floors: &[FloorB, FloorC], goal: Some(0.8) },
    ];
    let systems = [FloorB, FloorC, Lossless, LosslessBatched, LosslessMemory, LosslessMemoryBatched];
    for listeners in [1, 8] {
        case(bench, "lossless", (64, 1, listeners), &systems, &one_sender);
        case(bench, "lossless", (64 << 10, 1, listeners), &[FloorB, FloorC, Lossless, LosslessMemory], &large);
    }
    let many_senders = [
        Comparison { system: Lossless, floors: &[FloorB], goal: None },
        Comparison { system: LosslessBatched, floors: &[FloorC], goal: Some(0.6) },
        Comparison { system: LosslessMemory, floors: &[FloorB], goal: None },
        Comparison { system: LosslessMemoryBatched, floors: &[FloorC], goal: Some(0.6) },
    ];
    case(bench, "lossless", (64, 8, 1), &systems, &many_senders);
}

/// Through shared memory, against the connections of the bus.
pub(crate) fn memory(bench: &Bench) {
    let small = [
        Comparison { system: Memory, floors: &[Ours], goal: Some(1.0) },
        Comparison { system: MemoryBatched, floors: &[OursBatched], goal: Some(1.0) },
    ];
    for listeners in [1, 8] {
        let systems = [FloorRing, Ours, OursBatched, Memory, MemoryBatched];
        case(bench, "memory", (64, 1, listeners), &systems, &small);
    }
    for (payload_bytes, goal) in [(1 << 10, 1.5), (64 << 10, 2.0)] {
        let comparisons = [
            Comparison { system: Memory, floors: &[Ours], goal: Some(goal) },
            Comparison { system: LosslessMemory, floors: &[Lossless], goal: Some(goal) },
        ];
        let systems = [FloorRing, Ours, Memory, Lossless, LosslessMemory];
        case(bench, "memory", (payload_bytes, 1, 8), &systems, &comparisons);
    }
}

/// The runs of one system. A failed run is `None`, so that turns stay aligned.
struct Runs {
    plan: Plan,
    traffic: Vec<Option<Traffic>>,
}

impl Runs {
    fn median(&self, figure: impl Fn(&Traffic) -> f64) -> f64 {
        median(self.traffic.iter().flatten().map(figure))
    }

    /// The ratio of a figure to that of `floor`: the median over the turns.
    fn ratio(&self, floor: &Self, figure: impl Fn(&Traffic) -> f64) -> f64 {
        let turns = self.traffic.iter().zip(&floor.traffic);
        median(turns.filter_map(|(own, floor)| Some(figure(own.as_ref()?) / figure(floor.as_ref()?))))
    }
}

fn case(
    bench: &Bench,
    section: &'static str,
    (payload_bytes, senders, listeners): (usize, usize, usize),
    systems: &[System],
    comparisons: &[Comparison],
) {
    let case = format!("{} {senders}->{listeners}", bytes(payload_bytes));
    let what = |system: System| format!("{section} {case} {}", system.label());
    let mut all = Vec::new();
    for system in bench.available(systems) {
        let mut plan = Plan::new(system, payload_bytes, senders, listeners);
        if bench.ok_or_record(&what(system), calibrate(bench, &mut plan)).is_some() {
            all.push(Runs { plan, traffic: Vec::new() });
        }
    }
    for _ in 0..bench.options.runs() {
        for runs in &mut all {
            let traffic = valid(&runs.plan, run(bench, &runs.plan));
            runs.traffic.push(bench.ok_or_record(&what(runs.plan.system), traffic));
        }
    }
    for runs in &all {
        let comparison = comparisons.iter().find(|comparison| comparison.system == runs.plan.system);
        let floor = comparison.and_then(|comparison| fastest(&all, comparison.floors));
        let goal = comparison.and_then(|comparison| comparison.goal);
        let label = runs.plan.system.label();
        bench.push_row(section, row(&case, label, runs, floor, goal));
        let lossy = runs.median(Traffic::lost_share) >= PACED_LOST_SHARE_MAX;
        if lossy && runs.plan.system.is_ours() {
            let paced = highest_paced(bench, runs);
            if let Some(paced) = bench.ok_or_record(&format!("{} paced", what(runs.plan.system)), paced) {
                let label = format!("{label} paced");
                bench.push_row(section, row(&case, &label, &paced, floor, goal));
            }
        }
    }
}

fn fastest<'a>(all: &'a [Runs], floors: &[System]) -> Option<&'a Runs> {
    let speed = |runs: &&Runs| runs.median(Traffic::deliveries_per_s);
    all.iter().filter(|runs| floors.contains(&runs.plan.system)).max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

/// Rejects a run with wrong content or wrong counts, or with a loss where there must be none, because its speed means nothing.
fn valid(plan: &Plan, traffic: Result<Traffic>) -> Result<Traffic> {
    let traffic = traffic?;
    if traffic.lost > 0 && plan.system.is_lossless() {
        return fail(format!("{} frames were lost despite backpressure", traffic.lost));
    }
    if traffic.bad > 0 {
        return fail(format!("{} frames with wrong content or order", traffic.bad));
    }
    if traffic.unaccounted > 0 {
        let (unaccounted, lost) = (traffic.unaccounted, traffic.lost);
        return fail(format!("{unaccounted} of {lost} lost frames are not accounted for"));
    }
    Ok(traffic)
}

fn row(case: &str, label: &str, runs: &Runs, floor: Option<&Runs>, goal: Option<f64>) -> Row {
    let rate = runs.median(Traffic::deliveries_per_s);
    let (low, high) = spread(runs.traffic.iter().flatten().map(Traffic::deliveries_per_s));
    let lost = runs.median(Traffic::lost_share);
    let cpu = runs.median(Traffic::cpu_s_per_million);
    let mut figure = format!("{} M/s ({}..{})", millions(rate), millions(low), millions(high));
    if runs.plan.payload_bytes >= 1024 {
        let gbytes = rate * runs.plan.payload_bytes as f64 / 1e9;
        figure = format!("{figure} {gbytes:.2} GB/s");
    }
    let mut row = Row {
        case: case.to_owned(),
        system: label.to_owned(),
        figure,
        lost: percent(lost),
        cpu: format!("{cpu:.3}"),
        json: json!({
            "deliveries_per_s": rate,
            "low": low,
            "high": high,
            "lost_share": lost,
            "cpu_s_per_million": cpu,
            "frames_per_sender": runs.plan.frames_per_sender,
        }),
        ..Row::default()
    };
    if let Some(floor) = floor {
        let speed = runs.ratio(floor, Traffic::deliveries_per_s);
        let cpu = runs.ratio(floor, Traffic::cpu_s_per_million);
        let name = floor.plan.system.label().trim_start_matches("floor-");
        row.ratio = format!(
            "{name}: {}, {}",
            ratio_with_goal("speed", speed, ">=", goal),
            ratio_with_goal("cpu", cpu, "<=", Some(CPU_GOAL)),
        );
        row.goal = Goal::of(goal.is_none_or(|goal| speed >= goal) && cpu <= CPU_GOAL);
        row.json["floor"] = json!(name);
        row.json["speed_ratio"] = json!(speed);
        row.json["cpu_ratio"] = json!(cpu);
    }
    row
}

/// Searches for the highest steady rate, and measures at that rate.
fn highest_paced(bench: &Bench, unpaced: &Runs) -> Result<Runs> {
    let run_s = bench.options.run_time().as_secs_f64();
    let paced =
        |rate: f64| Plan { rate: Some(rate), frames_per_sender: ((rate * run_s) as u64).max(1), ..unpaced.plan };

    let sending = |traffic: &Traffic| traffic.sent as f64 / traffic.sending_s;
    let mut too_high = unpaced.median(sending) / unpaced.plan.senders as f64;
    let mut steady_rate = too_high * PACED_FIRST;
    let mut halvings = 0;
    while !is_steady(bench, &paced(steady_rate))? {
        halvings += 1;
        if halvings > PACED_HALVINGS_MAX {
            return fail(format!("loses frames even at {steady_rate:.0} frames a second"));
        }
        (too_high, steady_rate) = (steady_rate, steady_rate / 2.0);
    }
    let steps = if bench.options.quick { PACED_STEPS / 2 } else { PACED_STEPS };
    for _ in 0..steps {
        let between = (too_high * steady_rate).sqrt();
        if is_steady(bench, &paced(between))? {
            steady_rate = between;
        } else {
            too_high = between;
        }
    }
    for _ in 0..PACED_LOWERED_MAX {
        let plan = paced(steady_rate);
        let traffic: Result<Vec<_>> =
            unpaced.traffic.iter().map(|_| valid(&plan, run(bench, &plan)).map(Some)).collect();
        let runs = Runs { plan, traffic: traffic? };
        if runs.median(Traffic::lost_share) < PACED_LOST_SHARE_MAX {
            return Ok(runs);
        }
        steady_rate *= PACED_LOWERED;
    }
    fail(format!("no steady rate below {too_high:.0} frames a second"))
}

/// Whether a rate is steady in one of two runs. A single disturbed run must not halve the rate.
fn is_steady(bench: &Bench, plan: &Plan) -> Result<bool> {
    for _ in 0..2 {
        if valid(plan, run(bench, plan))?.lost_share() < PACED_LOST_SHARE_MAX {
            return Ok(true);
        }
    }
    Ok(false)
}
