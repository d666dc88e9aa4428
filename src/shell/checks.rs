//! What the machine must allow before anything starts; every refusal says what to do.

use super::accept::PEER_LINKS_MAX;
use super::sys;
use crate::config::Config;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// Oldest kernel on which the runtime works.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Locked memory below which the runtime refuses to start, bytes.
const MEMLOCK_MIN_BYTES: u64 = 512 * 1024;
/// Locked memory that an executor takes at most with the rings and buffers it is given here, bytes.
const MEMLOCK_SHARD_BYTES: u64 = 512 * 1024;
/// Descriptors of the process beside the links: log, listeners, admin, metrics.
const FDS_PROCESS: u64 = 128;
/// Descriptors of an executor: rings, event counters, doorbell.
const FDS_SHARD: u64 = 24;

/// Whether the kernel has what the runtime needs.
pub(crate) fn kernel() -> Result<(), String> {
    if let Some((major, minor)) = sys::kernel_version()
        && (major, minor) < KERNEL_MIN
    {
        let (need_major, need_minor) = KERNEL_MIN;
        return Err(format!(
            "Linux {major}.{minor} is too old: {need_major}.{need_minor} or later is needed"
        ));
    }
    sys::try_ring().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, and \
            allow the system calls io_uring_setup, io_uring_enter and io_uring_register in the container's or unit's \
            filter"
            .to_owned(),
        Some(libc::ENOSYS) => "this kernel has no io_uring (CONFIG_IO_URING)".to_owned(),
        _ => format!("io_uring cannot be used: {error}"),
    })
}

/// What a node must be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// Links of components and peers.
    pub links: u32,
    /// Memory that it may lock, bytes.
    pub memlock_bytes: u64,
    /// Files that it may have open.
    pub files: u64,
}

/// What a node of this configuration with so many shards must be allowed.
pub fn needed(config: &Config, shards: u16) -> Needed {
    let peers = config.mesh.as_ref().map_or(0, |_| PEER_LINKS_MAX);
    let links = config.io.max_fds.saturating_add(peers);
    let shards = u64::from(shards);
    Needed {
        links,
        memlock_bytes: MEMLOCK_MIN_BYTES + MEMLOCK_SHARD_BYTES * shards,
        files: u64::from(links) + FDS_PROCESS + FDS_SHARD * shards,
    }
}

/// Raises the limits to what `shards` shards need. Warnings say what is short.
pub(crate) fn limits(shards: u16, needed: Needed) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let memlock = needed.memlock_bytes;
    let allowed = sys::raise_limit(libc::RLIMIT_MEMLOCK, memlock);
    if allowed < MEMLOCK_MIN_BYTES {
        return Err(format!(
            "only {} KiB of memory may be locked, {} KiB are needed: set LimitMEMLOCK={memlock} in the unit, or ulimit \
             -l {} in the shell",
            allowed / 1024,
            MEMLOCK_MIN_BYTES / 1024,
            memlock / 1024
        ));
    }
    if allowed < memlock {
        let (allowed, wanted) = (allowed / 1024, memlock / 1024);
        warnings.push(format!(
            "{allowed} KiB of memory may be locked; {shards} shards may need {wanted} (LimitMEMLOCK)"
        ));
    }
    let (fds, links) = (needed.files, needed.links);
    let allowed = sys::raise_limit(libc::RLIMIT_NOFILE, fds);
    if allowed < fds {
        warnings.push(format!(
            "{allowed} files may be open, {links} links (<max_fds> and peers) need {fds}: set LimitNOFILE={fds} in the unit, or ulimit -n"
        ));
    }
    Ok(warnings)
}

/// Binds all addresses that `section` names, or says which one cannot be had.
pub(crate) fn bind(addresses: &[SocketAddr], section: &str) -> Result<Vec<TcpListener>, String> {
    if addresses.is_empty() {
        return Err(format!("no address to listen on ({section}<ip>)"));
    }
    let bound = addresses.iter().map(|address| bind_one(address, addresses, section));
    bound.collect()
}

fn bind_one(address: &SocketAddr, all: &[SocketAddr], section: &str) -> Result<TcpListener, String> {
    // An IPv6 wildcard takes the IPv4 port too, unless somebody wants that one.
    let only_v6 = all
        .iter()
        .any(|other| other.is_ipv4() && other.port() == address.port());
    listen_in_time(address, only_v6).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!(
                "cannot listen on {address}: the port is in use ({section}); is another router running? \
                 (ss -ltnp sport = :{port})"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {address}: this machine does not have that address ({section}<ip>)")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// The kernel may hold the sockets of a process that just ended a little longer: a ring is taken down behind it.
fn listen_in_time(address: &SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let start = Instant::now();
    loop {
        match sys::listen(address, only_v6) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < IN_USE_PATIENCE => {
                std::thread::sleep(IN_USE_PAUSE);
            }
            result => return result,
        }
    }
}

/// How long a port in use is waited for, and how often it is tried.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&[address], "<mesh><local>").unwrap_err();
        assert!(
            error.contains(&address.to_string()) && error.contains("in use") && error.contains("(<mesh><local>)"),
            "{error}"
        );
    }

    #[test]
    fn both_wildcards_share_a_port() {
        let v6 = bind(&["[::]:0".parse().unwrap()], "<local>").unwrap();
        let port = v6[0].local_addr().unwrap().port();
        drop(v6);
        let both = [
            SocketAddr::from(([0, 0, 0, 0], port)),
            SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)),
        ];
        assert_eq!(bind(&both, "<local>").unwrap().len(), 2);
    }
}
