use std::sync::mpsc::sync_channel;

use super::*;
use crate::api::fixture::{hop, record};
use crate::capture::CaptureRequest;
use crate::capture_file::{CaptureFile, Frame};
use crate::clock::Reading;
use crate::daemon::Record;

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
    let request: CaptureRequest = serde_json::from_str(request).unwrap();
    let (sender, queue) = sync_channel(4);
    sender.send(Arc::new(records)).unwrap();
    drop(sender);
    let progress = Arc::new(Progress::default());
    let job = Job {
        wanted: request.check(1 << 30).unwrap(),
        hops: [(HopId(1), Arc::new(hop(1, "eth0")))].into(),
        records: queue,
        past: None,
        mask: 1,
        progress: Arc::clone(&progress),
        flushed: watch::Sender::new(0),
        clock: Clock::new(Reading::take()),
        comment: "test".to_owned(),
        written: prometheus::IntCounter::new("written", "written").unwrap(),
    };
    let mut disk = Disk {
        file: Vec::new(),
        size,
    };
    let outcome = job.write(&mut disk);
    (outcome, disk.file, progress)
}

fn frames(file: &[u8]) -> Vec<Frame> {
    let input = std::io::Cursor::new(file.to_vec());
    let mut capture = CaptureFile::from_reader("capture", input).unwrap();
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
