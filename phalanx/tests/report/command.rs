//! `phalanx analyze` and `phalanx packets` as they are run: what they do with several files, with
//! interrupts and with names of an enemy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::Value;

use crate::builder::{self, MICROSECONDS, Order};

/// How long a command may take: only a failure waits for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder for the files of one test, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("phalanx-command-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn spawn(arguments: &[&str], input: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a command came to, which is killed where it does not end.
fn finish(child: Child) -> Output {
    let pid = pid(&child);
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        sender.send(()).ok();
        output
    });
    if receiver.recv_timeout(PATIENCE).is_err() {
        kill(pid, Signal::SIGKILL).ok();
    }
    thread.join().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn phalanx(arguments: &[&str]) -> Output {
    finish(spawn(arguments, Stdio::null()))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ids(output: &Output) -> Vec<String> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let conversations = report["conversations"].as_array().unwrap();
    let id = |it: &Value| it["id"].as_str().unwrap().to_owned();
    conversations.iter().map(id).collect()
}

/// A SYN in IPv4 in Ethernet.
fn syn() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0]);
    frame.extend([0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// The same from another port.
fn syn_from(port: u16) -> Vec<u8> {
    let mut frame = syn();
    frame[34..36].copy_from_slice(&(10_000 + port).to_be_bytes());
    frame
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    pcap_of(1, frames)
}

fn pcap_of(link_type: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let order = Order::Little;
    let mut file = builder::pcap_header(order, MICROSECONDS, 65_535, link_type);
    for frame in frames {
        let length = frame.len() as u32;
        file.extend(builder::pcap_record(
            order,
            false,
            (1_700_000_000, 0),
            length,
            frame,
        ));
    }
    file
}

/// Waits until a command has its own answer to an interrupt.
fn await_handler(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    let bit = 1_u64 << (Signal::SIGINT as u32 - 1);
    for _ in 0..PATIENCE.as_millis() {
        let text = fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        if u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & bit != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody waits for an interrupt");
}

#[test]
fn follow_takes_one_file() {
    let scratch = Scratch::new("follow");
    let one = scratch.file("one.pcap", &pcap(&[syn()]));
    let two = format!("b={}", scratch.file("two.pcap", &pcap(&[syn()])));
    let output = phalanx(&["analyze", "--follow", &one, "--hop", &two]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(errors(&output).contains("--follow takes one file"));
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let cases = [
        (["analyze", "--filter", "tcp prt 5"], "at byte 4"),
        (["analyze", "--conversation", "x"], "like tcp-17"),
        (["packets", "--conversation", "x"], "like tcp-17"),
        (["analyze", "--since", "soon"], "seconds since 1970"),
        (["analyze", "--hop", "x"], "want NAME=FILE"),
    ];
    for (arguments, told) in cases {
        let output = phalanx(&[&arguments[..], &["x.pcap"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(errors(&output).contains(told), "{arguments:?}: {output:?}");
    }
}

#[test]
fn an_interrupt_ends_what_follows_with_its_report() {
    // A pipe holds 64 KiB: the first frame has been read when all the others are written.
    let mut frames = vec![syn()];
    frames.resize(4_000, vec![0; 60]);
    let file = pcap(&frames);
    for format in ["text", "json", "html"] {
        let arguments = ["analyze", "--follow", "--format", format, "-"];
        let mut child = spawn(&arguments, Stdio::piped());
        let mut input = child.stdin.take().unwrap();
        input.write_all(&file).unwrap();
        await_handler(&child);
        kill(pid(&child), Signal::SIGINT).unwrap();
        let output = finish(child);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{format}: {}",
            errors(&output)
        );
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains("tcp-1"), "{format}: {report}");
        drop(input);
    }
}

#[test]
fn a_second_interrupt_ends_what_writes_its_report() {
    // As in the test above: all of them have been read when the last is written.
    let mut frames: Vec<Vec<u8>> = (0..400_u16).map(syn_from).collect();
    frames.resize(4_000, vec![0; 60]);
    let arguments = ["analyze", "--follow", "--format", "json", "-"];
    let mut child = spawn(&arguments, Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    input.write_all(&pcap(&frames)).unwrap();
    await_handler(&child);
    kill(pid(&child), Signal::SIGINT).unwrap();
    // A pipe holds less than the report: once it has begun, it waits to be read.
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0]).unwrap();
    kill(pid(&child), Signal::SIGINT).unwrap();
    let ended = finish(child);
    assert_eq!(ended.status.code(), Some(130), "{}", errors(&ended));
    drop((input, output));
}

#[test]
fn an_interrupt_ends_what_waits_for_the_writer_of_a_pipe() {
    let scratch = Scratch::new("fifo");
    let path = scratch.path("fifo");
    nix::unistd::mkfifo(Path::new(&path), Mode::S_IRWXU).unwrap();
    for command in ["analyze", "packets"] {
        let child = spawn(&[command, "--follow", &path], Stdio::null());
        await_handler(&child);
        kill(pid(&child), Signal::SIGINT).unwrap();
        let output = finish(child);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        assert!(errors(&output).contains("is empty"));
    }
}

#[test]
fn what_can_be_read_only_once_is_drawn() {
    let scratch = Scratch::new("once");
    let path = scratch.path("fifo.pcap");
    nix::unistd::mkfifo(Path::new(&path), Mode::S_IRWXU).unwrap();
    let child = spawn(&["analyze", "--format", "html", &path], Stdio::null());
    fs::write(&path, pcap(&[syn()])).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("tcp-1"));
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_report_of_the_others() {
    let scratch = Scratch::new("unreadable");
    let one = scratch.file("one.pcap", &pcap(&[syn()]));
    let missing = scratch.path("missing.pcap");
    let text = scratch.file("text.pcap", b"this is no capture at all, is it");
    // From another port: the same SYN at two hops is one conversation.
    let cut = pcap(&[syn_from(1), syn_from(1)]);
    let cut = scratch.file("cut.pcap", &cut[..cut.len() - 1]);
    let output = phalanx(&["analyze", "--format", "json", &missing, &one, &text, &cut]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert_eq!(ids(&output), ["cut/tcp-1", "one/tcp-1"]);
    for name in [&missing, &text, &cut] {
        assert!(
            errors(&output).contains(name.as_str()),
            "{}",
            errors(&output)
        );
    }
    let output = phalanx(&["analyze", &missing, &text]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
    assert!(errors(&output).contains(&missing) && errors(&output).contains(&text));
}

#[test]
fn a_conversation_goes_by_both_its_names() {
    let scratch = Scratch::new("names");
    let one = scratch.file("one.pcap", &pcap(&[syn()]));
    let two = scratch.file("two.pcap", &pcap(&[vec![0; 60], syn()]));
    let of = |wanted, files: &[&str]| {
        let options = ["analyze", "--format", "json", "--conversation", wanted];
        phalanx(&[&options, files].concat())
    };
    for wanted in ["tcp-1", "one/tcp-1"] {
        assert_eq!(ids(&of(wanted, &[&one])), ["tcp-1"]);
        assert_eq!(ids(&of(wanted, &[&one, &two])), ["one/tcp-1"]);
    }
    assert_eq!(ids(&of("tcp-2", &[&one, &two])), ["two/tcp-2"]);
    for wanted in ["two/tcp-1", "udp-1", "tcp-7"] {
        let output = of(wanted, &[&one]);
        assert_eq!(output.status.code(), Some(1), "{wanted}");
        assert!(errors(&output).contains("there is no conversation"));
    }
}

#[test]
fn no_two_hops_have_one_name() {
    let scratch = Scratch::new("hops");
    let named = scratch.file("a#3.pcap", &pcap(&[syn()]));
    let one = scratch.file("a.pcap", &pcap(&[syn()]));
    let output = phalanx(&["analyze", "--format", "json", &named, &one, &one, &one]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let hops: Vec<&str> = (0..4)
        .map(|hop| report["hops"][hop]["id"].as_str().unwrap())
        .collect();
    assert_eq!(hops, ["a#3", "a", "a#4", "a#5"]);
}

#[test]
fn packets_of_a_conversation_go_by_both_its_names() {
    let order = Order::Little;
    let mut file = builder::section(order, &[]);
    file.extend(builder::interface(order, 1, 0, &[]));
    file.extend(builder::interface(order, 1, 0, &[]));
    file.extend(builder::enhanced(order, 0, 1, 54, &syn(), &[]));
    file.extend(builder::enhanced(order, 1, 1, 54, &syn(), &[]));
    let scratch = Scratch::new("packets");
    let path = scratch.file("one.pcapng", &file);
    for wanted in ["tcp-2", "one/tcp-2", "one:1/tcp-2"] {
        let output = phalanx(&["packets", "--conversation", wanted, &path]);
        assert_eq!(output.status.code(), Some(0), "{wanted}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let is_it = text.lines().count() == 1 && text.contains("tcp-2");
        assert!(is_it, "{wanted}: {text}");
    }
    for wanted in ["one:0/tcp-2", "two/tcp-2", "nope-2", "one/udp-2", "tcp-7"] {
        let output = phalanx(&["packets", "--conversation", wanted, &path]);
        assert_eq!(output.status.code(), Some(1), "{wanted}: {output:?}");
        assert!(output.stdout.is_empty(), "{wanted}: {output:?}");
        assert!(errors(&output).contains("there is no conversation"));
    }
}

#[test]
fn names_of_files_do_not_reach_the_terminal_as_they_are() {
    let scratch = Scratch::new("hostile");
    let cut = pcap(&[syn()]);
    let cut = scratch.file("cut\x1b[31m\n.pcap", &cut[..cut.len() - 1]);
    let missing = scratch.path("missing\x1b]0;x\x07");
    let hop = format!("x\x1b={missing}");
    for arguments in [
        &["analyze", &*cut][..],
        &["packets", &cut],
        &["analyze", &missing],
        &["analyze", &missing, &cut],
        &["packets", &missing],
        &["analyze", "--hop", &hop],
        &["analyze", "-o", &missing, "--conversation", "\x1b-1", &cut],
    ] {
        let error = errors(&phalanx(arguments));
        let is_harmful = |letter: char| letter.is_control() && letter != '\n';
        assert!(!error.contains(is_harmful), "{error:?}");
        assert_eq!(
            error
                .lines()
                .filter(|it| !it.starts_with("phalanx: "))
                .count(),
            0,
            "{error}"
        );
    }
}

#[test]
fn each_interface_tells_what_it_lost_and_names_its_conversations() {
    let order = Order::Little;
    let count = |number| builder::option(order, number, &order.long(3));
    let mut file = builder::section(order, &[]);
    file.extend(builder::interface(order, 1, 0, &[]));
    file.extend(builder::interface(order, 1, 0, &[]));
    file.extend(builder::enhanced(order, 0, 1, 54, &syn(), &count(4)));
    file.extend(builder::enhanced(order, 1, 1, 54, &syn(), &[]));
    file.extend(builder::enhanced(order, 0, 2, 54, &syn(), &count(4)));
    let statistics = [
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &count(5),
        &count(7),
        &count(4),
    ]
    .concat();
    file.extend(builder::block(order, 5, &statistics));
    let scratch = Scratch::new("lost");
    let path = scratch.file("lost.pcapng", &file);
    let output = phalanx(&["analyze", "--format", "json", &path]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lost = |hop: usize| report["hops"][hop]["notes"]["lost_by_capture"].as_u64();
    assert_eq!((lost(0), lost(1)), (Some(6), Some(6)), "{report}");
    let wanted = ["--conversation", "lost:1/tcp-2"];
    let output = phalanx(&[&["analyze", "--format", "json", &path], &wanted[..]].concat());
    assert_eq!(ids(&output), ["tcp-2"]);
}

/// The SYN in PPP.
fn syn_in_ppp() -> Vec<u8> {
    [&[0xff, 3, 0, 0x21], &syn()[14..]].concat()
}

#[test]
fn a_filter_goes_by_the_link_layer() {
    let scratch = Scratch::new("ppp");
    let ppp = scratch.file("ppp.pcap", &pcap_of(9, &[syn_in_ppp()]));
    let of = |filter| phalanx(&["analyze", "--format", "json", "--filter", filter, &ppp]);
    assert_eq!(ids(&of("tcp dst port 80")), ["tcp-1"]);
    assert!(ids(&of("udp")).is_empty());
}

#[test]
fn what_a_filter_cannot_be_applied_to_is_told() {
    let order = Order::Little;
    let mut file = builder::section(order, &[]);
    file.extend(builder::interface(order, 1, 0, &[]));
    file.extend(builder::interface(order, 127, 0, &[]));
    file.extend(builder::enhanced(order, 0, 1, 54, &syn(), &[]));
    file.extend(builder::enhanced(order, 1, 1, 54, &syn(), &[]));
    let scratch = Scratch::new("filter");
    let path = scratch.file("both.pcapng", &file);
    let output = phalanx(&["analyze", "--format", "json", "--filter", "tcp", &path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = "the filter cannot be applied to link type IEEE802_11_RADIOTAP: 1 frame left out";
    assert!(errors(&output).contains(told), "{output:?}");
    assert_eq!(ids(&output), ["tcp-1"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["hops"][1]["packets"], 0, "{report}");
    assert_eq!(report["hops"][1]["notes"]["filter_not_applicable"], 1);
    let output = phalanx(&["packets", "--filter", "tcp", &path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(errors(&output).contains(told), "{output:?}");
}

#[test]
fn a_filter_that_no_capture_can_take_is_wrong_usage() {
    let scratch = Scratch::new("refused");
    let radio = scratch.file("radio.pcap", &pcap_of(127, &[syn()]));
    let raw = scratch.file("raw.pcap", &pcap_of(101, &[syn()[14..].to_vec()]));
    for (command, filter, path, told) in [
        ("analyze", "tcp", &radio, "docs/filter.md"),
        ("packets", "tcp", &radio, "docs/filter.md"),
        ("analyze", "vlan", &raw, "needs Ethernet"),
        ("packets", "vlan", &raw, "needs Ethernet"),
    ] {
        let output = phalanx(&[command, "--filter", filter, path]);
        assert_eq!(output.status.code(), Some(2), "{command}: {output:?}");
        assert!(output.stdout.is_empty(), "{command}: {output:?}");
        assert!(errors(&output).contains(told), "{command}: {output:?}");
        let output = phalanx(&[command, "--filter", "", path]);
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
    }
    let one = scratch.file("one.pcap", &pcap(&[syn()]));
    let output = phalanx(&["analyze", "--filter", "vlan or tcp", &raw, &one]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(errors(&output).contains("1 frame left out"), "{output:?}");
}

#[test]
fn a_report_is_not_written_over_its_capture() {
    let scratch = Scratch::new("keep");
    let capture = pcap(&[syn()]);
    let keep = scratch.file("keep.pcap", &capture);
    let other = scratch.file("other.pcap", &capture);
    let link = scratch.path("link");
    std::os::unix::fs::symlink(&keep, &link).unwrap();
    let hard = scratch.path("hard");
    fs::hard_link(&keep, &hard).unwrap();
    let hop = format!("edge={keep}");
    for arguments in [
        &["-o", &*keep, &*keep][..],
        &["-o", &link, &other, &keep],
        &["-o", &hard, &other, "--hop", &hop],
    ] {
        let output = phalanx(&[&["analyze"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(errors(&output).contains("is a capture to be read"));
    }
    let input = fs::File::open(&keep).unwrap().into();
    let output = finish(spawn(&["analyze", "-o", &keep, "-"], input));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(fs::read(&keep).unwrap(), capture);
    let output = phalanx(&["analyze", "-o", &other, &keep]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(fs::read_to_string(&other).unwrap().contains("tcp-1"));
}

#[test]
fn a_full_standard_error_costs_its_words_only() {
    let scratch = Scratch::new("full");
    let cut = pcap(&[syn(), syn()]);
    let cut = scratch.file("cut.pcap", &cut[..cut.len() - 1]);
    let missing = scratch.path("missing.pcap");
    let of = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        Command::new(env!("CARGO_BIN_EXE_phalanx"))
            .args(arguments)
            .stderr(full)
            .output()
            .unwrap()
    };
    for (arguments, code) in [
        (&["analyze", &*cut][..], 3),
        (&["packets", &cut], 3),
        (&["analyze", &cut, &missing], 1),
    ] {
        let output = of(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("tcp-1"), "{arguments:?}: {text}");
    }
    assert_eq!(of(&["packets", &missing]).status.code(), Some(1));
}

#[test]
fn what_the_system_says_is_told_once() {
    let scratch = Scratch::new("once-told");
    let missing = scratch.path("missing.pcap");
    let folder = scratch.0.display().to_string();
    for command in ["analyze", "packets"] {
        let error = errors(&phalanx(&[command, &missing]));
        let told = format!("phalanx: read {missing}: No such file or directory (os error 2)\n");
        assert_eq!(error, told);
        let error = errors(&phalanx(&[command, &folder]));
        assert_eq!(error.matches("os error 21").count(), 1, "{error}");
    }
}

#[test]
fn a_time_may_lie_before_the_epoch() {
    let scratch = Scratch::new("epoch");
    let one = scratch.file("one.pcap", &pcap(&[syn()]));
    for command in ["analyze", "packets"] {
        for (option, time, is_in) in [
            ("--since", "-5", true),
            ("--since", "-1.5", true),
            ("--until", "-5", false),
        ] {
            let output = phalanx(&[command, option, time, &one]);
            assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.contains("tcp-1"), is_in, "{option} {time}: {text}");
        }
    }
}

/// A datagram in IPv4 in Ethernet, of a flow of its own.
fn datagram(flow: u32) -> Vec<u8> {
    let mut frame = syn();
    let [_, rest @ ..] = flow.to_be_bytes();
    frame[23] = 17;
    frame[27..30].copy_from_slice(&rest);
    frame[38..40].copy_from_slice(&[0, 20]);
    frame
}

#[test]
fn flows_that_make_room_are_told_of() {
    // More than are followed at once, whatever the number of threads.
    let frames: Vec<Vec<u8>> = (0..66_000).map(datagram).collect();
    let scratch = Scratch::new("evicted");
    let path = scratch.file("many.pcap", &pcap(&frames));
    let output = phalanx(&["analyze", "--format", "json", "--top", "1", &path]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let evicted = report["totals"]["evicted_flows"].as_u64().unwrap();
    assert!(evicted >= 66_000 - 65_536, "{report}");
    let told = format!("{evicted} flows were ended early to make room");
    assert!(errors(&output).contains(&told), "{}", errors(&output));
    let output = phalanx(&["packets", "--conversation", "udp-1", &path]);
    let told = "464 flows were ended early to make room";
    assert!(errors(&output).contains(told), "{}", errors(&output));
}

/// A segment without payload between the ends of [`syn`], with its IP id.
fn segment(is_answer: bool, flags: u8, numbers: (u32, u32), ip_id: u16) -> Vec<u8> {
    let mut frame = syn();
    frame[18..20].copy_from_slice(&ip_id.to_be_bytes());
    if is_answer {
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        frame[26..34].copy_from_slice(&[server, client].concat());
        frame[34..38].copy_from_slice(&[0, 80, 0x9c, 0x40]);
    }
    frame[38..42].copy_from_slice(&numbers.0.to_be_bytes());
    frame[42..46].copy_from_slice(&numbers.1.to_be_bytes());
    frame[47] = flags;
    frame
}

/// A handshake and a last FIN, each at a time in microseconds; the FIN may be missing.
fn handshake(times: &[u32]) -> Vec<u8> {
    let order = Order::Little;
    let frames = [
        segment(false, 2, (1_000, 0), 1),
        segment(true, 18, (9_000, 1_001), 2),
        segment(false, 16, (1_001, 9_001), 3),
        segment(false, 17, (1_001, 9_001), 4),
    ];
    let mut file = builder::pcap_header(order, MICROSECONDS, 65_535, 1);
    for (frame, time) in frames.iter().zip(times) {
        let at = (1_700_000_000 + time / 1_000_000, time % 1_000_000);
        let length = frame.len() as u32;
        file.extend(builder::pcap_record(order, false, at, length, frame));
    }
    file
}

#[test]
fn what_two_hops_saw_is_told_in_each_form() {
    let scratch = Scratch::new("ladder");
    let client = scratch.file("client.pcap", &handshake(&[0, 20_000, 20_100, 30_000]));
    // Its clock is five seconds ahead; the FIN came, and the hop's capture ends before it.
    let later = |time: u32| 5_000_000 + time;
    let times = [later(10_000), later(10_050), later(30_100)];
    let server = scratch.file("server.pcap", &handshake(&times));
    let json = phalanx(&["analyze", "--format", "json", "--ladder", &client, &server]);
    assert_eq!(json.status.code(), Some(0), "{}", errors(&json));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let conversation = &report["conversations"][0];
    assert_eq!(
        conversation["path"],
        serde_json::json!(["client", "server"])
    );
    let rungs = conversation["ladder"]["rungs"].as_array().unwrap();
    assert_eq!(rungs.len(), 4);
    let crossings = rungs[0]["crossings"].as_array().unwrap();
    assert_eq!(crossings[0]["at_ms"], 0.0);
    // The clocks are compared by what went both ways, to half a round trip.
    let (at, error) = (
        crossings[1]["at_ms"].as_f64(),
        crossings[1]["error_ms"].as_f64(),
    );
    assert!(
        (at.unwrap() - 10.0).abs() <= error.unwrap(),
        "{crossings:?}"
    );
    assert!(error.unwrap() <= 10.0, "{crossings:?}");
    assert_eq!(crossings[1]["time"], "2023-11-14T22:13:25.010000000Z");
    let text = phalanx(&["analyze", "--ladder", &client, &server]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("path        client → server, and back"),
        "{text}"
    );
    assert!(
        text.contains("├───────────────▶  SYN seq 0 len 1 [1, 1]"),
        "{text}"
    );
    let without = phalanx(&["analyze", &client, &server]);
    assert!(!String::from_utf8(without.stdout).unwrap().contains("▶"));
    let wanted = ["--conversation", "client/tcp-1", "--format", "svg"];
    let svg = phalanx(&[&["analyze"], &wanted[..], &[&client, &server]].concat());
    let svg = String::from_utf8(svg.stdout).unwrap();
    assert!(
        svg.starts_with("<svg xmlns=") && svg.contains("client/tcp-1"),
        "{svg}"
    );
    assert_eq!(svg.matches("class=\"life\"").count(), 2);
    let alone = phalanx(&["analyze", "--format", "svg", &client]);
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    assert!(errors(&alone).contains("seen at two hops"), "{alone:?}");
}
