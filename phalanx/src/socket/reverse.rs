//! The thread that asks the resolver for the names of addresses; only where it was asked for, since
//! it tells others what is watched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use phalanx_engine::NameFact;

use crate::daemon::Waker;
use crate::privilege;

/// Addresses that wait to be asked for; full: an address is left out until its next flow.
const QUESTION_COUNT_MAX: usize = 256;
/// Addresses whose answer is remembered; full: the expired ones are forgotten, or else all.
const ANSWER_COUNT_MAX: usize = 8_192;
/// How long an answer holds: the resolver does not tell its time to live.
const ANSWER_LIFETIME: Duration = Duration::from_secs(3_600);
/// How long "there is none" holds.
const NOTHING_LIFETIME: Duration = Duration::from_secs(300);

/// Asks for names, in order, one at a time.
struct Resolver {
    facts: SyncSender<NameFact>,
    told: Waker,
    /// Until when an address is not asked for again.
    answered: HashMap<IpAddr, Instant>,
}

/// Starts the thread; addresses go in, facts come out where `facts` leads.
pub(crate) fn start_resolver(
    facts: SyncSender<NameFact>,
    told: Waker,
) -> anyhow::Result<SyncSender<IpAddr>> {
    let (questions, inbox) = sync_channel(QUESTION_COUNT_MAX);
    let mut resolver = Resolver {
        facts,
        told,
        answered: HashMap::new(),
    };
    let thread = std::thread::Builder::new().name("resolver".to_owned());
    thread
        .spawn(move || resolver.run(&inbox))
        .context("start the resolver")?;
    Ok(questions)
}

impl Resolver {
    /// Ends when nobody asks any more.
    fn run(&mut self, inbox: &Receiver<IpAddr>) {
        if let Err(error) = privilege::keep_only(&[]) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the resolver keeps capabilities"
            );
        }
        while let Ok(address) = inbox.recv() {
            let now = Instant::now();
            if self
                .answered
                .get(&address)
                .is_some_and(|until| *until > now)
            {
                continue;
            }
            let host = look_up(address);
            let lifetime = if host.is_some() {
                ANSWER_LIFETIME
            } else {
                NOTHING_LIFETIME
            };
            self.remember(address, now, lifetime);
            if self
                .facts
                .send(NameFact::ReverseDns { address, host })
                .is_err()
            {
                return;
            }
            self.told.wake();
        }
    }

    fn remember(&mut self, address: IpAddr, now: Instant, lifetime: Duration) {
        if self.answered.len() >= ANSWER_COUNT_MAX {
            self.answered.retain(|_, until| *until > now);
            if self.answered.len() >= ANSWER_COUNT_MAX {
                self.answered.clear();
            }
        }
        self.answered.insert(address, now + lifetime);
    }
}

/// The name of an address, where the resolver knows one; it answers with the address itself where
/// it does not.
fn look_up(address: IpAddr) -> Option<Arc<str>> {
    let host = dns_lookup::lookup_addr(&address).ok()?;
    let is_name = host.parse::<IpAddr>().is_err();
    is_name.then(|| Arc::from(host.trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_a_name_and_is_asked_for_once() {
        let (facts, inbox) = sync_channel(8);
        let questions = start_resolver(facts, Waker::new().unwrap()).unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        questions.send(address).unwrap();
        questions.send(address).unwrap();
        drop(questions);
        let told: Vec<NameFact> = inbox.iter().collect();
        assert!(
            matches!(
                &told[..],
                [NameFact::ReverseDns { host: Some(host), .. }] if host.contains("local")
            ),
            "{told:?}"
        );
    }

    #[test]
    fn answers_are_bounded() {
        let (facts, _inbox) = sync_channel(1);
        let told = Waker::new().unwrap();
        let mut resolver = Resolver {
            facts,
            told,
            answered: HashMap::new(),
        };
        let now = Instant::now();
        for number in 0..20_000_u32 {
            resolver.remember(IpAddr::from(number.to_be_bytes()), now, ANSWER_LIFETIME);
            assert!(resolver.answered.len() <= ANSWER_COUNT_MAX);
        }
    }
}
