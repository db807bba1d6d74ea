//! What to do about a file that is no capture, by what it seems to be.

/// First bytes of other files, and what to do with them.
const OTHERS: &[(&[u8], &str)] = &[
    (
        b"\xfd7zXZ\0",
        "it is compressed with xz; pipe it through xz -dc",
    ),
    (
        b"BZh",
        "it is compressed with bzip2; pipe it through bzip2 -dc",
    ),
    (
        b"\x04\x22\x4d\x18",
        "it is compressed with lz4; pipe it through lz4 -dc",
    ),
    (
        b"\x1f\x8b",
        "it is compressed twice; pipe it through gzip -dc",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "it is compressed twice; pipe it through zstd -dc",
    ),
    (b"PK\x03\x04", "it is a zip archive; unpack it"),
    (
        b"GMBU",
        "it is a Network Monitor capture; convert it with editcap",
    ),
    (
        b"RTSS",
        "it is a Network Monitor capture; convert it with editcap",
    ),
    (b"XCP\0", "it is a NetXRay capture; convert it with editcap"),
    (
        b"TRSNIFF data    ",
        "it is a Sniffer capture; convert it with editcap",
    ),
    (
        b"\x1c\0\x01\xac",
        "it is an Ixia capture; convert it with editcap",
    ),
    (
        b"\xac\x01\0\x1c",
        "it is an Ixia capture; convert it with editcap",
    ),
    (
        b"\x1c\0\x01\xab",
        "it is an Ixia capture; convert it with editcap",
    ),
    (
        b"\xab\x01\0\x1c",
        "it is an Ixia capture; convert it with editcap",
    ),
    (
        b"iptrace ",
        "it is an iptrace capture; convert it with editcap",
    ),
    (b"\x7fELF", "it is a program"),
    (b"{", "it is JSON; give the capture itself"),
    (b"[", "it is JSON; give the capture itself"),
    (b"<?xml", "it is XML; give the capture itself"),
];

/// What to do about a file with these first bytes.
pub(super) fn of(head: &[u8], is_compressed: bool) -> &'static str {
    let known = OTHERS.iter().find(|(magic, _)| head.starts_with(magic));
    match known {
        Some((_, remedy)) => remedy,
        None if is_compressed => "what is compressed in it is none; look at it with file -z",
        None if head.len() < 4 => "it is too short; copy it again",
        None => "its first bytes are unknown; convert it with editcap, or decompress it",
    }
}
