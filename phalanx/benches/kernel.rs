//! What the kernel programs cost per packet, against controls in the same run: `BPF_PROG_TEST_RUN`
//! on one frame that a prologue turns into the next packet of one flow after the other. Rounds are
//! interleaved; the figures are medians.
#![allow(missing_docs)]

use std::path::Path;

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use phalanx_common::abi::Control;

const ROUND_COUNT: usize = 9;
const REPEAT: u32 = 200_000;
/// Updates that fit into the ring of events between two drains.
const EVENT_REPEAT: u32 = 3_000;

/// Budget: a data packet at watch level against time and one hit in a hash map.
const DATA_PACKET_BUDGET: f64 = 1.35;
/// Budget: an event against a bare reserve and submit of its size.
const EVENT_BUDGET: f64 = 1.5;

#[derive(Clone, Copy)]
#[repr(C)]
struct Course {
    count: u64,
    flow_count: u64,
    step: u32,
    offset: u32,
}
// SAFETY: plain numbers without padding.
unsafe impl Pod for Course {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct ControlWord(Control);
// SAFETY: plain numbers without padding.
unsafe impl Pod for ControlWord {}

/// What is sent: the frame, and the word in it that moves on.
struct Traffic {
    name: &'static str,
    frame: Vec<u8>,
    offset: u32,
    step: u32,
}

struct Bench {
    ebpf: Ebpf,
    course: Array<MapData, Course>,
    control: Array<MapData, ControlWord>,
    events: RingBuf<MapData>,
    control_events: RingBuf<MapData>,
}

impl Bench {
    fn start() -> anyhow::Result<Self> {
        let default =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../phalanx-ebpf/prebuilt/bench.bpf.o");
        let path = std::env::var_os("PHALANX_BENCH_OBJECT").map_or(default, Into::into);
        // As the daemon loads them: without their log.
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &0_u8, false)
            .load_file(path)?;
        for name in PROGRAMS {
            program(&mut ebpf, name)?.load()?;
        }
        let mut map = |name: &str| ebpf.take_map(name).expect("the object has the map");
        Ok(Self {
            course: Array::try_from(map("COURSE"))?,
            control: Array::try_from(map("CONTROL"))?,
            events: RingBuf::try_from(map("EVENTS"))?,
            control_events: RingBuf::try_from(map("CONTROL_EVENTS"))?,
            ebpf,
        })
    }

    /// Nanoseconds per packet of one run of `name`.
    fn run(&mut self, name: &str, traffic: &Traffic, repeat: u32) -> anyhow::Result<f64> {
        let options = TestRunOptions {
            data_in: Some(&traffic.frame),
            repeat,
            ..TestRunOptions::new()
        };
        let result = program(&mut self.ebpf, name)?.test_run(options)?;
        self.drain();
        Ok(result.duration.as_nanos() as f64)
    }

    fn set_course(&mut self, traffic: &Traffic, flow_count: u64) -> anyhow::Result<()> {
        let course = Course {
            count: 0,
            flow_count,
            step: traffic.step,
            offset: traffic.offset,
        };
        Ok(self.course.set(0, course, 0)?)
    }

    fn set_interval(&mut self, update_interval_ns: u64) -> anyhow::Result<()> {
        let control = Control {
            update_interval_ns,
            ..Control::default()
        };
        Ok(self.control.set(0, ControlWord(control), 0)?)
    }

    fn drain(&mut self) {
        while self.events.next().is_some() {}
        while self.control_events.next().is_some() {}
    }
}

const PROGRAMS: [&str; 7] = [
    "sighted",
    "found",
    "control_empty",
    "control_time",
    "control_hash",
    "control_event",
    "watched",
];

fn program<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut Xdp, ProgramError> {
    ebpf.program_mut(name)
        .expect("the object has the program")
        .try_into()
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` runs benches too, to see that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    // What is named on the command line alone: `data packet, 1 flows`, `event`, a part of it.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let mut bench = Bench::start()?;
    for flow_count in [1, 100_000] {
        for traffic in traffic() {
            if is_wanted(&format!("{}, {flow_count} flows", traffic.name)) {
                measure(&mut bench, &traffic, flow_count)?;
            }
        }
    }
    if is_wanted("event") {
        measure_event(&mut bench)?;
    }
    Ok(())
}

fn traffic() -> [Traffic; 4] {
    const ACK: u8 = 0x10;
    const SYN: u8 = 0x02;
    let data = || tcp(ACK | 0x08, 1448);
    [
        Traffic {
            name: "data packet",
            frame: data(),
            offset: 38,
            step: 1448,
        },
        Traffic {
            name: "pure ACK",
            frame: tcp(ACK, 0),
            offset: 42,
            step: 1448,
        },
        Traffic {
            name: "UDP",
            frame: udp(512),
            offset: 0,
            step: 0,
        },
        Traffic {
            name: "SYN",
            frame: tcp(SYN, 0),
            offset: 38,
            step: 1,
        },
    ]
}

/// One kind of traffic against the three controls.
fn measure(bench: &mut Bench, traffic: &Traffic, flow_count: u64) -> anyhow::Result<()> {
    bench.set_interval(u64::MAX / 2)?;
    let names = [
        "control_empty",
        "control_time",
        "control_hash",
        "watched",
        "sighted",
        "found",
    ];
    // Open the flows, and warm up: five packets of each.
    let warm_up = u32::try_from(flow_count * 5)?.max(REPEAT);
    for name in names {
        bench.set_course(traffic, flow_count)?;
        bench.run(name, traffic, warm_up)?;
    }
    // Each program's flows go on from where its last round ended.
    let mut counts = [u64::from(warm_up); 6];
    let mut rounds = [const { Vec::new() }; 6];
    for _ in 0..ROUND_COUNT {
        for (index, name) in names.iter().enumerate() {
            let mut course = bench.course.get(&0, 0)?;
            course.count = counts[index];
            bench.course.set(0, course, 0)?;
            rounds[index].push(bench.run(name, traffic, REPEAT)?);
            counts[index] += u64::from(REPEAT);
        }
    }
    let [empty, time, hash, watched, sighted, found] = rounds.map(median);
    let ratio = watched / hash;
    let name = traffic.name;
    println!(
        "{name}, {flow_count} flows: empty {empty:.0} ns, time {time:.0} ns, time and hash \
         {hash:.0} ns, watched {watched:.0} ns (of it sighted {sighted:.0} ns, found {found:.0} ns)"
    );
    let budget = (name == "data packet").then_some(DATA_PACKET_BUDGET);
    report(
        &format!("{name}, {flow_count} flows, to time and hash hit"),
        ratio,
        budget,
    );
    Ok(())
}

/// An update, told by the difference that sending one makes, against a bare reserve and submit.
fn measure_event(bench: &mut Bench) -> anyhow::Result<()> {
    let [traffic, ..] = traffic();
    bench.set_course(&traffic, 1)?;
    bench.run("watched", &traffic, 100)?;
    let mut rounds = [const { Vec::new() }; 4];
    for _ in 0..ROUND_COUNT * 5 {
        bench.set_interval(0)?;
        rounds[0].push(bench.run("watched", &traffic, EVENT_REPEAT)?);
        bench.set_interval(u64::MAX / 2)?;
        rounds[1].push(bench.run("watched", &traffic, EVENT_REPEAT)?);
        rounds[2].push(bench.run("control_event", &traffic, EVENT_REPEAT)?);
        rounds[3].push(bench.run("control_time", &traffic, EVENT_REPEAT)?);
    }
    let [sending, silent, bare, time] = rounds.map(median);
    let (event, control) = (sending - silent, bare - time);
    println!("event: {event:.0} ns; bare reserve and submit of its size: {control:.0} ns");
    report(
        "event to bare reserve and submit",
        event / control,
        Some(EVENT_BUDGET),
    );
    Ok(())
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn report(what: &str, ratio: f64, budget: Option<f64>) {
    match budget {
        Some(budget) => {
            let verdict = if ratio <= budget { "ok" } else { "over" };
            println!("bench: {what} | {ratio:.2} | {budget:.2} | {verdict}");
        }
        None => println!("bench: {what} | {ratio:.2} | - | -"),
    }
}

/// Ethernet, IPv4 and TCP with timestamps, 10.0.0.0:40000 to 10.200.0.1:443.
fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut frame = ip(6, 32 + payload);
    frame.extend([0x9c, 0x40, 0x01, 0xbb]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    frame.extend([0x80, flags, 0x02, 0x00, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 9]);
    frame.resize(frame.len() + payload, 0);
    frame
}

fn udp(payload: u16) -> Vec<u8> {
    let mut frame = ip(17, 8 + usize::from(payload));
    frame.extend([0x9c, 0x40, 0x01, 0xbb]);
    frame.extend((8 + payload).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(frame.len() + usize::from(payload), 0);
    frame
}

fn ip(protocol: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let total = u16::try_from(20 + length).expect("a frame is below 64 KiB");
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend([10, 0, 0, 0, 10, 200, 0, 1]);
    frame
}
