//! Makes the ring, in the best way that the kernel offers.

use io_uring::{IoUring, Probe, opcode};
use std::io;

use crate::shell::sys;

/// Entries of the submission queue; when it is full, what is in it is submitted.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue. When it overflows the kernel keeps the rest and hands it out later.
const COMPLETIONS: u32 = 4096;
/// Oldest kernel with everything that is used: multishot receives (6.0), buffer rings and cancelling by descriptor
/// (5.19), deferred task work (6.1).
const KERNEL_MIN: (u32, u32) = (6, 1);
/// From here on socket options are set through the ring.
const KERNEL_OPTIONS: (u32, u32) = (6, 7);

/// Makes a ring for the calling thread.
pub(super) fn ring() -> io::Result<IoUring> {
    match sys::kernel_version() {
        Some(version) if version < KERNEL_MIN => {
            return Err(io::Error::other("the completion ring needs Linux 6.1 or later"));
        }
        _ => {}
    }
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS)
        .dontfork()
        .build(SUBMISSIONS);
    let ring = match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(SUBMISSIONS)?,
        result => result?,
    };
    check(&ring)?;
    Ok(ring)
}

fn check(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::RecvMulti::CODE,
        opcode::Send::CODE,
        opcode::AsyncCancel2::CODE,
        opcode::PollAdd::CODE,
    ];
    if !needed.iter().all(|&code| probe.is_supported(code)) {
        return Err(io::Error::other("the kernel's ring lacks an operation that is needed"));
    }
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
        return Err(io::Error::other("the kernel's ring may lose completions"));
    }
    Ok(())
}

/// Whether socket options can be set through the ring.
pub(super) fn sets_options() -> bool {
    sys::kernel_version().is_some_and(|version| version >= KERNEL_OPTIONS)
}
