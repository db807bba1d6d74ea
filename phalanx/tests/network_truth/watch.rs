//! The kernel programs on one interface of a host, and every update that they send.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use phalanx_common::abi::{Control, FlowUpdate, event_kind};
use phalanx_range::Range;
use zerocopy::{FromBytes, transmute};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../phalanx-ebpf/prebuilt/phalanx.bpf.o");

/// How long the ring is left alone: at 4,369 updates it holds far more than passes meanwhile.
const PAUSE: Duration = Duration::from_millis(1);

/// A watched interface; dropped, it is left alone again.
pub(crate) struct Watch {
    updates: Arc<Mutex<Vec<FlowUpdate>>>,
    stop: Arc<AtomicBool>,
    drain: Option<JoinHandle<()>>,
    _ebpf: Ebpf,
}

impl Watch {
    /// Watches an interface of a host, in and out. Each packet that comes `interval` or more after
    /// the update before sends one: with no interval every packet does, so that an update tells of
    /// one packet only.
    pub(crate) fn start(range: &Range, host: &str, interface: &str, interval: Duration) -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", 1024)
            .load(OBJECT)
            .unwrap();
        let control = Control {
            update_interval_ns: u64::try_from(interval.as_nanos()).unwrap(),
            ..Control::default()
        };
        let mut map: Array<MapData, [u8; size_of::<Control>()]> =
            Array::try_from(ebpf.take_map("CONTROL").unwrap()).unwrap();
        let control: [u8; size_of::<Control>()] = transmute!(control);
        map.set(0, control, 0).unwrap();
        let ring = RingBuf::try_from(ebpf.take_map("EVENTS").unwrap()).unwrap();
        let host = range.host(host).unwrap();
        host.enter(|| attach(&mut ebpf, interface)).unwrap();
        let updates = Arc::default();
        let stop = Arc::default();
        let (to, until) = (Arc::clone(&updates), Arc::clone(&stop));
        Self {
            updates,
            stop,
            drain: Some(std::thread::spawn(move || drain(ring, &to, &until))),
            _ebpf: ebpf,
        }
    }

    /// The updates since the call before, in the order of their making. Traffic must have stopped.
    pub(crate) fn take(&self) -> Vec<FlowUpdate> {
        // What the programs have written is in the ring at once; the drain comes by each pause.
        std::thread::sleep(100 * PAUSE);
        std::mem::take(&mut *self.updates.lock().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(drain) = self.drain.take() {
            let _ = drain.join();
        }
    }
}

/// A tun interface has no link layer: its name begins with `wan` in the topologies here.
fn attach(ebpf: &mut Ebpf, interface: &str) {
    let suffix = if interface.starts_with("wan") {
        "_raw"
    } else {
        ""
    };
    for (name, way) in [
        ("phalanx_tc_ingress", TcAttachType::Ingress),
        ("phalanx_tc_egress", TcAttachType::Egress),
    ] {
        let program: &mut SchedClassifier = ebpf
            .program_mut(&format!("{name}{suffix}"))
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        program.attach(interface, way).unwrap();
    }
}

fn drain(mut ring: RingBuf<MapData>, updates: &Mutex<Vec<FlowUpdate>>, stop: &AtomicBool) {
    phalanx_range::clock::prioritize_thread();
    while !stop.load(Ordering::Relaxed) {
        while let Some(item) = ring.next() {
            let Ok((update, _)) = FlowUpdate::read_from_prefix(&item) else {
                continue;
            };
            if update.kind == event_kind::FLOW_UPDATE {
                updates.lock().unwrap().push(update.settle());
            }
        }
        std::thread::sleep(PAUSE);
    }
}
