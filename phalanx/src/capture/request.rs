//! What a client asks for, and what of it is acceptable.

use std::ops::Range;
use std::time::Duration;

use phalanx_common::limits::SNAP_CLASSES;
use phalanx_engine::filter::{EXPRESSION_BYTES_MAX, Filter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::link::limits::HOST_LENGTH_MAX;
use crate::redaction::parse_mask;

/// Longest capture in seconds.
pub const DURATION_MAX_S: u32 = 3_600;

/// Packets of a capture at most.
pub(super) const PACKET_COUNT_MAX: u64 = 10_000_000;

/// Smallest bound on the size of a file in bytes: headers and a packet fit.
pub(crate) const BYTES_MIN: u64 = 4 << 10;

/// Interfaces that can be named.
pub(crate) const INTERFACE_COUNT_MAX: usize = 64;

/// Ranges that can be masked.
const MASK_COUNT_MAX: usize = 16;

/// Longest name of an interface: `IFNAMSIZ` less the zero.
const INTERFACE_LENGTH_MAX: usize = 15;

/// Longest name of a hop: a host's, and an interface's behind a colon.
const HOP_LENGTH_MAX: usize = HOST_LENGTH_MAX + 1 + INTERFACE_LENGTH_MAX;

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"filter": "tcp port 443 and host 10.0.0.2", "duration": 30}))]
pub struct CaptureRequest {
    /// Which packets: pcap-filter syntax, a subset of it; empty: all.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// Names of interfaces; all that are watched where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, min_items = 1)]
    pub interfaces: Option<Vec<String>>,
    /// Hops: `HOST` or `HOST:INTERFACE`, as `/api/v1/hops` has them; all that are watched where
    /// absent. Not together with `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, min_items = 1)]
    pub hops: Option<Vec<String>>,
    /// Id of a conversation: its packets, at all hops that have seen it. Not together with `hops`
    /// or `interfaces`; a filter narrows it further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20)]
    pub path_of: Option<String>,
    /// How long, in seconds.
    #[serde(default = "duration_default")]
    #[schema(minimum = 1, maximum = 3600, default = 60)]
    pub duration: u32,
    /// How far the capture looks back, in seconds: it begins with what was kept of so long before
    /// the request. Not at all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3600)]
    pub lookback: Option<u32>,
    /// Bytes of each packet; 0: headers only, without payload. More needs the role admin.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 9216, default = 0)]
    pub snaplen: u32,
    /// Ranges of bytes of each packet's payload that are overwritten, as `START..END`, such as
    /// `0..64`; with `snaplen` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 16, min_items = 1)]
    pub mask: Option<Vec<String>>,
    /// Packets at most; with a hub, of each host.
    #[serde(default = "packets_default")]
    #[schema(minimum = 1, maximum = 10_000_000, default = 1_000_000)]
    pub max_packets: u64,
    /// Bytes of the file at most; where absent: 100 MB, or a quarter of what all captures may take.
    /// With a hub, of each host, and where absent no more than its part of `max_total_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096)]
    pub max_bytes: Option<u64>,
    /// Bytes of all hosts together at most, with a hub; where absent: 100 MB a host, or a quarter
    /// of what all captures may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096)]
    pub max_total_bytes: Option<u64>,
}

const fn duration_default() -> u32 {
    60
}

const fn packets_default() -> u64 {
    1_000_000
}

/// Bytes of a file where nothing else is asked for.
pub(crate) const BYTES_DEFAULT: u64 = 100_000_000;

/// A field that is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct BadField {
    /// Its name.
    pub field: String,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub remedy: String,
    /// Where in the field, in bytes.
    pub position: Option<usize>,
}

impl BadField {
    pub(crate) fn new(
        field: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
            remedy: remedy.into(),
            position: None,
        }
    }
}

/// A request that is acceptable.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The filter, parsed.
    pub filter: Filter,
    /// How long.
    pub duration: Duration,
    /// Bytes of the file at most.
    pub bytes_max: u64,
    /// Bytes of each packet's payload that are overwritten.
    pub masks: Vec<Range<u32>>,
    /// As it came, with the bytes filled in.
    pub request: CaptureRequest,
}

impl CaptureRequest {
    /// Checks each field.
    ///
    /// # Errors
    /// The first field that is not acceptable.
    pub fn check(mut self, bytes_max: u64) -> Result<Wanted, BadField> {
        let bytes = *self
            .max_bytes
            .get_or_insert(BYTES_DEFAULT.min(bytes_max / 4));
        within(
            "duration",
            u64::from(self.duration),
            1,
            u64::from(DURATION_MAX_S),
            "seconds",
        )?;
        within(
            "max_packets",
            self.max_packets,
            1,
            PACKET_COUNT_MAX,
            "packets",
        )?;
        within("max_bytes", bytes, BYTES_MIN, bytes_max, "bytes")?;
        snap_class(self.snaplen)?;
        if let Some(lookback) = self.lookback {
            let most = u64::from(DURATION_MAX_S);
            within("lookback", u64::from(lookback), 1, most, "seconds")?;
        }
        check_interfaces(self.interfaces.as_deref())?;
        check_place(&self)?;
        if let Some(total) = self.max_total_bytes {
            within("max_total_bytes", total, BYTES_MIN, bytes_max, "bytes")?;
        }
        let masks = parse_masks(&self)?;
        let filter = parse(&self.filter)?;
        let duration = Duration::from_secs(u64::from(self.duration));
        Ok(Wanted {
            filter,
            duration,
            bytes_max: bytes,
            masks,
            request: self,
        })
    }
}

fn within(
    field: &'static str,
    value: u64,
    least: u64,
    most: u64,
    unit: &str,
) -> Result<(), BadField> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(BadField::new(
        field,
        format!("{value} {unit}"),
        format!("choose from {least} to {most} {unit}"),
    ))
}

pub(super) fn snap_class(snaplen: u32) -> Result<u8, BadField> {
    let class = SNAP_CLASSES
        .iter()
        .position(|size| snaplen as usize <= *size);
    class
        .and_then(|class| u8::try_from(class).ok())
        .ok_or_else(|| {
            let most = SNAP_CLASSES.last().copied().unwrap_or_default();
            BadField::new(
                "snaplen",
                format!("{snaplen} bytes"),
                format!("choose at most {most} bytes, or 0 for the headers only"),
            )
        })
}

fn check_interfaces(interfaces: Option<&[String]>) -> Result<(), BadField> {
    let Some(interfaces) = interfaces else {
        return Ok(());
    };
    if interfaces.is_empty() || interfaces.len() > INTERFACE_COUNT_MAX {
        return Err(BadField::new(
            "interfaces",
            format!("{} names", interfaces.len()),
            format!("name 1 to {INTERFACE_COUNT_MAX}, or leave the field out for all"),
        ));
    }
    for (index, name) in interfaces.iter().enumerate() {
        if name.is_empty() || name.len() > INTERFACE_LENGTH_MAX {
            return Err(BadField::new(
                format!("interfaces[{index}]"),
                format!("{name:?} is no name of an interface"),
                "see /api/v1/hops for the interfaces that are watched",
            ));
        }
    }
    Ok(())
}

fn parse_masks(request: &CaptureRequest) -> Result<Vec<Range<u32>>, BadField> {
    let Some(masks) = &request.mask else {
        return Ok(Vec::new());
    };
    if masks.is_empty() || masks.len() > MASK_COUNT_MAX {
        let detail = format!("{} ranges", masks.len());
        let remedy = format!("name 1 to {MASK_COUNT_MAX}, or leave the field out");
        return Err(BadField::new("mask", detail, remedy));
    }
    if request.snaplen == 0 {
        let remedy = "ask for a snaplen, or leave mask out";
        return Err(BadField::new(
            "mask",
            "a capture of headers has no payload",
            remedy,
        ));
    }
    let parse = |(index, text): (usize, &String)| {
        let remedy = "bytes of payload are counted from 0";
        parse_mask(text).map_err(|why| BadField::new(format!("mask[{index}]"), why, remedy))
    };
    masks.iter().enumerate().map(parse).collect()
}

/// Hops are told in one way.
fn check_place(request: &CaptureRequest) -> Result<(), BadField> {
    let others = [
        ("interfaces", request.interfaces.is_some()),
        ("hops", request.hops.is_some()),
        ("path_of", request.path_of.is_some()),
    ];
    let mut named = others.into_iter().filter(|(_, is_named)| *is_named);
    if let (Some((first, _)), Some((second, _))) = (named.next(), named.next()) {
        let remedy = "leave one of them out";
        return Err(BadField::new(
            second,
            format!("{first} is there as well"),
            remedy,
        ));
    }
    let Some(hops) = &request.hops else {
        return Ok(());
    };
    let is_name = |hop: &String| !hop.is_empty() && hop.len() <= HOP_LENGTH_MAX;
    if hops.is_empty() || hops.len() > INTERFACE_COUNT_MAX || !hops.iter().all(is_name) {
        return Err(BadField::new(
            "hops",
            format!("{} names", hops.len()),
            format!("name 1 to {INTERFACE_COUNT_MAX}, each HOST or HOST:INTERFACE"),
        ));
    }
    Ok(())
}

fn parse(text: &str) -> Result<Filter, BadField> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(BadField::new(
            "filter",
            format!("{} bytes", text.len()),
            format!("write at most {EXPRESSION_BYTES_MAX} bytes"),
        ));
    }
    Filter::parse(text).map_err(|error| BadField {
        position: Some(error.position),
        ..BadField::new(
            "filter",
            error.kind.to_string(),
            "write a filter of tcpdump, such as: tcp port 443 and host 10.0.0.2",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> CaptureRequest {
        serde_json::from_str(body).unwrap()
    }

    fn bad(body: &str) -> BadField {
        request(body).check(1 << 30).unwrap_err()
    }

    #[test]
    fn a_filter_is_all_that_is_needed() {
        let wanted = request(r#"{"filter": "tcp port 443"}"#)
            .check(1 << 30)
            .unwrap();
        assert_eq!(wanted.duration, Duration::from_secs(60));
        assert_eq!(wanted.request.lookback, None);
        assert_eq!(wanted.request.snaplen, 0);
    }

    #[test]
    fn snap_lengths_have_classes() {
        for (snaplen, class) in [(0, 0), (128, 0), (129, 1), (512, 1), (2048, 2), (9216, 3)] {
            assert_eq!(snap_class(snaplen), Ok(class));
        }
        assert!(snap_class(9217).is_err());
    }

    #[test]
    fn bad_fields_are_named() {
        let cases = [
            (r#"{"filter": "", "duration": 0}"#, "duration"),
            (r#"{"filter": "", "duration": 3601}"#, "duration"),
            (r#"{"filter": "", "lookback": 0}"#, "lookback"),
            (r#"{"filter": "", "lookback": 3601}"#, "lookback"),
            (r#"{"filter": "", "snaplen": 10000}"#, "snaplen"),
            (r#"{"filter": "", "max_packets": 0}"#, "max_packets"),
            (r#"{"filter": "", "max_packets": 10000001}"#, "max_packets"),
            (r#"{"filter": "", "max_bytes": 100}"#, "max_bytes"),
            (r#"{"filter": "", "max_bytes": 1073741825}"#, "max_bytes"),
            (r#"{"filter": "", "interfaces": []}"#, "interfaces"),
            (
                r#"{"filter": "", "interfaces": ["eth0", ""]}"#,
                "interfaces[1]",
            ),
            (r#"{"filter": "", "max_total_bytes": 1}"#, "max_total_bytes"),
            (r#"{"filter": "", "mask": ["0..4"]}"#, "mask"),
            (r#"{"filter": "", "snaplen": 512, "mask": []}"#, "mask"),
            (
                r#"{"filter": "", "snaplen": 512, "mask": ["0..4", "4..4"]}"#,
                "mask[1]",
            ),
            (r#"{"filter": "", "hops": []}"#, "hops"),
            (r#"{"filter": "", "hops": [""]}"#, "hops"),
            (
                r#"{"filter": "", "hops": ["a"], "interfaces": ["eth0"]}"#,
                "hops",
            ),
            (
                r#"{"filter": "", "hops": ["a"], "path_of": "1"}"#,
                "path_of",
            ),
            (r#"{"filter": "tcp prot 443"}"#, "filter"),
        ];
        for (body, field) in cases {
            let bad = bad(body);
            assert_eq!(bad.field, field, "{body}");
            assert!(!bad.remedy.is_empty());
        }
        assert_eq!(bad(r#"{"filter": "tcp prot 443"}"#).position, Some(4));
    }
}
