//! The part of a DNS message that matching needs: header, first question, response code.

use crate::application::bytes::Reader;
use crate::application::text::Text;
use crate::limits::{
    DNS_LABEL_COUNT_MAX, DNS_NAME_TEXT_LENGTH_MAX, DNS_POINTER_COUNT_MAX, DNS_RECORD_COUNT_MAX,
};

/// A response code (RFC 1035 section 4.1.1, RFC 6895 section 2.3), extended bits included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// The name in IANA's registry, if it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "NOERROR",
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            6 => "YXDOMAIN",
            7 => "YXRRSET",
            8 => "NXRRSET",
            9 => "NOTAUTH",
            10 => "NOTZONE",
            11 => "DSOTYPENI",
            16 => "BADVERS",
            17 => "BADKEY",
            18 => "BADTIME",
            19 => "BADMODE",
            20 => "BADNAME",
            21 => "BADALG",
            22 => "BADTRUNC",
            23 => "BADCOOKIE",
            _ => return None,
        })
    }

    /// Whether the server could or would not answer. That a name does not exist is an answer.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self.0, 0 | 3)
    }
}

/// The type of a record that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// The name of a type that is in wide use (IANA's registry).
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "A",
            2 => "NS",
            5 => "CNAME",
            6 => "SOA",
            10 => "NULL",
            12 => "PTR",
            13 => "HINFO",
            15 => "MX",
            16 => "TXT",
            17 => "RP",
            24 => "SIG",
            25 => "KEY",
            28 => "AAAA",
            29 => "LOC",
            33 => "SRV",
            35 => "NAPTR",
            37 => "CERT",
            39 => "DNAME",
            43 => "DS",
            44 => "SSHFP",
            46 => "RRSIG",
            47 => "NSEC",
            48 => "DNSKEY",
            50 => "NSEC3",
            51 => "NSEC3PARAM",
            52 => "TLSA",
            53 => "SMIMEA",
            59 => "CDS",
            60 => "CDNSKEY",
            61 => "OPENPGPKEY",
            63 => "ZONEMD",
            64 => "SVCB",
            65 => "HTTPS",
            99 => "SPF",
            249 => "TKEY",
            250 => "TSIG",
            251 => "IXFR",
            252 => "AXFR",
            255 => "ANY",
            256 => "URI",
            257 => "CAA",
            _ => return None,
        })
    }

    /// Whether its answer may be many messages (RFC 5936, RFC 1995).
    pub(super) const fn is_transfer(self) -> bool {
        matches!(self.0, 251 | 252)
    }
}

/// The type of the pseudo record of EDNS (RFC 6891).
const OPT: u16 = 41;

/// A message ended before what was needed of it, or is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// A question, its name still in its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Question {
    /// Of the name, in lower case: case does not count (RFC 4343), some clients choose it at
    /// random.
    pub(super) name_hash: u64,
    pub(super) record_type: RecordType,
}

/// What is needed of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    pub(super) id: u16,
    pub(super) is_response: bool,
    pub(super) is_truncated: bool,
    pub(super) rcode: Rcode,
    /// The first question, if there is one.
    pub(super) question: Option<Question>,
}

/// The fixed fields of a header.
struct Header {
    id: u16,
    flags: u16,
    question_count: u16,
    record_count: u32,
}

impl Header {
    const LENGTH: usize = 12;

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: reader.u16()?,
            flags: reader.u16()?,
            question_count: reader.u16()?,
            record_count: u32::from(reader.u16()?)
                + u32::from(reader.u16()?)
                + u32::from(reader.u16()?),
        })
    }

    /// Whether the operation is one that is in use: query, inverse query, status, notify, update,
    /// stateful operations (RFC 6895 section 2.2).
    const fn is_plausible(&self) -> bool {
        matches!((self.flags >> 11) & 0xf, 0..=2 | 4..=6)
    }
}

impl<'a> Message<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Ended> {
        let mut reader = Reader::new(bytes);
        let header = Header::read(&mut reader)
            .filter(Header::is_plausible)
            .ok_or(Ended)?;
        let mut at = Header::LENGTH;
        let mut question = None;
        if header.question_count > 0 {
            let (name_hash, end) = hash_name(bytes).ok_or(Ended)?;
            let mut rest = Reader::new(bytes.get(end..).ok_or(Ended)?);
            let record_type = rest.u16().ok_or(Ended)?;
            rest.u16().ok_or(Ended)?;
            question = Some(Question {
                name_hash,
                record_type: RecordType(record_type),
            });
            at = end + 4;
        }
        let lower = header.flags & 0xf;
        // More than one question is for multicast alone, which has no extended codes.
        let upper = if header.question_count <= 1 {
            extended_rcode(bytes, at, header.record_count).unwrap_or(0)
        } else {
            0
        };
        Ok(Self {
            bytes,
            id: header.id,
            is_response: header.flags & 0x8000 != 0,
            is_truncated: header.flags & 0x0200 != 0,
            rcode: Rcode(u16::from(upper) << 4 | lower),
            question,
        })
    }

    /// The name that is asked for, as a master file writes it; nothing without a question.
    pub(super) fn name(&self) -> Box<str> {
        if self.question.is_none() {
            return Box::default();
        }
        let mut text = Text::new(DNS_NAME_TEXT_LENGTH_MAX);
        let mut is_first = true;
        walk_name(self.bytes, Header::LENGTH, |label| {
            if !is_first {
                text.push_plain(b'.');
            }
            is_first = false;
            text.push_label(label);
        });
        if is_first {
            text.push_plain(b'.');
        }
        text.finish()
    }
}

/// Whether a stream may begin a message here, as far as `bytes` go: length, header, at most one
/// question.
pub(super) fn begins_framed(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let Some(length) = reader.u16() else {
        return true;
    };
    if usize::from(length) < Header::LENGTH {
        return false;
    }
    match Header::read(&mut reader) {
        Some(header) => header.is_plausible() && header.question_count <= 1,
        None => true,
    }
}

/// The hash of the first question's name, and the offset behind it.
fn hash_name(bytes: &[u8]) -> Option<(u64, usize)> {
    // FNV-1a.
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = START;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    let end = walk_name(bytes, Header::LENGTH, |label| {
        add(label.len() as u8);
        label.iter().for_each(|byte| add(byte.to_ascii_lowercase()));
    })?;
    Some((hash, end))
}

/// Visits the labels of the name at `at`, pointers followed; the offset behind the name.
fn walk_name(bytes: &[u8], mut at: usize, mut visit: impl FnMut(&[u8])) -> Option<usize> {
    let mut end = None;
    let mut pointer_count = 0;
    for _ in 0..DNS_LABEL_COUNT_MAX {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(end.unwrap_or(at + 1)),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                visit(label);
                at += 1 + label.len();
            }
            0xc0.. => {
                pointer_count += 1;
                if pointer_count > DNS_POINTER_COUNT_MAX {
                    return None;
                }
                let low = *bytes.get(at + 1)?;
                end = end.or(Some(at + 2));
                at = usize::from(length & 0x3f) << 8 | usize::from(low);
            }
            // Kinds of labels that were never used (RFC 6891 section 5).
            64..=0xbf => return None,
        }
    }
    None
}

/// The offset behind the name at `at`, pointers not followed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..DNS_LABEL_COUNT_MAX {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            64..=0xbf => return None,
        }
    }
    None
}

/// The upper eight bits of the response code, if there is an OPT record.
fn extended_rcode(bytes: &[u8], mut at: usize, record_count: u32) -> Option<u8> {
    for _ in 0..record_count.min(DNS_RECORD_COUNT_MAX) {
        at = skip_name(bytes, at)?;
        let mut reader = Reader::new(bytes.get(at..)?);
        let record_type = reader.u16()?;
        let _class = reader.u16()?;
        let time_to_live = reader.u32()?;
        if record_type == OPT {
            return Some((time_to_live >> 24) as u8);
        }
        at += 10 + usize::from(reader.u16()?);
    }
    None
}
