//! The parser's full profile, for files: every IP layer of a frame, outermost first, each with
//! the [`Headers`] that the kernel profile makes and the way it is wrapped. The kernel programs
//! do not run it.

use super::encapsulation::{Reached, walk};
use super::{
    Encapsulation, Headers, Link, LinkKind, Next, Tunnel, Unparsed, ip, is_error, parse_ip,
    parse_link, parse_quote, tunnel,
};
use crate::limits::LAYER_COUNT_MAX;

/// One IP layer of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// The layer's IP and transport headers; offsets count from the start of the frame.
    pub headers: Headers,
    /// How the layer is wrapped in the one around it.
    pub encapsulation: Encapsulation,
}

/// The IP layers of one packet, outermost first: at least one, [`LAYER_COUNT_MAX`] at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers {
    /// The layer that the kernel programs see, where they parse the frame at all.
    outermost: Layer,
    /// What lies beyond `inner_count` is left over from frames before.
    inner: [Layer; LAYER_COUNT_MAX - 1],
    inner_count: usize,
    stopped: Option<Unparsed>,
}

impl PartialEq for Layers {
    fn eq(&self, other: &Self) -> bool {
        self.outermost == other.outermost
            && self.inner() == other.inner()
            && self.stopped == other.stopped
    }
}

impl Eq for Layers {}

impl Layers {
    /// The layer that the frame itself carries.
    #[must_use]
    pub const fn outermost(&self) -> &Layer {
        &self.outermost
    }

    /// The layer that no further one was found in; the outermost one where there is no tunnel.
    #[must_use]
    pub fn innermost(&self) -> &Layer {
        self.inner().last().unwrap_or(&self.outermost)
    }

    /// All layers, outermost first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        core::iter::once(&self.outermost).chain(self.inner())
    }

    /// How many layers there are: 1 to [`LAYER_COUNT_MAX`].
    #[must_use]
    pub const fn count(&self) -> usize {
        1 + self.inner_count
    }

    /// Why nothing was found in the innermost layer, although it is a tunnel.
    #[must_use]
    pub const fn stopped(&self) -> Option<Unparsed> {
        self.stopped
    }

    /// The packet that the innermost layer quotes, where that is an ICMP error; `bytes` are the
    /// frame that the layers were parsed from.
    #[must_use]
    pub fn quote(&self, bytes: &[u8]) -> Option<Result<Headers, Unparsed>> {
        let error = &self.innermost().headers;
        is_error(error).then(|| parse_quote(bytes, error))
    }

    fn inner(&self) -> &[Layer] {
        self.inner.get(..self.inner_count).unwrap_or_default()
    }
}

/// Parses all IP layers of a frame; see [`Layers::parse`], which is for many frames.
///
/// # Errors
/// Those of [`Layers::parse`].
pub fn parse_layers(bytes: &[u8], kind: LinkKind, wire_length: u32) -> Result<Layers, Unparsed> {
    let mut layers = Layers::default();
    layers.parse(bytes, kind, wire_length)?;
    Ok(layers)
}

/// A header that the parser passes on its way through a frame; it ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Station {
    /// One that leads to an IP header, or that IP header.
    Link(Next),
    /// The header of a tunnel, empty for IP in IP.
    Tunnel(Tunnel),
}

/// Parses all IP layers of a frame as [`Layers::parse`] does, and tells `visit` each header outside
/// of IP and transport, and where it begins, in order: for who rewrites frames. What leads to a
/// layer that was not parsed is told too.
///
/// # Errors
/// Those of [`Layers::parse`].
pub fn visit_layers(
    bytes: &[u8],
    kind: LinkKind,
    wire_length: u32,
    mut visit: impl FnMut(Station, u32),
) -> Result<Layers, Unparsed> {
    let reached = walk(bytes, kind.into(), 0, |next, at| {
        visit(Station::Link(next), at);
    })?;
    let mut layers = Layers {
        outermost: reached.layer(bytes, wire_length)?,
        ..Layers::default()
    };
    layers.follow(bytes, visit);
    Ok(layers)
}

impl Layers {
    /// Parses all IP layers of a frame, in place of those of the frame before: a value of this
    /// type is large, and making it anew costs more than parsing most frames.
    ///
    /// `wire_length` is the length of the whole frame in bytes, of which `bytes` may hold only the
    /// first part.
    ///
    /// # Errors
    /// The reason why there is not even an outermost layer; it is all zero then. What stops the
    /// parser further in is no error: [`Layers::stopped`] tells it.
    pub fn parse(
        &mut self,
        bytes: &[u8],
        kind: LinkKind,
        wire_length: u32,
    ) -> Result<(), Unparsed> {
        self.inner_count = 0;
        self.stopped = None;
        match parse_outermost(bytes, kind, wire_length) {
            Ok(layer) => {
                self.outermost = layer;
                self.follow(bytes, |_, _| {});
                Ok(())
            }
            Err(reason) => {
                self.outermost = Layer::default();
                Err(reason)
            }
        }
    }

    /// Opens tunnel after tunnel until none is left.
    fn follow(&mut self, bytes: &[u8], mut visit: impl FnMut(Station, u32)) {
        while let Some(opened) = open(bytes, &self.innermost().headers, &mut visit) {
            let layer = match opened {
                Ok(layer) => layer,
                Err(reason) => {
                    self.stopped = Some(reason);
                    return;
                }
            };
            let Some(free) = self.inner.get_mut(self.inner_count) else {
                self.stopped = Some(Unparsed::NestingTooDeep);
                return;
            };
            *free = layer;
            self.inner_count += 1;
        }
    }
}

/// What the kernel profile knows is parsed by it, the rest by the walk.
#[inline]
fn parse_outermost(bytes: &[u8], kind: LinkKind, wire_length: u32) -> Result<Layer, Unparsed> {
    let reached = match parse_link(bytes, kind) {
        Ok(link) => Reached {
            link,
            encapsulation: Encapsulation::default(),
            end: u32::MAX,
        },
        Err(_) => walk(bytes, kind.into(), 0, |_, _| {})?,
    };
    reached.layer(bytes, wire_length)
}

impl Reached {
    #[inline]
    fn layer(self, bytes: &[u8], wire_length: u32) -> Result<Layer, Unparsed> {
        Ok(Layer {
            headers: parse_ip(bytes, self.link, wire_length.min(self.end))?,
            encapsulation: self.encapsulation,
        })
    }
}

/// The layer inside that of `headers`; `None` where that is no tunnel.
fn open(
    bytes: &[u8],
    headers: &Headers,
    visit: &mut impl FnMut(Station, u32),
) -> Option<Result<Layer, Unparsed>> {
    let inside = match tunnel::open(bytes, headers)? {
        Ok(inside) => inside,
        Err(reason) => return Some(Err(reason)),
    };
    visit(Station::Tunnel(inside.tunnel), headers.payload_offset);
    let passed = |next, at| visit(Station::Link(next), at);
    let layer = walk(bytes, inside.next, inside.at, passed).and_then(|reached| {
        let wire_length = wire_length(headers, reached.link, inside.is_cut).min(reached.end);
        Ok(Layer {
            headers: parse_ip(bytes, reached.link, wire_length)?,
            encapsulation: Encapsulation {
                tunnel: inside.tunnel,
                ..reached.encapsulation
            },
        })
    });
    Some(layer)
}

/// Where the inner packet ends, in bytes from the start of the frame: with the outer packet, or,
/// where that holds only the first part of it, nowhere before its own declared end.
fn wire_length(outer: &Headers, inner: Link, is_cut: bool) -> u32 {
    if is_cut {
        inner.offset.saturating_add(ip::PACKET_LENGTH_MAX)
    } else {
        outer.payload_offset.saturating_add(outer.payload_length)
    }
}
