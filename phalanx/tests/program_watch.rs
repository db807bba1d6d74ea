//! One watch rule, two builds: fed with the same frames, the loaded program and the library count
//! the same in every flow, attempt and counter, exactly. (Times are each one's own.)
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot load the programs has failed"
)]

#[path = "../../phalanx-common/tests/support/frames.rs"]
mod frames;
#[path = "../../phalanx-common/tests/support/ground.rs"]
mod ground;

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use frames::{Frame, mutated, read_folder, shared_captures};
use ground::Ground;
use phalanx_common::abi::{
    COUNTER_COUNT, Control, Counter, FlowKey, FlowUpdate, HalfCounters, RecordHeader, event_kind,
};
use phalanx_common::packet::{LinkKind, Unparsed};
use phalanx_common::watch::{FlowEntry, PROMOTION_COUNT_MAX, PromotionLimit};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Each sick flow is promoted once, whatever the time that a run takes.
const PROMOTIONS: PromotionLimit = PromotionLimit {
    hold_ns: 24 * 3_600_000_000_000,
    count_max: PROMOTION_COUNT_MAX,
};
/// A test run happens on the loopback interface of the namespace.
const LOOPBACK: u32 = 1;
const MUTATION_COUNT: usize = 60_000;
const MUTATION_SEED: u64 = 7;
/// Frames shorter than this are refused by the kernel's test run.
const FRAME_MIN: usize = 14;

const KEY: usize = size_of::<FlowKey>();
const ENTRY: usize = size_of::<FlowEntry>();

/// What a flow has counted, without times.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    initiator: u32,
    has_handshake: (bool, bool),
    icmp_error: u32,
    is_promoted: bool,
    halves: [HalfCounters; 2],
}

fn counts(entry: &FlowEntry) -> Counts {
    let update: FlowUpdate = entry.update();
    let halves = update.halves.map(|half| HalfCounters {
        rtt_min_us: 0,
        seen_tick: 0,
        next_sequence_tick: 0,
        ..half
    });
    Counts {
        initiator: update.initiator,
        has_handshake: (
            update.handshake_server_us != 0,
            update.handshake_client_us != 0,
        ),
        icmp_error: update.icmp_error,
        is_promoted: entry.promoted_until_ns.load() != 0,
        halves,
    }
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

fn load() -> Ebpf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let object = std::env::var_os("PHALANX_BPF_OBJECT").map_or_else(
        || workspace.join("phalanx-ebpf/prebuilt/phalanx.bpf.o"),
        Into::into,
    );
    let mut ebpf = EbpfLoader::new()
        .load(&std::fs::read(object).unwrap())
        .unwrap();
    let control = Control {
        update_interval_ns: u64::MAX,
        promotion_count_max: PROMOTIONS.count_max,
        promotion_hold_ns: PROMOTIONS.hold_ns,
        ..Control::default()
    };
    let value: [u8; size_of::<Control>()] = control.as_bytes().try_into().unwrap();
    let map = ebpf.map_mut("CONTROL").unwrap();
    let mut map = Array::<_, [u8; size_of::<Control>()]>::try_from(map).unwrap();
    map.set(0, value, 0).unwrap();
    let program: &mut Xdp = ebpf.program_mut("phalanx_xdp").unwrap().try_into().unwrap();
    program.load().unwrap();
    ebpf
}

/// Runs a frame through both; the kernel's event ring is emptied, and its attempts counted.
fn see(ebpf: &mut Ebpf, ground: &Ground, frame: &[u8]) {
    let options = TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::new()
    };
    let program: &mut Xdp = ebpf.program_mut("phalanx_xdp").unwrap().try_into().unwrap();
    match program.test_run(options) {
        Ok(_) => ground.see(frame, LinkKind::Ethernet, LOOPBACK, monotonic_ns()),
        Err(ProgramError::SyscallError(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The flows of the kernel's table, read as the library writes them.
fn kernel_flows(ebpf: &mut Ebpf) -> BTreeMap<FlowKey, Counts> {
    let map = ebpf.map_mut("FLOWS").unwrap();
    let map = HashMap::<_, [u8; KEY], [u8; ENTRY]>::try_from(map).unwrap();
    let read = |(key, entry): ([u8; KEY], [u8; ENTRY])| {
        let key = FlowKey::read_from_bytes(&key).unwrap();
        // SAFETY: an entry is made of plain words, of which any bit pattern is one.
        let entry: FlowEntry = unsafe { std::ptr::read_unaligned(entry.as_ptr().cast()) };
        (key, counts(&entry))
    };
    map.iter().map(|pair| read(pair.unwrap())).collect()
}

fn library_flows(ground: &Ground) -> BTreeMap<FlowKey, Counts> {
    let read = |(key, entry): (&FlowKey, &&FlowEntry)| (*key, counts(entry));
    ground.flows.borrow().iter().map(read).collect()
}

fn kernel_counters(ebpf: &mut Ebpf) -> Vec<u64> {
    let map = ebpf.map_mut("COUNTERS").unwrap();
    let map = PerCpuArray::<_, [u64; COUNTER_COUNT]>::try_from(map).unwrap();
    let values = map.get(&0, 0).unwrap();
    (0..COUNTER_COUNT)
        .map(|index| values.iter().map(|cpu| cpu[index]).sum())
        .collect()
}

/// The counters that both sides keep.
fn shared_counters() -> Vec<usize> {
    let named = [
        Counter::Seen,
        Counter::Parsed,
        Counter::Watched,
        Counter::Pended,
        Counter::IcmpErrors,
        Counter::IcmpErrorsMatched,
        Counter::FlowsOpened,
        Counter::PendingDisplaced,
        Counter::PendingDisplacedPackets,
        Counter::PendingFolded,
        Counter::PendingCleared,
        Counter::Refused,
        Counter::Promoted,
        Counter::PromotionsLimited,
    ];
    let reasons = Unparsed::ALL.map(|reason| Counter::UnparsedFirst as usize + reason as usize);
    named
        .map(|counter| counter as usize)
        .into_iter()
        .chain(reasons)
        .collect()
}

/// What no filter asked for carries headers alone; how many records there are.
fn check_records(ebpf: &mut Ebpf) -> u64 {
    let mut records = RingBuf::try_from(ebpf.take_map("RECORDS").unwrap()).unwrap();
    let mut count = 0;
    while let Some(record) = records.next() {
        let (header, _) = RecordHeader::read_from_prefix(&record).unwrap();
        assert_eq!((header.is_promoted, header.matched), (1, 0));
        assert_eq!((header.digest_length, header.digest), (0, [0; 32]));
        assert!(header.captured_length <= u32::from(header.payload_offset));
        count += 1;
    }
    count
}

fn compare(frames: impl Iterator<Item = Frame>, what: &str) {
    let (mut ebpf, mut ground) = (load(), Ground::new());
    ground.promotion_limit = PROMOTIONS;
    let mut events = RingBuf::try_from(ebpf.take_map("EVENTS").unwrap()).unwrap();
    let mut attempts = 0;
    let mut run = 0;
    for frame in frames.filter(|frame| frame.bytes.len() >= FRAME_MIN) {
        see(&mut ebpf, &ground, &frame.bytes);
        run += 1;
        while let Some(event) = events.next() {
            attempts += usize::from(event[..4] == event_kind::ATTEMPT.to_ne_bytes());
        }
    }
    let (kernel, library) = (kernel_flows(&mut ebpf), library_flows(&ground));
    let count = library.len();
    for (key, counts) in &library {
        assert_eq!(kernel.get(key), Some(counts), "{key:?}");
    }
    assert_eq!(kernel.len(), count);
    assert_eq!(attempts, ground.attempts.borrow().len(), "attempts");
    let counters = kernel_counters(&mut ebpf);
    for index in shared_counters() {
        assert_eq!(
            counters[index],
            ground.counters[index].get(),
            "counter {index}"
        );
    }
    let of = |counter: Counter| counters[counter as usize];
    // No filter is in force: what is recorded is of promoted flows, and leaves half of the ring.
    assert!(of(Counter::Matched) > 0);
    assert_eq!(
        of(Counter::Matched),
        of(Counter::Delivered) + of(Counter::SampledOut)
    );
    assert_eq!(check_records(&mut ebpf), of(Counter::Delivered));
    println!(
        "{what}: {run} frames, {count} flows, {attempts} attempts and {} promotions agree; of {} \
         packets {} were recorded",
        of(Counter::Promoted),
        of(Counter::Matched),
        of(Counter::Delivered),
    );
    assert!(count > 100, "the frames open flows");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring program"]
fn kernel_and_library_measure_the_same() {
    let Some(folder) = shared_captures("kernel_and_library_measure_the_same") else {
        return;
    };
    let frames: Vec<Frame> = read_folder(&folder)
        .into_iter()
        .filter(|frame| frame.linktype == 1)
        .collect();
    compare(frames.iter().cloned(), "captures");
    compare(mutated(&frames, MUTATION_COUNT, MUTATION_SEED), "mutations");
}
