//! A capture is followed to its end: until all parts are there or given up, then they are put
//! together.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{PathCapture, PathCaptures, nanoseconds};
use crate::api::show::wall_time;
use crate::capture::{Age, CaptureState, EndReason, Loss, LossKind};
use crate::link::protocol::CaptureStop;
use crate::link::protocol::hub_message::Message as FromHub;

/// How often a capture is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long nothing of a part may come after its end. An agent that was away tries again after 30 s
/// at the latest (`PAUSE_MAX` of its uplink).
const GRACE: Duration = Duration::from_secs(40);
/// How long a part may take to come after its end, however much is on its way.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// A part that begins so late is not whole.
const LATE: Duration = Duration::from_secs(1);

impl PathCaptures {
    /// Follows a capture to its end.
    pub(super) async fn follow(self: Arc<Self>, capture: Arc<PathCapture>) {
        let id = capture.show().id;
        let mut tick = tokio::time::interval(TICK);
        // From here on by a clock that nobody sets.
        let left_ns = capture.lock().end_wall_ns.saturating_sub(self.wall_ns());
        let end = Instant::now() + Duration::from_nanos(left_ns);
        // When its parts should have been there, and since when the agents know of an end.
        let mut due: Option<Instant> = None;
        let mut is_told = false;
        while !capture.lock().parts.iter().all(|part| part.is_done) {
            tokio::select! {
                _ = tick.tick() => {}
                () = capture.changed.notified() => {}
            }
            self.note_away(&capture);
            let is_stopped = capture.lock().stopped.is_some();
            let is_over = Instant::now() >= end;
            if is_stopped && !is_told {
                is_told = true;
                self.tell_stop(&capture, &id).await;
            }
            if is_stopped || is_over {
                let since = *due.get_or_insert_with(Instant::now);
                self.give_up(&capture, since);
            }
        }
        self.finish(&capture, &id).await;
    }

    async fn tell_stop(&self, capture: &PathCapture, id: &str) {
        let agents: Vec<String> = {
            let state = capture.lock();
            let parts = state.view.hosts.iter().zip(&state.parts);
            let open = parts.filter(|(_, part)| !part.is_done);
            open.map(|(host, _)| host.agent.clone()).collect()
        };
        let mut telling = JoinSet::new();
        for agent in agents {
            let stop = CaptureStop { id: id.to_owned() };
            let lines = Arc::clone(&self.lines);
            // Where it is away, it is told when it comes.
            telling.spawn(async move { lines.tell(&agent, FromHub::CaptureStop(stop)).await });
        }
        telling.join_all().await;
    }

    /// Notes which parts are waited for while their agents are away: a session ends at once where
    /// its process does, and soon after its host has fallen silent.
    fn note_away(&self, capture: &PathCapture) {
        let mut state = capture.lock();
        let state = &mut *state;
        for (host, part) in state.view.hosts.iter_mut().zip(&state.parts) {
            if part.is_done || self.lines.is_open(&host.agent) {
                host.away_since = None;
            } else if host.away_since.is_none() {
                host.away_since = Some(wall_time(self.wall_ns()));
            }
        }
    }

    /// Waits no longer for parts that are late.
    fn give_up(&self, capture: &PathCapture, due: Instant) {
        let waited = due.elapsed();
        let mut state = capture.lock();
        for number in 0..state.parts.len() {
            let Some(host) = state.view.hosts.get(number) else {
                continue;
            };
            let is_away = !self.lines.is_open(&host.agent);
            let detail = match is_away {
                true => "its agent was away at the end; what came before is here",
                false => "it did not deliver all of it in time; what came is here",
            };
            let part = &state.parts[number];
            let quiet = part.heard.max(due).elapsed();
            if !part.is_done && (quiet > GRACE || waited > GRACE_MAX) {
                state.lose(number, LossKind::HostAway, detail);
            }
        }
    }

    /// Puts the parts together.
    async fn finish(&self, capture: &PathCapture, id: &str) {
        let sources = capture.lock().sources();
        let output = self.store.file(id);
        let merged = match sources.is_empty() {
            true => Ok(()),
            false => self.study.merge(&sources, &output).await,
        };
        let bytes = std::fs::metadata(&output).map_or(0, |file| file.len());
        let mut state = capture.lock();
        state.note_late();
        state.note_early();
        state.add_up();
        let stopped = state.stopped;
        let view = &mut state.view;
        if let Err(error) = merged {
            let detail = format!("{error:#}; the report is of the parts");
            view.losses.push(Loss {
                kind: LossKind::NotMerged,
                packets: 0,
                detail,
            });
        }
        let lost = view.hosts.iter().flat_map(|host| {
            let named = |loss: &Loss| Loss {
                detail: format!("{}: {}", host.host, loss.detail),
                ..loss.clone()
            };
            host.losses.iter().map(named)
        });
        let lost: Vec<Loss> = lost.collect();
        view.losses.extend(lost);
        let mut reasons = view.hosts.iter().filter_map(|host| host.end_reason);
        let first = reasons.next().unwrap_or(EndReason::Duration);
        let is_one = reasons.all(|reason| reason == first);
        let of_parts = if is_one { first } else { EndReason::Duration };
        view.end_reason = Some(stopped.unwrap_or(of_parts));
        view.bytes = bytes;
        view.ended = Some(wall_time(self.wall_ns()));
        view.state = match view.losses.is_empty() {
            true => CaptureState::Complete,
            false => CaptureState::Partial,
        };
        let state_name = view.state.name();
        drop(state);
        self.describe(capture);
        let _ = capture.ended.set(Age::now());
        let growing = capture.growing.lock();
        let growing = growing
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(growing) = growing {
            growing.send_replace(bytes);
        }
        tracing::info!(
            id,
            bytes,
            state = state_name,
            "a capture of the hosts has ended"
        );
        self.make_room(0);
        self.count();
    }

    /// Writes down how a capture stands; who calls must not hold its state.
    pub(super) fn describe(&self, capture: &PathCapture) {
        // One after the other, each as it stands by then: parts end at once, and have one file.
        let describing = self.describing.lock();
        let _one = describing.unwrap_or_else(std::sync::PoisonError::into_inner);
        let view = capture.show();
        if let Err(error) = self.store.describe(&view) {
            tracing::warn!(%error, id = view.id, "describe a capture");
        }
    }
}

impl super::State {
    /// What all parts are together so far.
    pub(super) fn add_up(&mut self) {
        let hosts = &self.view.hosts;
        self.view.packets = hosts
            .iter()
            .fold(0, |sum, host| sum.saturating_add(host.packets));
        self.view.bytes = hosts.iter().map(|host| host.bytes).sum();
        let filtered = hosts.iter().map(|host| host.filtered_out);
        self.view.filtered_out = filtered.fold(0, u64::saturating_add);
    }

    /// Notes parts that ended for a reason of their own, before the time was over.
    pub(super) fn note_early(&mut self) {
        let is_stopped = self.stopped.is_some();
        let mut reasons = self.view.hosts.iter().map(|host| host.end_reason);
        let first = reasons.next().flatten();
        let is_limit = matches!(first, Some(EndReason::MaxPackets | EndReason::MaxBytes));
        // A limit that all of them reached is what was asked for.
        if is_limit && reasons.all(|reason| reason == first) {
            return;
        }
        for host in &mut self.view.hosts {
            let detail = match host.end_reason {
                None | Some(EndReason::Duration) => continue,
                Some(EndReason::Stopped) if is_stopped => continue,
                Some(EndReason::MaxPackets) => "it had max_packets before the time was over",
                Some(EndReason::MaxBytes) => "it had max_bytes before the time was over",
                Some(EndReason::Stopped) => "somebody stopped it there",
                Some(EndReason::DaemonStopped) => "its agent ended",
                Some(EndReason::WriteFailed) => "its file could not be written there",
                Some(EndReason::InterfacesVanished) => "its interfaces vanished",
            };
            host.state = CaptureState::Partial;
            host.losses.push(Loss {
                kind: LossKind::EndedEarly,
                packets: 0,
                detail: detail.to_owned(),
            });
        }
    }

    /// Notes parts that began long after the others: their agents were away then.
    pub(super) fn note_late(&mut self) {
        for host in &mut self.view.hosts {
            let created: Option<jiff::Timestamp> =
                host.created.as_deref().and_then(|it| it.parse().ok());
            let Some(created) = created else { continue };
            let offset_ns = (host.clock_offset_s * 1e9) as i128;
            let began_ns = created.as_nanosecond() - offset_ns;
            let late_ns = began_ns - i128::from(self.start_wall_ns);
            if late_ns > i128::from(nanoseconds(LATE)) {
                host.state = CaptureState::Partial;
                host.losses.push(Loss {
                    kind: LossKind::HostAway,
                    packets: 0,
                    detail: format!("it began {:.1} s late", late_ns as f64 / 1e9),
                });
            }
        }
    }
}
