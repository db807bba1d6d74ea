//! A capture of fragmented datagrams, made from a seed: out of order, repeated, interleaved, some
//! with a fragment lost, between packets that are whole.

use std::path::PathBuf;

/// The capture, removed when this goes, and what is in it.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    pub(crate) frames: u64,
    pub(crate) fragments: u64,
    /// Packets that came in one frame.
    pub(crate) plain: u64,
    /// Datagrams of which all fragments are there, and others.
    pub(crate) whole: u64,
    pub(crate) incomplete: u64,
    /// Of these, those with the first fragment.
    pub(crate) first_alone: u64,
    /// Fragments that are part of no datagram.
    pub(crate) unused: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        // Where it was not written there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// A frame, and its time in units that are only for the order.
type Placed = (usize, Vec<u8>);

/// Makes a capture of so many datagrams.
pub(crate) fn make(seed: u64, count: usize) -> Made {
    let mut random = Random(seed);
    let mut made = Made::default();
    let mut placed: Vec<Placed> = Vec::new();
    for index in 0..count {
        let is_ipv4 = random.below(3) > 0;
        let bytes = udp(index, 20 + random.below(6_000));
        if random.below(4) == 0 {
            made.plain += 1;
            let bytes = &bytes[..bytes.len().min(1_000)];
            placed.push((index * 10, whole(is_ipv4, index, bytes)));
            continue;
        }
        let mut pieces = split(&mut random, &bytes);
        let count = pieces.len();
        let is_lossy = random.below(8) == 0;
        let lost = is_lossy.then(|| random.below(count));
        // The last to come, which is not repeated: after it a fragment begins a datagram anew.
        let last = index * 10 + 100;
        let mut at: Vec<usize> = (0..count).map(|_| index * 10 + random.below(90)).collect();
        let latest = random.below(count);
        at[latest] = last;
        let mut kept = 0;
        for (number, (start, has_more, piece)) in pieces.drain(..).enumerate() {
            if lost == Some(number) {
                continue;
            }
            let frame = fragment(is_ipv4, index, start, has_more, piece);
            if number != latest && random.below(10) == 0 {
                placed.push((index * 10 + random.below(90), frame.clone()));
                kept += 1;
            }
            placed.push((at[number], frame));
            kept += 1;
        }
        made.fragments += kept;
        match lost {
            None => made.whole += 1,
            Some(lost) => {
                made.incomplete += u64::from(kept > 0);
                made.first_alone += u64::from(lost != 0);
                made.unused += kept - u64::from(lost != 0);
            }
        }
    }
    placed.sort_by_key(|it| it.0);
    made.frames = placed.len() as u64;
    made.path = std::env::temp_dir().join(format!(
        "phalanx-fragment-{seed}-{}.pcap",
        std::process::id()
    ));
    std::fs::write(&made.path, pcap(&placed)).expect("write capture");
    made
}

fn udp(index: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((20_000 + index as u16).to_be_bytes());
    bytes.extend(30_000_u16.to_be_bytes());
    bytes.extend((8 + length as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((0..length).map(|it| (it * 31 + index + it / 256) as u8));
    bytes
}

/// At least two pieces.
fn split<'a>(random: &mut Random, bytes: &'a [u8]) -> Vec<(usize, bool, &'a [u8])> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let rest = (bytes.len() - start).div_ceil(8);
        let most = if start == 0 { rest - 1 } else { rest };
        let length = (1 + random.below(most.clamp(1, 180))) * 8;
        let end = bytes.len().min(start + length);
        pieces.push((start, end < bytes.len(), &bytes[start..end]));
        start = end;
    }
    pieces
}

fn whole(is_ipv4: bool, index: usize, udp: &[u8]) -> Vec<u8> {
    let mut udp = udp.to_vec();
    let length = udp.len() as u16;
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    if is_ipv4 {
        return fragment(true, index, 0, false, &udp);
    }
    let mut frame = fragment(false, index, 0, false, &udp);
    // Without the fragment header.
    frame.drain(14 + 40..14 + 48);
    frame[14 + 6] = 17;
    frame[14 + 4..14 + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

fn fragment(is_ipv4: bool, index: usize, start: usize, has_more: bool, piece: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let (source, identification) = ((index % 200) as u8, index as u16);
    if is_ipv4 {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + piece.len() as u16).to_be_bytes());
        frame.extend(identification.to_be_bytes());
        frame.extend(((start / 8) as u16 | u16::from(has_more) << 13).to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, source, 10, 9, 9, 9]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((8 + piece.len() as u16).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, source]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9]);
        frame.extend([17, 0]);
        frame.extend((start as u16 | u16::from(has_more)).to_be_bytes());
        frame.extend([1, 0]);
        frame.extend(identification.to_be_bytes());
    }
    frame.extend(piece);
    frame
}

/// A classic pcap file of Ethernet, a millisecond a frame.
fn pcap(placed: &[Placed]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.extend(word.to_le_bytes());
    }
    for (index, (_, frame)) in placed.iter().enumerate() {
        let length = frame.len() as u32;
        let index = index as u32;
        for word in [index / 1_000, index % 1_000 * 1_000, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    out
}
