//! The arithmetic behind [`crate::limits::MEMORY_BYTES_MAX`], from the sizes of the types.

use std::mem::size_of;

use crate::application::Application;
use crate::attempt::PendingAttempt;
use crate::change::{
    AttemptFailed, Change, ConversationClosed, ConversationOpened, ConversationTranslated,
    ConversationUpdated, FlowOpened, FlowTraced, FlowUpdated, PairMeasured, PairUpdated,
};
use crate::conversation::{Conversation, ConversationKey, Member};
use crate::flow::{ClosedEntry, Flow};
use crate::histogram::BUCKET_COUNT;
use crate::hop::HopId;
use crate::limits::{
    APPLICATION_BYTES_MAX, ATTEMPT_COUNT_MAX, CHANGE_COUNT_MAX, CLOSED_COUNT_MAX,
    COMMAND_COUNT_MAX, COPY_WINDOW, FLOW_COUNT_DEFAULT, HOP_COUNT_MAX, LIVE_GROWN_BYTES_MAX,
    LIVE_STORY_COUNT_MAX, LIVE_TRACE_BYTES_MAX, LIVE_TRACE_COUNT_MAX, LIVE_TRACE_DETAIL_COUNT_MAX,
    LOCAL_ADDRESS_COUNT_MAX, MEMORY_BYTES_MAX, NAME_LENGTH_MAX, NAMES_FILE_ENTRY_COUNT_MAX,
    OWNER_COUNT_MAX, PAIR_COUNT_MAX, REVERSE_NAME_COUNT_MAX, SENDER_VIEW_COUNT_MAX,
    TRACE_BYTES_MAX, TRACE_COUNT_MAX, TRACE_DETAIL_COUNT_MAX, TRACE_GROWN_BYTES_MAX,
    TRACE_WATCHED_PER_DETAIL, UNSEEN_COUNT_MAX,
};
use crate::name::{Service, Socket};
use crate::pair::{DISTRIBUTION_COUNT, Pair, PairKey};
use crate::segment::run_count_max;
use crate::side::{Side, Sides};
use crate::table::Slot;
use crate::time::Monotonic;
use crate::timer::Timer;
use crate::trace::part;
use crate::{Command, Hop};

/// A vector that grows by doubling holds up to twice what is in it.
const GROWTH: usize = 2;

/// A hash table of slots: a control byte each, seven eighths full, doubling.
const INDEX_ENTRY: usize = (size_of::<Slot>() + 1) * GROWTH * 8 / 7;

/// Entries of a B-tree fill their nodes to half at least; pointers take less than a fifth.
const TREE: usize = 5;
const TREE_OF: usize = 2;

const fn tree(count: usize, entry: usize) -> usize {
    count * entry * TREE / TREE_OF
}

const fn table<T>(count: usize) -> usize {
    count.next_power_of_two() * size_of::<Option<T>>() + table_index(count)
}

const fn table_index(count: usize) -> usize {
    count * (INDEX_ENTRY + GROWTH * size_of::<Slot>())
}

/// What `application` holds of a flow without payload: a DNS flow is known by its port, and
/// segments wait as long as bytes are missing.
const APPLICATION: usize = 2 << 10;

/// A name held by reference: its counters, its text.
const NAME: usize = 16 + 40;

/// Flows that are traced live, and their stories.
fn traces() -> usize {
    let histogram = GROWTH * BUCKET_COUNT * size_of::<u32>();
    let story = size_of::<FlowTraced>() + 5 * histogram + APPLICATION;
    println!("the story of a traced flow: {story} bytes");
    let counts = [LIVE_TRACE_COUNT_MAX, LIVE_TRACE_DETAIL_COUNT_MAX];
    tracer(counts, LIVE_GROWN_BYTES_MAX) + LIVE_STORY_COUNT_MAX * story
}

/// What a tracer takes of so many flows, of which so many are in detail.
fn tracer([count, detail_count]: [usize; 2], grown_bytes_max: usize) -> usize {
    let unseen = GROWTH * UNSEEN_COUNT_MAX * part::UNSEEN;
    let detail = part::TCP + 2 * (COPY_WINDOW * part::PRINT + unseen);
    // What one packet of the worst flow adds before others make room, with round trips of both
    // sides and think, idle and transfer times.
    let side = run_count_max(false) * part::RUN + SENDER_VIEW_COUNT_MAX * part::VIEW;
    let histogram = GROWTH * BUCKET_COUNT * size_of::<u32>();
    let worst = 2 * GROWTH * side + 5 * histogram + APPLICATION_BYTES_MAX;
    let index = table_index(count);
    println!("one traced flow: {detail} bytes, of which the worst grows by {worst}");
    count.next_multiple_of(1 << 10) * part::ENTRY
        + count * part::REFUSAL
        + index
        + detail_count * (detail + TRACE_WATCHED_PER_DETAIL * GROWTH * part::WATCHED)
        + grown_bytes_max
        + worst
}

#[test]
fn traces_of_a_file_are_within_their_bound() {
    let counts = [TRACE_COUNT_MAX, TRACE_DETAIL_COUNT_MAX];
    let bytes = tracer(counts, TRACE_GROWN_BYTES_MAX);
    println!("traces of a file: {} KiB", bytes >> 10);
    assert!(bytes <= TRACE_BYTES_MAX, "{bytes} bytes");
    assert!(bytes > TRACE_BYTES_MAX * 3 / 4, "{bytes} bytes");
}

#[test]
fn memory_is_within_its_bound() {
    let flows = table::<Flow>(FLOW_COUNT_DEFAULT)
        + tree(FLOW_COUNT_DEFAULT, size_of::<(Monotonic, Slot)>());
    let service = 16 + size_of::<Service>() + NAME;
    let conversations = table::<Conversation>(FLOW_COUNT_DEFAULT)
        + FLOW_COUNT_DEFAULT * (4 * (size_of::<Member>() + size_of::<HopId>()) + 2 * service)
        // By their initial sequence numbers: a control byte each, seven eighths full, doubling.
        + FLOW_COUNT_DEFAULT * (size_of::<(Sides<u32>, Slot)>() + 1) * GROWTH * 8 / 7
        // By what NAT calls them: no more than there are flows beside the first of each.
        + FLOW_COUNT_DEFAULT * (size_of::<(ConversationKey, Slot)>() + 1) * GROWTH * 8 / 7
        + FLOW_COUNT_DEFAULT * size_of::<ConversationKey>() * GROWTH;
    let closed = table::<ClosedEntry>(CLOSED_COUNT_MAX) + CLOSED_COUNT_MAX * 8;
    let histograms = DISTRIBUTION_COUNT * 2 * BUCKET_COUNT * size_of::<u32>();
    let pair = size_of::<Pair>() + size_of::<PairKey>() + 2 * NAME_LENGTH_MAX + 100;
    let pairs = PAIR_COUNT_MAX * histograms + tree(PAIR_COUNT_MAX, pair);
    let change = [
        size_of::<FlowOpened>(),
        size_of::<FlowUpdated>(),
        size_of::<ConversationOpened>(),
        size_of::<ConversationUpdated>(),
        size_of::<ConversationClosed>(),
        size_of::<ConversationTranslated>(),
        size_of::<PairUpdated>(),
        size_of::<PairMeasured>(),
        size_of::<AttemptFailed>(),
    ];
    let change = change.into_iter().max().unwrap() + GROWTH * size_of::<Change>();
    let outbox = CHANGE_COUNT_MAX * change + COMMAND_COUNT_MAX * GROWTH * size_of::<Command>();
    let attempts = table::<PendingAttempt>(ATTEMPT_COUNT_MAX)
        + tree(ATTEMPT_COUNT_MAX, size_of::<(Monotonic, Timer)>());
    let owner = size_of::<Socket>() + 32 + 8;
    let names = tree(OWNER_COUNT_MAX, 2 * owner)
        + OWNER_COUNT_MAX * service
        + tree(REVERSE_NAME_COUNT_MAX, 80)
        + REVERSE_NAME_COUNT_MAX * service
        + tree(LOCAL_ADDRESS_COUNT_MAX, 32)
        + tree(NAMES_FILE_ENTRY_COUNT_MAX, 64)
        + NAMES_FILE_ENTRY_COUNT_MAX * (service + 2 * NAME);
    let hops = tree(HOP_COUNT_MAX, size_of::<Hop>() + 3 * NAME);
    let parts = [
        ("flows", flows),
        ("conversations", conversations),
        ("closed flows", closed),
        ("service pairs", pairs),
        ("changes and commands", outbox),
        ("attempts", attempts),
        ("names", names),
        ("hops", hops),
        ("traced flows", traces()),
    ];
    let mut total = 0;
    for (name, bytes) in parts {
        println!("{name}: {} KiB", bytes >> 10);
        total += bytes;
    }
    println!(
        "all: {} KiB, one flow: {} bytes",
        total >> 10,
        size_of::<Flow>()
    );
    println!("one conversation: {} bytes", size_of::<Conversation>());
    let traces = traces();
    assert!(traces <= LIVE_TRACE_BYTES_MAX, "{traces} bytes");
    assert!(traces > LIVE_TRACE_BYTES_MAX / 2, "{traces} bytes");
    assert!(total <= MEMORY_BYTES_MAX, "{total} bytes");
    assert!(
        total > MEMORY_BYTES_MAX / 2,
        "the stated bound is far from the sum: {total} bytes"
    );
}

#[test]
fn an_application_without_payload_is_within_its_bound() {
    for (protocol, port) in [(6, 53), (6, 8_080), (17, 53), (17, 443)] {
        let mut application = Application::new(protocol, 40_000, port);
        for number in 1..2_000_u64 {
            let side = [Side::Client, Side::Server][number as usize / 20 % 2];
            let (offset, time_ns) = (number * 3_000, number as i64 * 1_000_000);
            match protocol {
                6 => application.stream(side, offset, &[], 1_448, time_ns, number),
                _ => application.datagram(side, &[], 1_200, time_ns, number),
            }
            let boxed = application.size() - size_of::<Application>();
            assert!(boxed <= APPLICATION, "{boxed} bytes");
        }
    }
}
