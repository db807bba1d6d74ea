//! Refusals: link types of a capture that the filter cannot be applied to, with what was left out.

use std::collections::BTreeMap;

use phalanx_engine::filter::{Filter, LinkType, Program};

use crate::capture_file::Interface;

/// A link type that the filter cannot be applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As the file numbers it.
    pub link_type: u16,
    /// Why, and what can be done.
    pub reason: String,
    /// Frames that were left out for it.
    pub frame_count: u64,
}

/// All of one capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// By link type.
    pub list: Vec<Refusal>,
    /// No interface of the capture can take the filter.
    pub are_all: bool,
}

impl Refusals {
    /// Those of a capture's interfaces; `left_out` tells the frames left out, by interface.
    pub(super) fn new(
        filter: Option<&Filter>,
        interfaces: &[Interface],
        left_out: impl Fn(u32) -> u64,
    ) -> Self {
        let Some(filter) = filter else {
            return Self::default();
        };
        let mut counts: BTreeMap<u16, u64> = BTreeMap::new();
        for (index, interface) in (0..).zip(interfaces) {
            *counts.entry(interface.link_type).or_default() += left_out(index);
        }
        let refuse = |(&link_type, &frame_count)| {
            let reason = compile(filter, link_type).err()?;
            Some(Refusal {
                link_type,
                reason,
                frame_count,
            })
        };
        let list: Vec<Refusal> = counts.iter().filter_map(refuse).collect();
        Self {
            are_all: !list.is_empty() && list.len() == counts.len(),
            list,
        }
    }
}

/// What a filter means for frames of a link type, or why it means nothing there.
pub(super) fn compile(filter: &Filter, link_type: u16) -> Result<Program, String> {
    let link = LinkType::from_number(link_type.into());
    // The filter that takes everything looks at no byte.
    let is_empty = filter.expression().is_none();
    let link = link.or(is_empty.then_some(LinkType::Raw));
    let link = link.ok_or("docs/filter.md lists the link types that filters know")?;
    filter.compile(link).map_err(|error| error.to_string())
}
