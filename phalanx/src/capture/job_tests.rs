use std::sync::mpsc::sync_channel;

use phalanx_engine::{Endpoint, NamespaceId, Sides, Translation};

use super::*;
use crate::api::fixture::{hop, record};
use crate::capture::CaptureRequest;
use crate::capture_file::{CaptureFile, Frame};
use crate::clock::Reading;
use crate::daemon::Record;
use crate::lookback::{Lookback, LookbackFeed, LookbackOptions, Seam};

/// A disk with room for so many bytes.
struct Disk {
    file: Vec<u8>,
    size: usize,
}

impl Write for &mut Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.len() + bytes.len() > self.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn play(request: &str, size: usize, records: Vec<Record>) -> (Outcome, Vec<u8>, Arc<Progress>) {
    play_after(None, request, size, records)
}

fn play_after(
    past: Option<Past>,
    request: &str,
    size: usize,
    records: Vec<Record>,
) -> (Outcome, Vec<u8>, Arc<Progress>) {
    play_translated(past, request, size, (records, Arc::default()))
}

fn play_translated(
    past: Option<Past>,
    request: &str,
    size: usize,
    told: (Vec<Record>, Arc<Translations>),
) -> (Outcome, Vec<u8>, Arc<Progress>) {
    let (job, progress) = job(past, request, told);
    let mut disk = Disk {
        file: Vec::new(),
        size,
    };
    let outcome = job.write(&mut disk);
    (outcome, disk.file, progress)
}

fn job(
    past: Option<Past>,
    request: &str,
    (records, translations): (Vec<Record>, Arc<Translations>),
) -> (Job, Arc<Progress>) {
    let request: CaptureRequest = serde_json::from_str(request).unwrap();
    let (sender, queue) = sync_channel(4);
    sender.send(Arc::new(records)).unwrap();
    drop(sender);
    let progress = Arc::new(Progress::default());
    let job = Job {
        wanted: request.check(1 << 30).unwrap(),
        hops: [(HopId(1), Arc::new(hop(1, "eth0")))].into(),
        records: queue,
        past,
        remains: None,
        mask: 1,
        progress: Arc::clone(&progress),
        flushed: watch::Sender::new(0),
        clock: Clock::new(Reading::take()),
        translations,
        comment: "test".to_owned(),
        written: prometheus::IntCounter::new("written", "written").unwrap(),
    };
    (job, progress)
}

fn capture_file(file: Vec<u8>) -> CaptureFile {
    CaptureFile::from_reader("capture", std::io::Cursor::new(file)).unwrap()
}

fn frames(file: &[u8]) -> Vec<Frame> {
    let mut capture = capture_file(file.to_vec());
    let frames = capture.frames().unwrap();
    assert_eq!(capture.damage(), None);
    frames
}

#[test]
fn a_full_disk_ends_the_capture_and_is_told() {
    let records = (0..200).map(|_| record(1, 1, 0)).collect();
    let (outcome, _, _) = play(r#"{"filter": "tcp"}"#, 10_000, records);
    assert_eq!(outcome.end_reason, Some(EndReason::WriteFailed));
    assert_eq!(outcome.failure.unwrap().0, LossKind::DiskFull);
}

#[test]
fn the_file_stays_below_its_size() {
    let records = (0..200).map(|_| record(1, 1, 0)).collect();
    let (outcome, file, progress) = play(
        r#"{"filter": "tcp", "max_bytes": 5000}"#,
        usize::MAX,
        records,
    );
    assert_eq!(outcome.end_reason, Some(EndReason::MaxBytes));
    assert!(file.len() <= 5_000 && file.len() > 4_000, "{}", file.len());
    assert_eq!(
        frames(&file).len() as u64,
        Progress::load(&progress.packets)
    );
}

#[test]
fn a_file_that_broke_off_goes_on_behind_what_is_whole() {
    let request = r#"{"filter": "tcp", "max_packets": 30}"#;
    let records = |count| (0..count).map(|_| record(1, 1, 0)).collect();
    let (_, file, _) = play(request, usize::MAX, records(20));
    let name = format!("phalanx-remains-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    for torn in [&[][..], &[6, 0, 0, 0, 64, 0, 0, 0, 1, 2, 3]] {
        std::fs::write(&path, [&file[..], torn].concat()).unwrap();
        let remains = Remains::read(&path).unwrap();
        assert_eq!((remains.bytes, remains.packets), (file.len() as u64, 20));
        let output = remains.open(&path).unwrap();
        let (mut job, progress) = job(None, request, (records(40), Arc::default()));
        progress.packets.store(remains.packets, Ordering::Relaxed);
        job.remains = Some(remains);
        // What was there counts.
        assert_eq!(job.write(output).end_reason, Some(EndReason::MaxPackets));
        let mut resumed = capture_file(std::fs::read(&path).unwrap());
        assert_eq!(resumed.frames().unwrap().len(), 30);
        assert_eq!(resumed.damage(), None);
        assert_eq!(resumed.interfaces().len(), 1);
    }
    // One that has hardly begun does not go on.
    std::fs::write(&path, &file[..20]).unwrap();
    assert!(Remains::read(&path).is_err());
    std::fs::remove_file(&path).unwrap();
}

/// What a file that broke off holds, and a job that goes on in it with these hops.
fn going_on(
    name: &str,
    file: &[u8],
    (request, hops, records): (&str, [Hop; 2], Vec<Record>),
) -> (Outcome, CaptureFile) {
    let name = format!("phalanx-{name}-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, file).unwrap();
    let remains = Remains::read(&path).unwrap();
    let output = remains.open(&path).unwrap();
    let (mut job, progress) = job(None, request, (records, Arc::default()));
    progress.packets.store(remains.packets, Ordering::Relaxed);
    job.remains = Some(remains);
    job.hops = hops.map(|hop| (hop.id, Arc::new(hop))).into();
    let outcome = job.write(output);
    let file = capture_file(std::fs::read(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    (outcome, file)
}

fn in_namespaces(inodes: [u64; 2]) -> [Hop; 2] {
    [1, 2].map(|id| Hop {
        namespace: NamespaceId(inodes[id as usize - 1]),
        ..hop(id, "eth0")
    })
}

#[test]
fn interfaces_of_one_name_are_told_apart_in_another_order() {
    let request = r#"{"filter": "tcp"}"#;
    let records = |hop: u32, count| (0..count).map(move |_| record(hop, 1, 0));
    let (mut first, _) = job(None, request, (records(1, 3).collect(), Arc::default()));
    first.hops = in_namespaces([7, 8])
        .map(|hop| (hop.id, Arc::new(hop)))
        .into();
    let mut disk = Disk {
        file: Vec::new(),
        size: usize::MAX,
    };
    first.write(&mut disk);
    // What was hop 1 is hop 2 now; another time it is gone, and another one is there.
    for (inodes, counts) in [([8, 7], &[4, 10][..]), ([9, 8], &[3, 1, 10])] {
        let records = records(1, 10).chain(records(2, 1)).collect();
        let told = (request, in_namespaces(inodes), records);
        let (_, mut file) = going_on("places", &disk.file, told);
        let frames = file.frames().unwrap();
        let of = |index| frames.iter().filter(|it| it.interface == index).count();
        let found: Vec<usize> = (0..file.interfaces().len()).map(of).collect();
        assert_eq!(found, counts);
    }
}

#[test]
fn what_had_all_its_packets_gets_none_more() {
    let request = r#"{"filter": "tcp", "max_packets": 5}"#;
    let records = || (0..9).map(|_| record(1, 1, 0)).collect::<Vec<_>>();
    let (_, file, _) = play(request, usize::MAX, records());
    let told = (request, in_namespaces([1, 1]), records());
    let (outcome, mut file) = going_on("packets", &file, told);
    assert_eq!(outcome.end_reason, Some(EndReason::MaxPackets));
    assert_eq!(file.frames().unwrap().len(), 5);
}

#[test]
fn the_whole_filter_decides() {
    let records = vec![
        record(1, 1, 0),
        record(1, 3, 100),
        record(1, 2, 0),
        record(9, 1, 0),
    ];
    let (outcome, file, progress) =
        play(r#"{"filter": "tcp and greater 100"}"#, usize::MAX, records);
    assert_eq!(
        outcome,
        Outcome {
            end_reason: None,
            failure: None
        }
    );
    assert_eq!(frames(&file).len(), 1);
    assert_eq!(Progress::load(&progress.filtered_out), 1);
}

#[test]
fn a_tag_beside_the_frame_is_put_back() {
    let mut tagged = record(1, 1, 0);
    tagged.header.vlan_tag = 42;
    let (_, file, _) = play(
        r#"{"filter": "vlan 42 and tcp"}"#,
        usize::MAX,
        vec![tagged, record(1, 1, 0)],
    );
    let [frame] = &frames(&file)[..] else {
        panic!("not one frame");
    };
    assert_eq!(frame.bytes[12..16], [0x81, 0, 0, 42]);
    assert_eq!(frame.wire_length, 58);
}

#[test]
fn segments_of_a_super_segment_are_told() {
    let mut large = record(1, 1, 0);
    large.header.gso_segments = 4;
    large.header.gso_size = 1_448;
    let (_, file, _) = play(r#"{"filter": ""}"#, usize::MAX, vec![large]);
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains(&gso_comment(4, 1_448)));
}

/// The bit of the standing filter of looking back.
const STANDING: u64 = 1 << 63;

/// A ring that has kept these records, and where a capture that looks back to `since_ns` begins
/// when so many of them came before its filters and so many before they were in force everywhere.
fn past(records: &[Record], [before, after]: [u64; 2], since_ns: u64) -> Past {
    let options = LookbackOptions {
        feed: LookbackFeed::Filter,
        filter: "tcp".to_owned(),
        snaplen: 9_216,
        ..LookbackOptions::default()
    };
    let lookback = Arc::new(Lookback::new(options).unwrap());
    assert_eq!(lookback.mask(), STANDING);
    let mut keeping = lookback.open();
    for record in records {
        keeping.keep(record.hop, &record.header, &record.bytes);
    }
    drop(keeping);
    let seam = Seam {
        before,
        after,
        at_ns: u64::MAX,
    };
    Past {
        from: lookback.first_since(since_ns),
        lookback,
        seam,
        since_ns,
    }
}

fn stamped(time_ns: u64, matched: u64) -> Record {
    let mut record = record(1, matched, 0);
    record.header.time_ns = time_ns;
    record
}

#[test]
fn each_packet_around_the_seam_is_written_once() {
    let kept = [
        // Too old.
        stamped(1, STANDING),
        // The number of this capture's filter was another one's then.
        stamped(10, STANDING | 1),
        stamped(11, STANDING),
        // Between: recorded by the filters before, and by those in force.
        stamped(12, STANDING),
        stamped(13, STANDING | 1),
        // Behind the seam all that match come alive.
        stamped(14, STANDING | 1),
        stamped(15, STANDING),
    ];
    let alive = vec![kept[4].clone(), kept[5].clone()];
    let request = r#"{"filter": "tcp", "lookback": 30}"#;
    let (outcome, file, progress) =
        play_after(Some(past(&kept, [3, 5], 10)), request, usize::MAX, alive);
    assert_eq!(outcome.failure, None);
    let clock = Clock::new(Reading::take());
    let base = clock.wall_ns(phalanx_engine::Monotonic(0)) as i64;
    let times: Vec<i64> = frames(&file).iter().map(|it| it.time_ns - base).collect();
    assert_eq!(times.len(), 5, "{times:?}");
    assert!(times.is_sorted() && times[4] - times[0] == 4, "{times:?}");
    assert_eq!(progress.past.lock().unwrap().get(&HopId(1)), Some(&3));
    assert_eq!(Progress::load(&progress.filtered_out), 0);
    assert_eq!(Progress::load(&progress.past_gone), 0);
}

#[test]
fn a_limit_is_reached_by_what_was_before() {
    let kept: Vec<Record> = (0..20).map(|number| stamped(number, STANDING)).collect();
    let request = r#"{"filter": "tcp", "lookback": 30, "max_packets": 7}"#;
    let past = past(&kept, [20, 20], 0);
    let (outcome, file, _) = play_after(Some(past), request, usize::MAX, Vec::new());
    assert_eq!(outcome.end_reason, Some(EndReason::MaxPackets));
    assert_eq!(frames(&file).len(), 7);
}

#[test]
fn headers_alone_are_given_where_payload_was_kept_for_others() {
    let mut with_payload = stamped(1, STANDING);
    with_payload.bytes.extend_from_slice(b"secret");
    let live = Record {
        header: phalanx_common::abi::RecordHeader {
            matched: 1,
            ..with_payload.header
        },
        ..with_payload.clone()
    };
    for (snaplen, length) in [(0, 54), (9_216, 60)] {
        let request = format!(r#"{{"filter": "tcp", "lookback": 30, "snaplen": {snaplen}}}"#);
        let past = past(&[with_payload.clone()], [1, 1], 0);
        let (_, file, _) = play_after(Some(past), &request, usize::MAX, vec![live.clone()]);
        let lengths: Vec<usize> = frames(&file).iter().map(|it| it.bytes.len()).collect();
        assert_eq!(lengths, [length; 2]);
    }
}

#[test]
fn what_is_masked_or_not_asked_for_is_neither_written_nor_decided_on() {
    let with_payload = || {
        let mut record = record(1, 1, 8);
        record.bytes.extend_from_slice(b"password");
        record.header.captured_length += 8;
        record
    };
    let masked = r#"{"filter": "tcp", "snaplen": 512, "mask": ["0..4", "6..99"]}"#;
    let (_, file, _) = play(masked, usize::MAX, vec![with_payload()]);
    assert_eq!(&frames(&file)[0].bytes[54..], b"****wo**");
    // Others have asked for the payload; the filter of headers cannot ask about it.
    for byte in [b'p', b'x'] {
        let request = format!(r#"{{"filter": "tcp[20] = {byte}"}}"#);
        let (_, file, progress) = play(&request, usize::MAX, vec![with_payload()]);
        assert_eq!(frames(&file).len(), 0);
        assert_eq!(Progress::load(&progress.undecided), 1);
        assert_eq!(Progress::load(&progress.filtered_out), 0);
    }
}

fn end(last: [u8; 2], port: u16) -> Endpoint {
    let address = [10, 0, last[0], last[1]].into();
    Endpoint { address, port }
}

/// The client of a flow of the fixture, whose source port is so much higher.
fn client(number: u16) -> Endpoint {
    end([0, 1], 40_001 + number)
}

/// A record of that flow.
fn record_of(number: u16) -> Record {
    /// Where the source port lies in a record of the fixture.
    const SOURCE_PORT: usize = 14 + 20;
    let mut record = record(1, 1, 0);
    let port = client(number).port.to_be_bytes();
    record.bytes[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port);
    record
}

/// What hides that client.
fn translation_of(client: Endpoint) -> Translation {
    let server = end([1, 1], 443);
    Translation {
        protocol: 6,
        inside: Sides { client, server },
        outside: Sides {
            client: end([9, 9], 1_025),
            server,
        },
    }
}

fn is_said(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|it| it == text.as_bytes())
}

/// What is translated of the flows in the file is told of the interface that saw them; what is
/// not in it is not. As many are there as there is room for, and how many are not.
#[test]
fn translations_of_its_flows_are_in_the_file_as_far_as_there_is_room() {
    const FLOWS: u16 = 20;
    let translations = Arc::<Translations>::default();
    // One of the flows is not in the file.
    for told in (0..=FLOWS).map(|number| translation_of(client(number))) {
        translations.note(NamespaceId(1), 6, told.inside, Some(told));
    }
    let told = |request: &str| {
        let records = (0..100).map(|number| record_of(number % FLOWS)).collect();
        let records = (records, Arc::clone(&translations));
        let (outcome, file, _) = play_translated(None, request, usize::MAX, records);
        assert_eq!(outcome.failure, None);
        let mut capture = capture_file(file.clone());
        assert!(!capture.frames().unwrap().is_empty());
        assert_eq!(capture.interfaces()[0].dropped, Some(0));
        let found = capture.interfaces()[0].translations.clone();
        (outcome.end_reason, file, found)
    };
    let (_, whole, all) = told(r#"{"filter": "tcp"}"#);
    let of_flow = |number| (translation_of(client(number)), "here".to_owned());
    assert_eq!(all, (0..FLOWS).map(of_flow).collect());
    assert!(!is_said(&whole, "left out"));
    let length = whole.len();
    for (bytes_max, end_reason) in [(length - 800, None), (6_000, Some(EndReason::MaxBytes))] {
        let request = format!(r#"{{"filter": "tcp", "max_bytes": {bytes_max}}}"#);
        let (ended, file, some) = told(&request);
        assert_eq!(ended, end_reason);
        assert!(file.len() <= bytes_max, "{} bytes", file.len());
        assert!(some.len() > 1 || ended.is_some(), "{some:?}");
        let left_out = usize::from(FLOWS) - some.len();
        assert!(left_out > 0);
        assert!(is_said(
            &file,
            &format!("{left_out} translations are left out")
        ));
    }
}

#[test]
fn a_translation_that_is_forgotten_while_the_capture_goes_on_is_in_its_file() {
    let translations = Arc::<Translations>::default();
    let records = (Vec::new(), Arc::clone(&translations));
    let (job, _) = job(None, r#"{"filter": "tcp"}"#, records);
    let mut disk = Disk {
        file: Vec::new(),
        size: usize::MAX,
    };
    let mut sheet = job.sheet(&mut disk).unwrap();
    let records = [record_of(0), record_of(1)];
    job.take_batch(&mut sheet, &records).unwrap();
    let start = Instant::now();
    job.look_up(&mut sheet.flows, start);
    // It is told a little later than the first packet comes.
    let told = translation_of(client(0));
    translations.note(NamespaceId(1), 6, told.inside, Some(told));
    job.look_up(&mut sheet.flows, start + Duration::from_secs(1));
    translations.note(NamespaceId(1), 6, told.inside, None);
    for number in 0..20_000_u16 {
        let [high, low] = number.to_be_bytes();
        let other = translation_of(end([high, low], 1));
        translations.note(NamespaceId(1), 6, other.inside, Some(other));
    }
    job.close(&mut sheet).unwrap();
    drop(sheet);
    let mut capture = capture_file(disk.file.clone());
    capture.frames().unwrap();
    let found = &capture.interfaces()[0].translations;
    assert_eq!(found, &[(told, "here".to_owned())].into());
    assert!(is_said(&disk.file, "1 flows may have been translated"));
}
