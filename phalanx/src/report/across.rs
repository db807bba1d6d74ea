//! What several hops tell of one conversation: brings the flows of a report together that the
//! engine has found to be one exchange.

use std::collections::{BTreeMap, BTreeSet};

use phalanx_engine::stitch::{
    ProxyBasis, Rewrite, StitchHop, Stitched, StitchedConversation, Trail, stitch,
};
use phalanx_engine::{Endpoint, Side, Sides, Translation};

use super::{ClockReport, ConversationReport, HopReport, Report};

/// A conversation, as all hops that saw it tell of it. Hops are places in [`Report::hops`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Across {
    /// Its flow at each hop.
    pub flows: Vec<FlowAt>,
    /// Its paths, its legs and what was rewritten on them.
    pub joined: StitchedConversation,
    /// The conversations that are the same exchange beyond a proxy: towards the client, and towards
    /// the server.
    pub proxied: Sides<Option<Proxied>>,
    /// Its place among [`Stitched::conversations`].
    pub place: usize,
    /// Rewrites that connection tracking of a host confirms.
    pub confirmed: Vec<Confirmed>,
}

/// A rewrite that connection tracking of a host between two hops, or of one of them, confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The hop nearer to the client.
    pub from: u32,
    /// The other.
    pub to: u32,
    /// The host.
    pub host: String,
}

/// A conversation that is the same exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxied {
    /// Its name.
    pub id: String,
    /// What tells it.
    pub basis: ProxyBasis,
}

/// A conversation's flow at one hop.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowAt {
    /// The hop.
    pub hop: u32,
    /// Number of its first frame there.
    pub flow: u64,
    /// IANA protocol number.
    pub protocol: u8,
    /// Client and server, as that hop sees them.
    pub ends: Sides<Endpoint>,
    /// Its packets, copies that the capture made aside.
    pub packets: u64,
    /// First frames of what that hop took for other flows though it is this one.
    pub parts: Vec<u64>,
}

/// The flows of all hops of a report.
#[derive(Debug, Default)]
pub struct Trails {
    /// Their packets; hops are places in [`Report::hops`].
    pub trails: Vec<Trail>,
    /// By hop: hops of one number share a clock.
    pub clocks: Vec<u32>,
}

/// Where the story of a flow stands: hop and first frame.
type Place = (u32, u64);

impl Report {
    /// Brings the flows together that are one conversation, where there are several hops. Each
    /// stays with the story that the hop nearest to the client tells.
    pub fn join_hops(&mut self, trails: Trails) -> Option<Stitched> {
        if self.hops.len() < 2 {
            return None;
        }
        let hops: Vec<StitchHop> = (0_u32..)
            .zip(&self.hops)
            .map(|(hop, it)| StitchHop {
                hop,
                clock: trails.clocks.get(hop as usize).copied().unwrap_or(hop),
                window_ns: (
                    it.first_ns.unwrap_or_default(),
                    it.last_ns.unwrap_or_default(),
                ),
                gaps_ns: it.gaps.clone(),
            })
            .collect();
        let stitched = stitch(trails.trails, &hops);
        self.note_clocks(&stitched);
        self.join(&stitched);
        Some(stitched)
    }

    fn note_clocks(&mut self, stitched: &Stitched) {
        let names: Vec<String> = self.hops.iter().map(|it| it.id.clone()).collect();
        for clock in &stitched.clocks {
            let reference = names.get(clock.reference as usize).cloned();
            if let Some(hop) = self.hops.get_mut(clock.hop as usize) {
                hop.clock = Some(ClockReport {
                    reference: reference.unwrap_or_default(),
                    is_shared: clock.is_shared,
                    readings: clock.readings.clone(),
                });
            }
        }
    }

    fn join(&mut self, stitched: &Stitched) {
        let mut reports: BTreeMap<Place, ConversationReport> = BTreeMap::new();
        for report in std::mem::take(&mut self.conversations) {
            reports.insert((report.hop_place, report.story.flow), report);
        }
        let links = stitched.proxies.iter();
        let proxied: BTreeSet<usize> = links.flat_map(|it| it.conversations).collect();
        for (place, conversation) in stitched.conversations.iter().enumerate() {
            let flows = conversation.flows.iter();
            let flows = flows.map(|it| 1 + stitched.trails[*it].parts.len() as u64);
            let joined = flows.sum::<u64>().saturating_sub(1);
            self.totals.conversations = self.totals.conversations.saturating_sub(joined);
            let mut across = Across::of(conversation, place, &stitched.trails);
            across.confirm(&self.hops);
            let has_proxy = proxied.contains(&place);
            self.conversations
                .extend(across.report(&mut reports, has_proxy));
        }
        self.note_proxies(stitched);
        // What no trail was kept of.
        self.conversations.extend(reports.into_values());
    }
}

impl Report {
    fn note_proxies(&mut self, stitched: &Stitched) {
        let place = |it: &ConversationReport| it.across.as_ref().map(|across| across.place);
        let ids: BTreeMap<usize, String> = self
            .conversations
            .iter()
            .filter_map(|it| Some((place(it)?, it.id.clone())))
            .collect();
        let mut partners: BTreeMap<usize, Sides<Option<Proxied>>> = BTreeMap::new();
        for link in &stitched.proxies {
            let [near, far] = link.conversations;
            for (one, other, side) in [(near, far, Side::Server), (far, near, Side::Client)] {
                let proxied = ids.get(&other).map(|id| Proxied {
                    id: id.clone(),
                    basis: link.basis,
                });
                *partners.entry(one).or_default().get_mut(side) = proxied;
            }
        }
        for across in self
            .conversations
            .iter_mut()
            .filter_map(|it| it.across.as_mut())
        {
            across.proxied = partners.remove(&across.place).unwrap_or_default();
        }
    }
}

impl Across {
    fn of(conversation: &StitchedConversation, place: usize, trails: &[Trail]) -> Self {
        let flow = |place: &usize| {
            let trail = &trails[*place];
            FlowAt {
                hop: trail.hop,
                flow: trail.flow,
                protocol: trail.protocol,
                ends: trail.ends,
                packets: trail.packet_count() as u64 + trail.left_out,
                parts: trail.parts.clone(),
            }
        };
        Self {
            flows: conversation.flows.iter().map(flow).collect(),
            joined: conversation.clone(),
            proxied: Sides::default(),
            place,
            confirmed: Vec::new(),
        }
    }

    /// Looks for the rewrites in what the hosts of their hops say of themselves. That a host does
    /// not confirm one says nothing: another box may have done it.
    fn confirm(&mut self, hops: &[HopReport]) {
        let flow = |hop: u32| self.flows.iter().find(|it| it.hop == hop);
        let confirmed = self.joined.rewrites.iter().filter_map(|rewrite| {
            let (near, far) = (flow(rewrite.from)?, flow(rewrite.to)?);
            let wanted = Translation::between(near.protocol, near.ends, far.ends);
            let told = [rewrite.from, rewrite.to]
                .into_iter()
                .filter_map(|hop| hops.get(hop as usize))
                .find_map(|hop| wanted.iter().find_map(|it| hop.translations.get(it)))?;
            Some(Confirmed {
                from: rewrite.from,
                to: rewrite.to,
                host: told.clone(),
            })
        });
        self.confirmed = confirmed.collect();
    }

    /// The host that confirms a rewrite.
    #[must_use]
    pub fn confirming_host(&self, rewrite: &Rewrite) -> Option<&str> {
        let ends = (rewrite.from, rewrite.to);
        let found = self.confirmed.iter().find(|it| (it.from, it.to) == ends);
        found.map(|it| it.host.as_str())
    }

    /// The conversation with the story of its first hop that has one, and the worst score of all.
    fn report(
        self,
        reports: &mut BTreeMap<Place, ConversationReport>,
        has_proxy: bool,
    ) -> Option<ConversationReport> {
        let mut told: BTreeMap<u32, ConversationReport> = BTreeMap::new();
        let mut parts: Vec<ConversationReport> = Vec::new();
        for flow in &self.flows {
            if let Some(report) = reports.remove(&(flow.hop, flow.flow)) {
                told.insert(flow.hop, report);
            }
            let of_parts = flow.parts.iter();
            parts.extend(of_parts.filter_map(|it| reports.remove(&(flow.hop, *it))));
        }
        let mut in_order: Vec<u32> = self.joined.path.clone();
        in_order.extend(self.joined.return_path.iter().rev());
        // Whoever guessed the roles otherwise than they are tells its story last.
        let agrees = |hop: &&u32| {
            let flow = self.flows.iter().find(|it| it.hop == **hop);
            let ends = told.get(hop).and_then(|it| it.story.endpoints.as_ref());
            matches!((flow, ends), (Some(flow), Some(ends)) if flow.ends.client == ends.client)
        };
        let first = in_order.iter().find(agrees);
        let first = first.or_else(|| in_order.iter().find(|hop| told.contains_key(hop)));
        let first = first.copied().or_else(|| told.keys().next().copied())?;
        let worst = told.values().chain(&parts);
        let worst = worst.max_by(|a, b| a.score.total_cmp(&b.score));
        let worst = worst.map(|it| (it.score, it.worst_because.clone()));
        let mut report = told.remove(&first)?;
        if let Some((score, because)) = worst.filter(|it| it.0 > report.score) {
            (report.score, report.worst_because) = (score, because);
        }
        if self.flows.len() > 1 || has_proxy {
            report.across = Some(Box::new(self));
        }
        Some(report)
    }

    /// The way of one side's packets.
    #[must_use]
    pub fn path_of(&self, side: Side) -> &[u32] {
        match side {
            Side::Client => &self.joined.path,
            Side::Server => &self.joined.return_path,
        }
    }
}

#[cfg(test)]
mod tests {
    use phalanx_engine::stitch::{ProxyLink, RewriteField};

    use super::*;

    #[test]
    fn of_a_chain_of_proxies_each_tells_of_both_neighbours() {
        let link = |conversations: [usize; 2], basis: ProxyBasis| ProxyLink {
            conversations,
            basis,
        };
        let content = ProxyBasis::Content { chunks: [4, 9] };
        let timing = ProxyBasis::Timing {
            exchanges: 12,
            confidence: 0.5,
        };
        let mut stitched = Stitched::default();
        stitched.proxies = vec![link([0, 1], content), link([1, 2], timing)];
        let conversation = |place: usize| ConversationReport {
            id: format!("tcp-{place}"),
            across: Some(Box::new(Across {
                place,
                ..Across::default()
            })),
            ..ConversationReport::default()
        };
        let mut report = Report {
            conversations: (0..4).map(conversation).collect(),
            ..Report::default()
        };
        report.note_proxies(&stitched);
        let told = report.conversations.iter().map(|it| {
            let proxied = &it.across.as_ref().expect("given above").proxied;
            [&proxied.client, &proxied.server]
                .map(|it| it.as_ref().map(|it| (it.id.as_str(), it.basis)))
        });
        let told: Vec<_> = told.collect();
        assert_eq!(told[0], [None, Some(("tcp-1", content))]);
        assert_eq!(told[1], [Some(("tcp-0", content)), Some(("tcp-2", timing))]);
        assert_eq!(told[2], [Some(("tcp-1", timing)), None]);
        assert_eq!(told[3], [None, None]);
    }

    fn end(last: u8, port: u16) -> Endpoint {
        let address = [10, 0, 0, last].into();
        Endpoint { address, port }
    }

    fn ends(client: Endpoint, server: Endpoint) -> Sides<Endpoint> {
        Sides { client, server }
    }

    /// A conversation at two hops, the client's address rewritten between them; what hosts say of
    /// it at each hop is `told`.
    fn confirmed(told: [Option<Translation>; 2]) -> Vec<Confirmed> {
        let flow = |hop: u32, client: Endpoint| FlowAt {
            hop,
            flow: 1,
            protocol: 6,
            ends: ends(client, end(9, 80)),
            packets: 10,
            parts: Vec::new(),
        };
        let mut across = Across {
            flows: vec![flow(0, end(1, 50_000)), flow(1, end(2, 1_025))],
            ..Across::default()
        };
        across.joined.rewrites = vec![Rewrite {
            from: 0,
            to: 1,
            fields: vec![RewriteField::ClientAddress, RewriteField::ClientPort],
        }];
        let hops = told.map(|told| HopReport {
            translations: told
                .map(|it| (it, "edge-1".to_owned()))
                .into_iter()
                .collect(),
            ..HopReport::default()
        });
        across.confirm(&hops);
        let rewrite = &across.joined.rewrites[0];
        let host = across.confirming_host(rewrite);
        assert_eq!(host.is_some(), !across.confirmed.is_empty());
        across.confirmed
    }

    #[test]
    fn a_rewrite_is_confirmed_by_the_very_tuples_and_never_undone() {
        let exact = Translation {
            protocol: 6,
            inside: ends(end(1, 50_000), end(9, 80)),
            outside: ends(end(2, 1_025), end(9, 80)),
        };
        let by_edge = [Confirmed {
            from: 0,
            to: 1,
            host: "edge-1".to_owned(),
        }];
        assert_eq!(confirmed([Some(exact), None]), by_edge);
        assert_eq!(confirmed([None, Some(exact)]), by_edge);
        // Who took the server for the client took it so on both sides.
        let reversed = Translation {
            protocol: 6,
            inside: ends(end(9, 80), end(2, 1_025)),
            outside: ends(end(9, 80), end(1, 50_000)),
        };
        assert_eq!(confirmed([Some(reversed), None]), by_edge);
        let others = [
            Translation {
                protocol: 17,
                ..exact
            },
            Translation {
                inside: exact.outside,
                outside: exact.inside,
                ..exact
            },
            Translation {
                outside: ends(end(2, 1_026), end(9, 80)),
                ..exact
            },
        ];
        for other in others {
            assert_eq!(confirmed([Some(other), Some(other)]), []);
        }
        assert_eq!(confirmed([None, None]), []);
    }
}
