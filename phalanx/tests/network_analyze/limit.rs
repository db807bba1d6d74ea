//! What holds a writer back, as its kernel tells it each millisecond (`TCP_INFO`).

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;

/// How long each of them was the reason, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// As much was under way as the congestion window allows.
    pub(crate) congestion_ms: f64,
    /// Something was given to the kernel and not sent, for another reason: the peer's window.
    pub(crate) waiting_ms: f64,
    /// All that the kernel was given had been sent, with room in its congestion window.
    pub(crate) buffer_ms: f64,
}

/// Asks until it is ended.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Limits>,
}

impl Watch {
    pub(crate) fn start(stream: &TcpStream) -> Self {
        let stream = stream.try_clone().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut limits = Limits::default();
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                let info = Info::of(&stream);
                let elapsed_ms = last.elapsed().as_secs_f64() * 1e3;
                last = Instant::now();
                let limit = if info.under_way >= info.congestion_window {
                    &mut limits.congestion_ms
                } else if info.not_sent_bytes > 0 {
                    &mut limits.waiting_ms
                } else {
                    &mut limits.buffer_ms
                };
                *limit += elapsed_ms;
            }
            limits
        });
        Self { stop, thread }
    }

    pub(crate) fn end(self) -> Limits {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Info {
    /// In segments.
    under_way: u32,
    congestion_window: u32,
    not_sent_bytes: u32,
}

impl Info {
    /// At these places of `struct tcp_info` (include/uapi/linux/tcp.h).
    fn of(stream: &TcpStream) -> Self {
        let mut words = [0u32; 64];
        let mut length = size_of_val(&words) as libc::socklen_t;
        // SAFETY: there is room for `length` bytes, and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                words.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "TCP_INFO");
        Self {
            under_way: words[24 / 4],
            congestion_window: words[80 / 4],
            not_sent_bytes: words[144 / 4],
        }
    }
}
