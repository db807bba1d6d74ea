//! Conversations with known faults.

use std::time::Duration;

use phalanx_range::Impairment;

use crate::stage::{Evidence, Stage};
use crate::talk::{Bulk, Exchanges, Told, meanwhile};

/// A conversation with known faults.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Of the link, towards the server and towards the client.
    pub(crate) impairments: [Impairment; 2],
    pub(crate) talk: fn(&Stage) -> Told,
}

impl Scenario {
    pub(crate) fn run(&self) -> (Evidence, Told) {
        Stage::new(self.name, self.impairments).record(self.talk)
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn plain(delay_ms: f64) -> Impairment {
    Impairment::delay(delay_ms)
}

fn bulk(bytes: usize) -> Bulk {
    Bulk {
        bytes,
        ..Bulk::default()
    }
}

/// Where segments are lost, overtaken and copied.
pub(crate) fn faults() -> Vec<Scenario> {
    let back = plain(10.0);
    vec![
        Scenario {
            name: "loss_1_percent",
            impairments: [Impairment { loss: 0.01, ..back }, back],
            talk: |stage| bulk(6_000_000).upload(stage),
        },
        Scenario {
            name: "loss_download",
            impairments: [back, Impairment { loss: 0.01, ..back }],
            talk: |stage| bulk(6_000_000).download(stage),
        },
        Scenario {
            name: "loss_both_ways",
            impairments: [Impairment { loss: 0.02, ..back }; 2],
            talk: |stage| bulk(3_000_000).upload(stage),
        },
        Scenario {
            name: "reordering",
            impairments: [
                Impairment {
                    reorder: 0.02,
                    reorder_extra_ms: 3.0,
                    ..back
                },
                back,
            ],
            talk: |stage| bulk(12_000_000).upload(stage),
        },
        Scenario {
            name: "duplication",
            impairments: [
                Impairment {
                    duplicate: 0.02,
                    ..back
                },
                back,
            ],
            talk: |stage| bulk(12_000_000).upload(stage),
        },
        Scenario {
            name: "loss_reorder_duplicate",
            impairments: [
                Impairment {
                    loss: 0.005,
                    duplicate: 0.005,
                    reorder: 0.005,
                    reorder_extra_ms: 3.0,
                    ..back
                },
                back,
            ],
            talk: |stage| bulk(6_000_000).upload(stage),
        },
        Scenario {
            name: "tail_loss",
            impairments: [Impairment { loss: 0.05, ..back }; 2],
            talk: |stage| exchanges(150, 3_000, 6_000, |_| ms(0), |_| ms(0)).run(stage),
        },
        Scenario {
            name: "bottleneck",
            impairments: [
                Impairment {
                    rate_mbit_per_s: 20.0,
                    queue_bytes: 60_000,
                    ..back
                },
                back,
            ],
            talk: |stage| bulk(8_000_000).upload(stage),
        },
    ]
}

fn exchanges(
    count: usize,
    request_bytes: usize,
    response_bytes: usize,
    think: fn(usize) -> Duration,
    idle: fn(usize) -> Duration,
) -> Exchanges {
    Exchanges {
        count,
        request_bytes,
        response_bytes,
        think,
        idle,
    }
}

/// The server thinks and the client idles, for different times.
pub(crate) fn turns() -> Scenario {
    Scenario {
        name: "think_and_idle",
        impairments: [plain(20.0); 2],
        talk: |stage| {
            let think = |number| ms(100 + 20 * (number as u64 % 5));
            let idle = |number| ms(150 + 30 * (number as u64 % 4));
            exchanges(20, 400, 8_000, think, idle).run(stage)
        },
    }
}

/// The reader stops reading for 800 ms, some times.
pub(crate) fn stalls() -> Scenario {
    Scenario {
        name: "zero_window",
        impairments: [plain(1.0); 2],
        talk: |stage| {
            let bulk = Bulk {
                bytes: 1_400_000,
                receive_buffer_bytes: Some(64 << 10),
                stall: Some((300_000, ms(800))),
                ..Bulk::default()
            };
            bulk.upload(stage)
        },
    }
}

/// A small receive buffer on a long path.
pub(crate) fn small_window() -> Scenario {
    Scenario {
        name: "receiver_window",
        impairments: [plain(40.0); 2],
        talk: |stage| {
            let bulk = Bulk {
                bytes: 1_500_000,
                receive_buffer_bytes: Some(32 << 10),
                ..Bulk::default()
            };
            bulk.upload(stage)
        },
    }
}

/// A small send buffer on a long path.
pub(crate) fn small_buffer() -> Scenario {
    Scenario {
        name: "send_buffer",
        impairments: [plain(40.0); 2],
        talk: |stage| {
            let bulk = Bulk {
                bytes: 1_500_000,
                send_buffer_bytes: Some(16 << 10),
                ..Bulk::default()
            };
            bulk.upload(stage)
        },
    }
}

/// The writer has more to say only now and then.
pub(crate) fn pauses() -> Scenario {
    Scenario {
        name: "writer_pauses",
        impairments: [plain(1.0); 2],
        talk: |stage| {
            let bulk = Bulk {
                bytes: 30 * 20_000,
                pause: Some((20_000, ms(150))),
                ..Bulk::default()
            };
            bulk.upload(stage)
        },
    }
}

/// When the link goes out, and for how long.
pub(crate) const OUTAGE_STARTS: [Duration; 3] = [ms(300), ms(2_600), ms(4_900)];
pub(crate) const OUTAGE: Duration = ms(900);

/// The link is out for a while, in the middle of many small requests.
pub(crate) fn outages() -> Scenario {
    Scenario {
        name: "outages",
        impairments: [plain(1.0); 2],
        talk: |stage| {
            let exchanges = exchanges(1_500, 400, 2_000, |_| ms(0), |_| ms(0));
            let interrupt = || stage.interrupt(OUTAGE);
            meanwhile(|| exchanges.run(stage), interrupt, &OUTAGE_STARTS)
        },
    }
}
