//! What `phalanx analyze` costs on synthetic captures, beside tcptrace and tshark in the same run:
//! processor time per packet, memory, what a second thread gives, and how the cost of a packet
//! grows with the size of the file and with the connections in it. Rounds are interleaved; the
//! figures are medians; files are read once before, so that they come from memory.
#![allow(missing_docs)]

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use phalanx_range::synthesis::{Scan, Synthesis, SynthesisOutcome};
use serde_json::json;

const ROUND_COUNT: usize = 5;
/// A short run is repeated more often.
const ROUND_COUNT_SHORT: usize = 15;
/// What tcpdump's users keep where they only want headers.
const SNAP_BYTES: u32 = 128;

/// Budget: packets per second of processor time.
const RATE_BUDGET: f64 = 1_500_000.0;
/// Budget: how much less processor time a packet takes than with tcptrace, and with tshark.
const TCPTRACE_BUDGET: f64 = 1.5;
const TSHARK_BUDGET: f64 = 50.0;
/// Budget: resident memory in bytes.
const RESIDENT_BUDGET: u64 = 150_000_000;
/// Budget: how much sooner two threads are done than one.
const THREADS_BUDGET: f64 = 1.7;
/// Budget: growth of the cost of a packet.
const GROWTH_BUDGET: f64 = 1.5;

/// A capture to be analysed.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    connections: u32,
    /// Nothing for a scan.
    packets: Option<u64>,
    snap_bytes: u32,
}

/// At least 1.4 million packets and 9,000 connections.
const MAIN: Plan = Plan {
    name: "main",
    connections: 9_100,
    packets: Some(1_420_000),
    snap_bytes: SNAP_BYTES,
};
/// As many packets per connection as in `MAIN`.
const SMALL: Plan = Plan {
    name: "small",
    connections: 641,
    packets: Some(100_000),
    snap_bytes: SNAP_BYTES,
};
const LARGE: Plan = Plan {
    name: "large",
    connections: 64_100,
    packets: Some(10_000_000),
    snap_bytes: SNAP_BYTES,
};
/// `MAIN` with the whole payload, which tshark looks at.
const WHOLE: Plan = Plan {
    name: "whole",
    snap_bytes: 0,
    ..MAIN
};
const FEW: Plan = Plan {
    name: "few",
    connections: 100,
    packets: Some(1_000_000),
    snap_bytes: SNAP_BYTES,
};
const SCAN: Plan = Plan {
    name: "scan",
    connections: 1_000_000,
    packets: None,
    snap_bytes: SNAP_BYTES,
};
/// So few packets that a program only starts and ends.
const NOTHING: Plan = Plan {
    name: "nothing",
    connections: 1,
    packets: Some(10),
    snap_bytes: SNAP_BYTES,
};
const PLANS: [Plan; 7] = [MAIN, SMALL, LARGE, WHOLE, FEW, SCAN, NOTHING];

/// A capture that was made; gone with the value.
struct Capture {
    path: PathBuf,
    packets: u64,
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What a run took.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// User and system time.
    cpu_s: f64,
    wall_s: f64,
    resident_bytes: u64,
}

/// A program under measurement.
#[derive(Clone, Copy)]
enum Program {
    /// With its own choice of threads.
    Phalanx,
    PhalanxThreads(usize),
    Tcptrace,
    Tshark,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == MAKE) {
        return make(&arguments[at + 1..]);
    }
    // `cargo test --benches` runs benches too, to see that they start.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let lock = File::create(std::env::temp_dir().join("phalanx-range-network.lock"))?;
    lock.lock()?;
    let main = capture(MAIN)?;
    compare(&main)?;
    drop(main);
    compare_with_tshark()?;
    let (small, large) = (cost_of(SMALL)?, cost_of(LARGE)?);
    growth("10⁷ packets against 10⁵", small, large);
    let (few, scan) = (cost_of(FEW)?, cost_of(SCAN)?);
    growth("10⁶ connections (SYN scan) against 10²", few, scan);
    Ok(())
}

/// All that is measured on the main capture.
fn compare(main: &Capture) -> Result<()> {
    let packets = main.packets as f64;
    let mut programs = vec![
        Program::Phalanx,
        Program::PhalanxThreads(1),
        Program::PhalanxThreads(2),
    ];
    if is_installed("tcptrace") {
        programs.push(Program::Tcptrace);
    }
    let usages = rounds(&programs, main, ROUND_COUNT)?;
    for (program, usage) in programs.iter().zip(&usages) {
        println!(
            "{:<32} {:>6.3} s of CPU, {:>6.3} s, {}",
            program.name(),
            usage.cpu_s,
            usage.wall_s,
            megabytes(usage.resident_bytes)
        );
    }
    let own = usages[0];
    let rate = packets / own.cpu_s;
    report(
        "analyze, packets per CPU second",
        format!("{:.2} M", rate / 1e6),
        format!("≥ {:.1} M", RATE_BUDGET / 1e6),
        rate >= RATE_BUDGET,
    );
    report(
        &format!("analyze, resident memory, {:.2} M packets", packets / 1e6),
        megabytes(own.resident_bytes),
        format!("≤ {}", megabytes(RESIDENT_BUDGET)),
        own.resident_bytes <= RESIDENT_BUDGET,
    );
    let speedup = usages[1].wall_s / usages[2].wall_s;
    report(
        "analyze, two threads against one",
        format!("{speedup:.2} ×"),
        format!("≥ {THREADS_BUDGET} ×"),
        speedup >= THREADS_BUDGET,
    );
    if let Some(tcptrace) = usages.get(3) {
        let rate = format!("{:.2} M", packets / tcptrace.cpu_s / 1e6);
        println!("bench: tcptrace, packets per CPU second | {rate} | - | -");
        let resident = megabytes(tcptrace.resident_bytes);
        println!("bench: tcptrace, resident memory | {resident} | - | -");
        ratio("tcptrace", tcptrace.cpu_s / own.cpu_s, TCPTRACE_BUDGET);
    } else {
        println!("SKIPPED: tcptrace is not installed");
    }
    Ok(())
}

/// tshark takes a minute for the main capture, so it runs once, and its start is not counted. The
/// budget is for whole frames; cut ones, and fewer, leave it less to look at.
fn compare_with_tshark() -> Result<()> {
    if !is_installed("tshark") {
        println!("SKIPPED: tshark is not installed");
        return Ok(());
    }
    let nothing = capture(NOTHING)?;
    // The first start reads its plugins from the disk.
    Program::Tshark.run(&nothing.path)?;
    let start = Program::Tshark.run(&nothing.path)?;
    for (plan, frames) in [(WHOLE, "whole"), (SMALL, "cut")] {
        let capture = capture(plan)?;
        let own = rounds(&[Program::Phalanx], &capture, ROUND_COUNT)?[0];
        let usage = Program::Tshark.run(&capture.path)?;
        let (packets, cpu_s) = (capture.packets as f64, usage.cpu_s - start.cpu_s);
        let rate = format!("{:.1} k", packets / cpu_s / 1e3);
        println!("bench: tshark, packets per CPU second, {frames} frames | {rate} | - | -");
        println!(
            "tshark: {} for {packets} {frames} frames",
            megabytes(usage.resident_bytes)
        );
        let speed = cpu_s / own.cpu_s;
        if plan.snap_bytes == 0 {
            ratio("tshark", speed, TSHARK_BUDGET);
        } else {
            println!(
                "bench: analyze, speed against tshark, {frames} frames | {speed:.2} × | - | -"
            );
        }
    }
    Ok(())
}

fn ratio(other: &str, ratio: f64, budget: f64) {
    report(
        &format!("analyze, speed against {other}"),
        format!("{ratio:.2} ×"),
        format!("≥ {budget} ×"),
        ratio >= budget,
    );
}

fn growth(what: &str, before: f64, after: f64) {
    let growth = after / before;
    println!(
        "{:.0} ns of CPU per packet, then {:.0} ns",
        before * 1e9,
        after * 1e9
    );
    report(
        &format!("analyze, cost of a packet, {what}"),
        format!("{growth:.2} ×"),
        format!("≤ {GROWTH_BUDGET} ×"),
        growth <= GROWTH_BUDGET,
    );
}

/// Processor time per packet in seconds.
fn cost_of(plan: Plan) -> Result<f64> {
    let capture = capture(plan)?;
    let count = match capture.packets {
        ..1_000_000 => ROUND_COUNT_SHORT,
        _ => ROUND_COUNT,
    };
    let usages = rounds(&[Program::Phalanx], &capture, count)?;
    println!(
        "{}: {} packets, {} connections: {:.3} s of CPU, {:.3} s, {}",
        plan.name,
        capture.packets,
        plan.connections,
        usages[0].cpu_s,
        usages[0].wall_s,
        megabytes(usages[0].resident_bytes)
    );
    Ok(usages[0].cpu_s / capture.packets as f64)
}

/// Runs the programs in turn, after a run of each that does not count: the medians of each.
fn rounds(programs: &[Program], capture: &Capture, count: usize) -> Result<Vec<Usage>> {
    let mut taken: Vec<Vec<Usage>> = vec![Vec::new(); programs.len()];
    for round in 0..=count {
        for (program, usages) in programs.iter().zip(&mut taken) {
            let usage = program.run(&capture.path)?;
            if round > 0 {
                usages.push(usage);
            }
        }
    }
    Ok(taken.iter().map(|usages| medians(usages)).collect())
}

fn medians(usages: &[Usage]) -> Usage {
    let median = |value: fn(&Usage) -> f64| {
        let mut values: Vec<f64> = usages.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Usage {
        cpu_s: median(|usage| usage.cpu_s),
        wall_s: median(|usage| usage.wall_s),
        resident_bytes: median(|usage| usage.resident_bytes as f64) as u64,
    }
}

impl Program {
    fn name(self) -> String {
        match self {
            Self::Phalanx => "phalanx analyze".to_owned(),
            Self::PhalanxThreads(count) => format!("phalanx analyze --threads {count}"),
            Self::Tcptrace => "tcptrace -l -r -n".to_owned(),
            Self::Tshark => "tshark -q -z conv,tcp".to_owned(),
        }
    }

    fn command(self, path: &Path) -> Command {
        let phalanx = env!("CARGO_BIN_EXE_phalanx");
        let mut command = match self {
            Self::Phalanx | Self::PhalanxThreads(_) => Command::new(phalanx),
            Self::Tcptrace => Command::new("tcptrace"),
            Self::Tshark => Command::new("tshark"),
        };
        match self {
            Self::Phalanx => command.args(["analyze", "--format", "json"]),
            Self::PhalanxThreads(count) => {
                command.args(["analyze", "--format", "json", "--threads"]);
                command.arg(count.to_string())
            }
            Self::Tcptrace => command.args(["-l", "-r", "-n"]),
            Self::Tshark => command.args(["-q", "-z", "conv,tcp", "-r"]),
        };
        command.arg(path);
        command
    }

    /// Runs it to its end.
    fn run(self, path: &Path) -> Result<Usage> {
        let mut command = self.command(path);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // What it says goes to ours only where it fails.
        let complaint = path.with_extension("stderr");
        command.stderr(File::create(&complaint)?);
        let start = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("start {}", self.name()))?;
        let (status, usage) = wait(child.id())?;
        let wall_s = start.elapsed().as_secs_f64();
        let said = fs::read_to_string(&complaint).unwrap_or_default();
        let _ = fs::remove_file(&complaint);
        ensure!(status == 0, "{}: status {status}: {said}", self.name());
        Ok(Usage {
            cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            wall_s,
            // Linux counts KiB (getrusage(2)).
            resident_bytes: usage.ru_maxrss.cast_unsigned() << 10,
        })
    }
}

/// Waits for a child, for what it took: its raw status, and its usage.
fn wait(pid: u32) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for writes, and outlive the call.
    let waited = unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) };
    if waited < 0 {
        bail!("wait: {}", std::io::Error::last_os_error());
    }
    Ok((status, usage))
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// What this program is called with to make captures, in a process of its own: what a program has
/// resident at its start counts for those that it starts, too.
const MAKE: &str = "--make-capture";

fn capture(plan: Plan) -> Result<Capture> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("analyze-{}-{}.pcap", plan.name, std::process::id());
    let mut capture = Capture {
        path: folder.join(name),
        packets: 0,
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args([MAKE, plan.name]).arg(&capture.path);
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "make {}", capture.path.display());
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    capture.packets = outcome["packets"].as_u64().context("no count of packets")?;
    println!("{}: {outcome}", plan.name);
    Ok(capture)
}

fn make(arguments: &[String]) -> Result<()> {
    let [name, path] = arguments else {
        bail!("{MAKE} needs a name and a path");
    };
    let plan = PLANS.iter().find(|plan| plan.name == name);
    let plan = plan.context("no such capture")?;
    let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let outcome: SynthesisOutcome = match plan.packets {
        Some(packets) => Synthesis {
            connections: plan.connections,
            packets,
            snap_bytes: plan.snap_bytes,
            ..Synthesis::default()
        }
        .write(file)?,
        None => Scan {
            connections: plan.connections,
            seed: 1,
            snap_bytes: plan.snap_bytes,
        }
        .write(file)?,
    };
    println!("{}", json!(outcome));
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn report(what: &str, measured: String, budget: String, is_kept: bool) {
    let verdict = if is_kept { "ok" } else { "over" };
    println!("bench: {what} | {measured} | {budget} | {verdict}");
}
