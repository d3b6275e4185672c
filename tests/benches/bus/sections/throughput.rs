//! Deliveries per second, with loss and CPU beside them. It never counts a frame that a listener did not check.

use serde_json::json;

use crate::bench::Bench;
use crate::fail::{Outcome, fail};
use crate::link::System::{self, FloorA, FloorB, FloorC, FloorWide, Ours, OursBatched};
use crate::stats::{median, spread};
use crate::table::{Goal, Row, beside, bytes, millions, percent};
use crate::traffic::{Plan, Traffic, calibrate, run};

const CPU_GOAL: f64 = 1.3;
/// A paced figure is one that loses less.
const PACED_LOST_SHARE_MAX: f64 = 0.001;
/// The first try, as a share of the unpaced sender's rate.
const PACED_FIRST: f64 = 0.85;
/// How often an unsteady rate is lowered before the search gives up, and by how much.
const PACED_LOWERED_MAX: u32 = 12;
const PACED_LOWERED: f64 = 0.93;
/// Each halves what is unknown about the highest paced rate.
const PACED_STEPS: u32 = 4;
const PACED_HALVINGS_MAX: u32 = 10;

/// A comparison that has a goal: `own` is put beside the fastest of `floors`.
struct Contest {
    own: System,
    floors: &'static [System],
    goal: Option<f64>,
}

pub(crate) fn fanout(bench: &Bench) {
    let contests = [
        Contest { own: Ours, floors: &[FloorB], goal: Some(0.8) },
        Contest { own: OursBatched, floors: &[FloorC], goal: Some(0.6) },
    ];
    for listeners in [1, 8, 64] {
        let systems = [FloorA, FloorB, FloorC, FloorWide, Ours, OursBatched];
        case(bench, "fanout", (64, 1, listeners), &systems, &contests);
    }
}

pub(crate) fn payload(bench: &Bench) {
    let small = [
        Contest { own: Ours, floors: &[FloorA, FloorB], goal: Some(0.9) },
        Contest { own: OursBatched, floors: &[FloorA, FloorB, FloorC], goal: Some(0.9) },
    ];
    // From 64 KiB on each frame is a batch of its own.
    let large = [Contest { own: Ours, floors: &[FloorA, FloorB], goal: Some(0.9) }];
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
    let contests = [
        Contest { own: Ours, floors: &[FloorB], goal: None },
        Contest { own: OursBatched, floors: &[FloorC], goal: Some(0.6) },
    ];
    let systems = [FloorB, FloorC, FloorWide, Ours, OursBatched];
    case(bench, "fanin", (64, 8, 1), &systems, &contests);
}

/// One system's runs; a failed one leaves a gap, so that turns stay comparable.
struct Runs {
    plan: Plan,
    traffic: Vec<Option<Traffic>>,
}

impl Runs {
    fn median(&self, figure: impl Fn(&Traffic) -> f64) -> f64 {
        median(self.traffic.iter().flatten().map(figure))
    }

    /// The median over turns of this one's figure by the other's.
    fn ratio(&self, other: &Self, figure: impl Fn(&Traffic) -> f64) -> f64 {
        let turns = self.traffic.iter().zip(&other.traffic);
        median(turns.filter_map(|(own, floor)| Some(figure(own.as_ref()?) / figure(floor.as_ref()?))))
    }
}

fn case(
    bench: &Bench,
    section: &'static str,
    (payload_bytes, senders, listeners): (usize, usize, usize),
    systems: &[System],
    contests: &[Contest],
) {
    let case = format!("{} {senders}->{listeners}", bytes(payload_bytes));
    let what = |system: System| format!("{section} {case} {}", system.label());
    let mut all = Vec::new();
    for system in bench.at_hand(systems) {
        let mut plan = Plan::new(system, payload_bytes, senders, listeners);
        if bench.noted(&what(system), calibrate(bench, &mut plan)).is_some() {
            all.push(Runs { plan, traffic: Vec::new() });
        }
    }
    for _ in 0..bench.options.runs() {
        for runs in &mut all {
            let traffic = sound(run(bench, &runs.plan));
            runs.traffic.push(bench.noted(&what(runs.plan.system), traffic));
        }
    }
    for runs in &all {
        let contest = contests.iter().find(|contest| contest.own == runs.plan.system);
        let floor = contest.and_then(|contest| fastest(&all, contest.floors));
        let goal = contest.and_then(|contest| contest.goal);
        let label = runs.plan.system.label();
        bench.row(section, row(&case, label, runs, floor, goal));
        let lossy = runs.median(Traffic::lost_share) >= PACED_LOST_SHARE_MAX;
        if lossy && runs.plan.system.is_ours() {
            let paced = highest_paced(bench, runs);
            if let Some(paced) = bench.noted(&format!("{} paced", what(runs.plan.system)), paced) {
                let label = format!("{label} paced");
                bench.row(section, row(&case, &label, &paced, floor, goal));
            }
        }
    }
}

fn fastest<'a>(all: &'a [Runs], floors: &[System]) -> Option<&'a Runs> {
    let speed = |runs: &&Runs| runs.median(Traffic::deliveries_per_s);
    all.iter().filter(|runs| floors.contains(&runs.plan.system)).max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

/// Refuses a run whose content or count was wrong: its speed means nothing.
fn sound(traffic: Outcome<Traffic>) -> Outcome<Traffic> {
    let traffic = traffic?;
    if traffic.bad > 0 {
        return fail(format!("{} frames of wrong content or order", traffic.bad));
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
        row.ratio =
            format!("{name}: {}, {}", beside("speed", speed, ">=", goal), beside("cpu", cpu, "<=", Some(CPU_GOAL)),);
        row.goal = Goal::of(goal.is_none_or(|goal| speed >= goal) && cpu <= CPU_GOAL);
        row.json["floor"] = json!(name);
        row.json["speed_ratio"] = json!(speed);
        row.json["cpu_ratio"] = json!(cpu);
    }
    row
}

/// Looks for the highest rate that loses next to nothing, and measures there.
fn highest_paced(bench: &Bench, unpaced: &Runs) -> Outcome<Runs> {
    let run_s = bench.options.run_time().as_secs_f64();
    let paced =
        |rate: f64| Plan { rate: Some(rate), frames_per_sender: ((rate * run_s) as u64).max(1), ..unpaced.plan };

    let sending = |traffic: &Traffic| traffic.sent as f64 / traffic.sending_s;
    let mut too_high = unpaced.median(sending) / unpaced.plan.senders as f64;
    let mut holds = too_high * PACED_FIRST;
    let mut halvings = 0;
    while !steady(bench, &paced(holds))? {
        halvings += 1;
        if halvings > PACED_HALVINGS_MAX {
            return fail(format!("loses even at {holds:.0} frames a second"));
        }
        (too_high, holds) = (holds, holds / 2.0);
    }
    let steps = if bench.options.quick { PACED_STEPS / 2 } else { PACED_STEPS };
    for _ in 0..steps {
        let between = (too_high * holds).sqrt();
        if steady(bench, &paced(between))? {
            holds = between;
        } else {
            too_high = between;
        }
    }
    for _ in 0..PACED_LOWERED_MAX {
        let plan = paced(holds);
        let traffic: Outcome<Vec<_>> = unpaced.traffic.iter().map(|_| sound(run(bench, &plan)).map(Some)).collect();
        let runs = Runs { plan, traffic: traffic? };
        if runs.median(Traffic::lost_share) < PACED_LOST_SHARE_MAX {
            return Ok(runs);
        }
        holds *= PACED_LOWERED;
    }
    fail(format!("no steady rate below {too_high:.0} frames a second"))
}

/// Whether one of two runs loses next to nothing: a single disturbed run must not halve a rate.
fn steady(bench: &Bench, plan: &Plan) -> Outcome<bool> {
    for _ in 0..2 {
        if sound(run(bench, plan))?.lost_share() < PACED_LOST_SHARE_MAX {
            return Ok(true);
        }
    }
    Ok(false)
}
