//! What several hops tell of one conversation, as JSON.

use phalanx_engine::Side;
use phalanx_engine::stitch::{LegStory, LegWay, ProxyBasis};
use serde::Serialize;

use super::conversation::End;
use super::out::{Out, name};
use crate::report::word::{self, milliseconds};
use crate::report::{Across, Proxied};
use crate::view::protocol_name;

/// Names of hops by their place.
pub(super) type HopNames<'a> = &'a [String];

/// The names of hops, by their places.
pub(super) fn names<'a>(places: &[u32], hops: HopNames<'a>) -> Vec<&'a str> {
    places.iter().map(|place| hop_name(*place, hops)).collect()
}

pub(super) fn hop_name(place: u32, hops: HopNames<'_>) -> &str {
    hops.get(place as usize).map_or("", String::as_str)
}

#[derive(Serialize)]
struct PathView<'a> {
    direction: &'static str,
    hops: Vec<&'a str>,
    packets: u64,
}

#[derive(Serialize)]
struct FlowView<'a> {
    hop: &'a str,
    id: String,
    client: End,
    server: End,
    packets: u64,
}

#[derive(Serialize)]
struct RewriteView<'a> {
    from: &'a str,
    to: &'a str,
    fields: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

/// By content alone: what readers knew before there were hypotheses.
#[derive(Serialize)]
struct ProxiedView<'a> {
    conversation: &'a str,
    client_chunks: u32,
    server_chunks: u32,
}

#[derive(Serialize)]
struct ProxyView<'a> {
    side: &'static str,
    conversation: &'a str,
    #[serde(flatten)]
    basis: BasisView,
}

#[derive(Serialize)]
#[serde(tag = "basis", rename_all = "snake_case")]
enum BasisView {
    Content {
        client_chunks: u32,
        server_chunks: u32,
    },
    Timing {
        hypothesis: bool,
        exchanges: u32,
        confidence: f64,
    },
}

#[derive(Serialize)]
struct AlignmentView {
    packets: u64,
    aligned: u64,
}

/// Writes all that stands beside the paths.
pub(super) fn write(
    across: &Across,
    hops: HopNames<'_>,
    out: &mut Out<'_>,
) -> serde_json::Result<()> {
    let paths: Vec<PathView<'_>> = across
        .joined
        .paths
        .iter()
        .map(|it| PathView {
            direction: word::direction(it.side),
            hops: names(&it.hops, hops),
            packets: it.packets,
        })
        .collect();
    out.put(name!("paths"), (!paths.is_empty()).then_some(paths))?;
    let flows: Vec<FlowView<'_>> = across
        .flows
        .iter()
        .map(|it| FlowView {
            hop: hop_name(it.hop, hops),
            id: format!("{}-{}", protocol_name(it.protocol), it.flow),
            client: End::new(Some(&it.ends.client)),
            server: End::new(Some(&it.ends.server)),
            packets: it.packets,
        })
        .collect();
    out.put(name!("flows"), Some(flows))?;
    let rewrites: Vec<RewriteView<'_>> = across
        .joined
        .rewrites
        .iter()
        .map(|it| {
            let host = across.confirming_host(it);
            RewriteView {
                from: hop_name(it.from, hops),
                to: hop_name(it.to, hops),
                fields: it.fields.iter().map(|field| field.name()).collect(),
                confirmed_by: host.map(|_| "conntrack"),
                host,
            }
        })
        .collect();
    out.put(
        name!("rewrites"),
        (!rewrites.is_empty()).then_some(rewrites),
    )?;
    write_proxies(across, out)?;
    let alignment = AlignmentView {
        packets: across.joined.alignment.packets,
        aligned: across.joined.alignment.aligned,
    };
    out.put(name!("alignment"), Some(alignment))
}

fn write_proxies(across: &Across, out: &mut Out<'_>) -> serde_json::Result<()> {
    let sides = [Side::Server, Side::Client];
    let content = |it: &'_ Proxied| match it.basis {
        ProxyBasis::Content { chunks } => Some(chunks),
        ProxyBasis::Timing { .. } => None,
    };
    let by_content = sides.iter().find_map(|side| {
        let proxied = across.proxied.get(*side).as_ref()?;
        content(proxied).map(|chunks| ProxiedView {
            conversation: &proxied.id,
            client_chunks: chunks[0],
            server_chunks: chunks[1],
        })
    });
    out.put(name!("proxied"), by_content)?;
    let view = |side: &Side| {
        across.proxied.get(*side).as_ref().map(|it| ProxyView {
            side: match side {
                Side::Client => "toward_client",
                Side::Server => "toward_server",
            },
            conversation: &it.id,
            basis: BasisView::of(it.basis),
        })
    };
    let views: Vec<ProxyView<'_>> = sides.iter().rev().filter_map(view).collect();
    out.put(name!("proxies"), (!views.is_empty()).then_some(views))
}

impl BasisView {
    fn of(basis: ProxyBasis) -> Self {
        match basis {
            ProxyBasis::Content { chunks } => Self::Content {
                client_chunks: chunks[0],
                server_chunks: chunks[1],
            },
            ProxyBasis::Timing {
                exchanges,
                confidence,
            } => Self::Timing {
                hypothesis: true,
                exchanges,
                confidence: (100.0 * confidence).round() / 100.0,
            },
        }
    }
}

/// Writes the legs, as a list.
pub(super) fn legs(
    across: Option<&Across>,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    line.push(b'[');
    for (index, leg) in across
        .into_iter()
        .flat_map(|it| &it.joined.legs)
        .enumerate()
    {
        if index > 0 {
            line.push(b',');
        }
        write_leg(leg, hops, line)?;
    }
    line.push(b']');
    Ok(())
}

fn write_leg(leg: &LegStory, hops: HopNames<'_>, line: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut out = Out::begin(line);
    out.put(name!("from"), Some(hop_name(leg.from, hops)))?;
    out.put(name!("to"), Some(hop_name(leg.to, hops)))?;
    for (name, way) in [
        (name!("forward"), &leg.forward),
        (name!("reverse"), &leg.reverse),
    ] {
        if let Some(way) = way {
            write_way(way, out.object(name))?;
        }
    }
    out.times(name!("rtt_ms"), &leg.rtt)?;
    out.end();
    Ok(())
}

fn write_way(way: &LegWay, mut out: Out<'_>) -> serde_json::Result<()> {
    out.put(name!("packets"), Some(way.packets))?;
    out.put(name!("lost"), Some(way.lost))?;
    let beside = way.lost_here_or_beside;
    out.put(name!("lost_here_or_beside"), (beside > 0).then_some(beside))?;
    out.put(name!("reordered"), Some(way.reordered))?;
    out.put(name!("duplicated"), Some(way.duplicated))?;
    out.put(name!("not_captured"), Some(way.not_captured))?;
    out.put(name!("unresolved"), Some(way.unresolved))?;
    let beside = way.unresolved_here_or_beside;
    out.put(
        name!("unresolved_here_or_beside"),
        (beside > 0).then_some(beside),
    )?;
    out.times(name!("delay_ms"), &way.delay)?;
    out.put(
        name!("delay_error_ms"),
        way.delay_error_ns.map(milliseconds),
    )?;
    out.times(name!("queueing_ms"), &way.queueing)?;
    out.end();
    Ok(())
}
