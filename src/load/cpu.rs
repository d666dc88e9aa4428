//! CPU time of processes, and pinning.

use std::fs;

/// Pins the calling thread to a CPU, if one is named.
pub(super) fn pin(cpu: Option<usize>) -> Result<(), String> {
    let Some(id) = cpu else { return Ok(()) };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(format!(
            "cannot pin to CPU {id}: does this process own it (`taskset -p $$`)?"
        ))
    }
}

/// CPU time that the calling thread has used, nanoseconds.
pub(super) fn own_thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU seconds of several processes.
pub(super) fn seconds_of_all(pids: &[u32]) -> Result<f64, String> {
    pids.iter().map(|&pid| seconds(pid)).sum()
}

/// Memory that processes have now (resident), MB; 0 for one that has ended.
pub(super) fn memory_mb(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        kb.unwrap_or(0.0) / 1024.0
    };
    pids.iter().map(of).sum()
}

/// CPU seconds that all live threads of a process have used: in nanoseconds from `schedstat`, else in ticks from `stat`.
pub(super) fn seconds(pid: u32) -> Result<f64, String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| format!("no process {pid}: {e}"))?;
    let mut nanos = 0_u64;
    for thread in threads.flatten() {
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
            continue;
        };
        nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    if nanos > 0 { Ok(nanos as f64 / 1e9) } else { ticks(pid) }
}

fn ticks(pid: u32) -> Result<f64, String> {
    /// USER_HZ, which Linux fixes for all programs.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("no process {pid}: {e}"))?;
    // The name, in parentheses, may hold anything: fields are counted after it. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((field(14) + field(15)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn work_shows_as_cpu_time() {
        let (before, before_ticks) = (seconds(std::process::id()).unwrap(), ticks(std::process::id()).unwrap());
        let start = Instant::now();
        while seconds(std::process::id()).unwrap() < before + 0.2 {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no CPU time after 20 s of work"
            );
        }
        assert!(ticks(std::process::id()).unwrap() > before_ticks);
    }

    #[test]
    fn a_process_has_memory() {
        assert!(memory_mb(&[std::process::id()]) > 0.5 && memory_mb(&[u32::MAX]) == 0.0);
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(seconds(u32::MAX).is_err() && ticks(u32::MAX).is_err());
    }
}
