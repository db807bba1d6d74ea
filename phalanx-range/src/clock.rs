//! The one place that reads a clock, and that asks the kernel to keep time.

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of decision logs and of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Priority among real-time threads: above ordinary work, so that delays stay precise on a busy
/// machine; the kernel keeps 5 % of the time for the others.
const REALTIME_PRIORITY: libc::c_int = 5;

/// Asks the kernel for exact timers and prompt wake-ups of the calling thread, as the links'
/// threads have them; without the right to it, things work the same, less precisely.
pub fn prioritize_thread() {
    let priority = libc::sched_param {
        sched_priority: REALTIME_PRIORITY,
    };
    // SAFETY: both calls concern the calling thread only; `priority` outlives its call.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
        libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority);
    }
}
