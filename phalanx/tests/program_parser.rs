//! One parser, two builds: the loaded programs and the library say the same of the same frames,
//! over all captures and over mutations, at every hook that takes them.
//!
//! A filter that fits everything makes the programs record each packet, and a record tells the
//! flow, the direction, the offsets and the digest; what is not parsed is told by its counter.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot load the programs has failed"
)]

#[path = "../../phalanx-common/tests/support/frames.rs"]
mod frames;

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use frames::{Frame, mutated, read_folder, shared_captures};
use phalanx_common::abi::{
    COUNTER_COUNT, Control, Counter, Filter, FlowKey, Hook, RecordHeader, Shape, TupleKey,
};
use phalanx_common::limits::{RECORD_DIGEST_SIZE, RECORD_DIGEST_TCP};
use phalanx_common::packet::{Headers, LinkKind, Unparsed, parse, protocol};
use phalanx_common::watch::write_key;
use zerocopy::{FromBytes as _, IntoBytes as _};

const MUTATION_COUNT: usize = 115_000;
const MUTATION_SEED: u64 = 20_262;

/// A test run happens on the loopback interface of the namespace.
const LOOPBACK: u32 = 1;

/// A program, and the frames it is for.
struct Case {
    program: &'static str,
    hook: Hook,
    kind: LinkKind,
}

const CASES: [Case; 5] = [
    Case {
        program: "phalanx_xdp",
        hook: Hook::Xdp,
        kind: LinkKind::Ethernet,
    },
    Case {
        program: "phalanx_tc_ingress",
        hook: Hook::TcIngress,
        kind: LinkKind::Ethernet,
    },
    Case {
        program: "phalanx_tc_egress",
        hook: Hook::TcEgress,
        kind: LinkKind::Ethernet,
    },
    Case {
        program: "phalanx_tc_ingress_raw",
        hook: Hook::TcIngress,
        kind: LinkKind::None,
    },
    Case {
        program: "phalanx_tc_egress_raw",
        hook: Hook::TcEgress,
        kind: LinkKind::None,
    },
];

/// The committed object, or the one that `PHALANX_BPF_OBJECT` names.
fn load() -> Ebpf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let object = std::env::var_os("PHALANX_BPF_OBJECT").map_or_else(
        || workspace.join("phalanx-ebpf/prebuilt/phalanx.bpf.o"),
        Into::into,
    );
    let bytes =
        std::fs::read(&object).unwrap_or_else(|error| panic!("read {}: {error}", object.display()));
    EbpfLoader::new().load(&bytes).unwrap()
}

/// Puts a filter in force that fits every packet.
fn record_everything(ebpf: &mut Ebpf) {
    let filter = Filter {
        a_port_last: u16::MAX,
        b_port_last: u16::MAX,
        is_set: 1,
        ..Filter::default()
    };
    let shape = Shape {
        is_set: 1,
        ..Shape::default()
    };
    let tuple = TupleKey {
        generation: 1,
        ..TupleKey::default()
    };
    let control = Control {
        generation: 1,
        shape_count: 1,
        update_interval_ns: u64::MAX,
        ..Control::default()
    };
    set::<{ size_of::<Filter>() }>(ebpf, "FILTERS", filter.as_bytes());
    set::<{ size_of::<Shape>() }>(ebpf, "SHAPES", shape.as_bytes());
    let key: [u8; size_of::<TupleKey>()] = tuple.as_bytes().try_into().unwrap();
    let map = ebpf.map_mut("TUPLES").unwrap();
    let mut tuples = HashMap::<_, [u8; size_of::<TupleKey>()], u64>::try_from(map).unwrap();
    tuples.insert(key, 1, 0).unwrap();
    set::<{ size_of::<Control>() }>(ebpf, "CONTROL", control.as_bytes());
}

/// Writes the first entry of an array.
fn set<const SIZE: usize>(ebpf: &mut Ebpf, map: &str, value: &[u8]) {
    let map = ebpf.map_mut(map).unwrap();
    let value: [u8; SIZE] = value.try_into().unwrap();
    Array::<_, [u8; SIZE]>::try_from(map)
        .unwrap()
        .set(0, value, 0)
        .unwrap();
}

/// The loaded programs, with what they count and record.
struct Kernel {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, [u64; COUNTER_COUNT]>,
    counted: [u64; COUNTER_COUNT],
    records: RingBuf<MapData>,
    events: RingBuf<MapData>,
}

/// What the kernel did with one frame.
struct Answer {
    parsed: Result<(), Unparsed>,
    records: Vec<Vec<u8>>,
}

impl Kernel {
    fn start() -> Self {
        let mut ebpf = load();
        record_everything(&mut ebpf);
        let counters = PerCpuArray::try_from(ebpf.take_map("COUNTERS").unwrap()).unwrap();
        Self {
            records: RingBuf::try_from(ebpf.take_map("RECORDS").unwrap()).unwrap(),
            events: RingBuf::try_from(ebpf.take_map("EVENTS").unwrap()).unwrap(),
            ebpf,
            counters,
            counted: [0; COUNTER_COUNT],
        }
    }

    fn load_program(&mut self, case: &Case) {
        let program = self.ebpf.program_mut(case.program).unwrap();
        if case.hook == Hook::Xdp {
            let program: &mut Xdp = program.try_into().unwrap();
            program.load().unwrap();
        } else {
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap();
        }
    }

    /// Runs the program on a frame; the error number where the kernel refuses the frame.
    fn run(&mut self, case: &Case, bytes: &[u8]) -> Result<Answer, i32> {
        let options = TestRunOptions {
            data_in: Some(bytes),
            ..TestRunOptions::new()
        };
        let program = self.ebpf.program_mut(case.program).unwrap();
        // The observer never changes the fate of a packet: XDP_PASS is 2, TC_ACT_UNSPEC is -1.
        let (result, fate) = if case.hook == Hook::Xdp {
            let program: &mut Xdp = program.try_into().unwrap();
            (program.test_run(options), 2)
        } else {
            let program: &mut SchedClassifier = program.try_into().unwrap();
            (program.test_run(options), u32::MAX)
        };
        match result {
            Ok(result) => assert_eq!(result.return_value, fate),
            Err(ProgramError::SyscallError(error)) => {
                return Err(error.io_error.raw_os_error().unwrap());
            }
            Err(error) => panic!("{error}"),
        }
        Ok(Answer {
            parsed: self.count(case.hook),
            records: self.drain(),
        })
    }

    /// What the counters say of the one packet since the last call.
    fn count(&mut self, hook: Hook) -> Result<(), Unparsed> {
        let mut now = [0; COUNTER_COUNT];
        for cpu in self.counters.get(&0, 0).unwrap().iter() {
            for (sum, value) in now.iter_mut().zip(cpu) {
                *sum += value;
            }
        }
        let before = std::mem::replace(&mut self.counted, now);
        let since = |index: usize| now[index] - before[index];
        assert_eq!(since(Counter::Seen as usize), 1);
        let at_hook = match hook {
            Hook::Xdp => Counter::SeenXdp,
            Hook::TcIngress => Counter::SeenTcIngress,
            Hook::TcEgress => Counter::SeenTcEgress,
        };
        assert_eq!(since(at_hook as usize), 1);
        let reasons: Vec<_> = Unparsed::ALL
            .into_iter()
            .filter(|reason| since(Counter::UnparsedFirst as usize + *reason as usize) > 0)
            .collect();
        match (since(Counter::Parsed as usize), reasons.as_slice()) {
            (1, []) => {
                assert_eq!(since(Counter::Matched as usize), 1);
                assert_eq!(since(Counter::Delivered as usize), 1);
                Ok(())
            }
            (0, [reason]) => Err(*reason),
            other => panic!("one packet was counted as {other:?}"),
        }
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        while self.events.next().is_some() {}
        let mut records = Vec::new();
        while let Some(record) = self.records.next() {
            records.push(record.to_vec());
        }
        records
    }
}

/// Asserts that a record is that of the frame, as the library parses it.
fn check_record(record: &[u8], frame: &[u8], headers: &Headers, case: &Case) {
    let (header, captured) = RecordHeader::read_from_prefix(record).unwrap();
    let mut key = FlowKey::default();
    let direction = write_key(headers, LOOPBACK, &mut key);
    assert_eq!(header.key, key);
    assert_eq!(header.direction, direction as u8);
    assert_eq!(header.hook, case.hook as u8);
    assert_eq!(
        header.has_ethernet,
        u8::from(case.kind == LinkKind::Ethernet)
    );
    assert_eq!(header.frame_length as usize, frame.len());
    assert_eq!(u32::from(header.network_offset), headers.network_offset);
    assert_eq!(u32::from(header.transport_offset), headers.transport_offset);
    assert_eq!(u32::from(header.payload_offset), headers.payload_offset);
    let captured_length = header.captured_length as usize;
    assert_eq!(captured[..captured_length], frame[..captured_length]);
    let digest_max = match headers.protocol {
        protocol::TCP => RECORD_DIGEST_TCP,
        protocol::UDP => RECORD_DIGEST_SIZE,
        _ => 0,
    };
    let payload = frame
        .get(headers.payload_offset as usize..)
        .unwrap_or_default();
    let digest = (headers.payload_length as usize).min(digest_max);
    // Where the frame ends inside of the digest there is none.
    let digest = payload.get(..digest).unwrap_or_default();
    assert_eq!(header.digest[..usize::from(header.digest_length)], *digest);
}

/// The bytes of a frame as a program for `kind` would see them, if it ever would.
fn as_seen(frame: &Frame, kind: LinkKind) -> Option<&[u8]> {
    match (LinkKind::from_linktype(frame.linktype)?, kind) {
        (LinkKind::Ethernet, LinkKind::Ethernet) | (LinkKind::None, LinkKind::None) => {
            Some(&frame.bytes)
        }
        (LinkKind::Ethernet, LinkKind::None) => frame.bytes.get(14..),
        _ => None,
    }
}

/// Runs all frames through one program; what the two agreed on, and what the kernel refused.
fn compare(kernel: &mut Kernel, case: &Case, frames: impl Iterator<Item = Frame>) {
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut agreed = 0;
    for frame in frames {
        let Some(bytes) = as_seen(&frame, case.kind) else {
            continue;
        };
        let place = || format!("{} frame {}: {bytes:02x?}", frame.file, frame.number);
        let answer = match kernel.run(case, bytes) {
            Ok(answer) => answer,
            Err(number) => {
                let length = match bytes.len() {
                    0..=13 => "below 14 bytes",
                    14..=53 => "14 to 53 bytes, less than Ethernet and an IPv6 header",
                    54..=3000 => "54 to 3,000 bytes",
                    _ => "more than 3,000 bytes",
                };
                let error = std::io::Error::from_raw_os_error(number);
                *outcomes
                    .entry(format!("refused, {length}: {error}"))
                    .or_default() += 1;
                continue;
            }
        };
        let expected = parse(bytes, case.kind, bytes.len() as u32);
        assert_eq!(answer.parsed, expected.map(|_| ()), "{}", place());
        let outcome = match expected {
            Ok(headers) => {
                let [record] = answer.records.as_slice() else {
                    panic!("{} records: {}", answer.records.len(), place());
                };
                check_record(record, bytes, &headers, case);
                "parsed"
            }
            Err(reason) => {
                assert_eq!(answer.records.len(), 0, "{}", place());
                reason.name()
            }
        };
        agreed += 1;
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
    println!("{}: {agreed} frames agreed on: {outcomes:#?}", case.program);
    assert!(
        agreed > 10_000,
        "{}: only {agreed} frames were run",
        case.program
    );
    let usual = outcomes
        .keys()
        .filter(|outcome| outcome.contains("54 to 3,000"));
    assert_eq!(usual.count(), 0, "frames of usual length were refused");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring program"]
fn programs_and_library_agree() {
    let Some(folder) = shared_captures("programs_and_library_agree") else {
        return;
    };
    let frames = read_folder(&folder);
    for case in &CASES {
        // A fresh flow table each: the mutations of one hook fill it.
        let mut kernel = Kernel::start();
        kernel.load_program(case);
        compare(&mut kernel, case, frames.iter().cloned());
        let mutations = mutated(&frames, MUTATION_COUNT, MUTATION_SEED);
        compare(&mut kernel, case, mutations);
    }
}
