//! What several hops tell of one conversation, as JSON.

use phalanx_engine::stitch::{LegStory, LegWay};
use serde::Serialize;

use super::conversation::End;
use super::out::{Out, name};
use crate::report::Across;
use crate::report::word::{self, milliseconds};
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

#[derive(Serialize)]
struct ProxiedView<'a> {
    conversation: &'a str,
    client_chunks: u32,
    server_chunks: u32,
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
    let proxied = across.proxied.as_ref().map(|it| ProxiedView {
        conversation: &it.id,
        client_chunks: it.chunks[0],
        server_chunks: it.chunks[1],
    });
    out.put(name!("proxied"), proxied)?;
    let alignment = AlignmentView {
        packets: across.joined.alignment.packets,
        aligned: across.joined.alignment.aligned,
    };
    out.put(name!("alignment"), Some(alignment))
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
    out.put(name!("reordered"), Some(way.reordered))?;
    out.put(name!("duplicated"), Some(way.duplicated))?;
    out.put(name!("not_captured"), Some(way.not_captured))?;
    out.put(name!("unresolved"), Some(way.unresolved))?;
    out.times(name!("delay_ms"), &way.delay)?;
    out.put(
        name!("delay_error_ms"),
        way.delay_error_ns.map(milliseconds),
    )?;
    out.times(name!("queueing_ms"), &way.queueing)?;
    out.end();
    Ok(())
}
