//! The kernel's calls that neither the standard library nor the runtime offers, each wrapped once.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// Turns the kernel's -1 into the error it stands for.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`checked`], for calls that count bytes.
fn counted(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Where the owner of a doorbell sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sleep {
    /// It does not.
    Awake,
    /// In its driver.
    Driver,
    /// In its executor.
    Executor,
}

/// Wakes a shard that sleeps, and costs one load when it does not.
///
/// The sleeper announces its sleep and then looks at its queues once more; the sender fills a queue and then looks at
/// the announcement. A full fence between the two steps on both sides makes sure that one of them sees the other.
///
/// There are two descriptors, one for each place to sleep at: the ring driver polls the inner one in its ring, and the
/// same ring rings the outer one. Were they one, each signal would cause another.
pub(crate) struct Doorbell {
    inner: OwnedFd,
    outer: OwnedFd,
    sleep: AtomicU8,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            inner: eventfd()?,
            outer: eventfd()?,
            sleep: AtomicU8::new(Sleep::Awake as u8),
        })
    }

    /// To be called after something was put into a queue of the sleeper.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        let awake = Sleep::Awake as u8;
        if self.sleep.load(Ordering::Relaxed) == awake {
            return;
        }
        let fd = match self.sleep.swap(awake, Ordering::Relaxed) {
            place if place == Sleep::Driver as u8 => &self.inner,
            place if place == Sleep::Executor as u8 => &self.outer,
            _ => return,
        };
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A full counter (never) would mean that it rings already.
        unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// The owner is about to sleep; it must look at its queues once more before it does.
    pub(crate) fn announce(&self, place: Sleep) {
        self.sleep.store(place as u8, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake.
    pub(crate) fn awake(&self) {
        self.sleep.store(Sleep::Awake as u8, Ordering::Relaxed);
    }

    /// Rings when the owner sleeps in its driver.
    pub(crate) fn inner(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Rings when the owner sleeps in its executor.
    pub(crate) fn outer(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }

    /// Makes the outer descriptor unreadable until it rings again.
    pub(crate) fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes. With nothing to read it fails, and nothing is lost.
        unsafe { libc::read(self.outer.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?) })
}

/// An epoll instance, edge-triggered throughout.
pub(crate) struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll { fd })
    }

    /// Reports every edge of `fd` with `token`, until it is taken out.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (interest | libc::EPOLLET) as u32,
            u64: token,
        };
        // SAFETY: the event outlives the call, both descriptors are open.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })
            .map(drop)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: the kernel ignores the event of a removal; both descriptors are open.
        unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Waits at most `timeout_ms` and returns how many of `events` were filled.
    pub(crate) fn wait(&self, events: &mut [libc::epoll_event], timeout_ms: i32) -> usize {
        let max = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` is writable for `max` entries.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), max, timeout_ms) };
        // Only EINTR is possible here; the caller comes back anyway.
        usize::try_from(count).unwrap_or(0)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sleeps, whatever happens.
pub(crate) fn pause(time: std::time::Duration) {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: libc::c_long::from(time.subsec_nanos().cast_signed()),
    };
    // SAFETY: the time is readable, and what is left of it is not asked for.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// Lets this thread's short sleeps end when they should, not up to 50 microseconds later.
pub(crate) fn sleep_exactly() {
    const SLACK_NS: libc::c_ulong = 1_000;
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0) };
}

/// Reads what is there, without waiting.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is writable for its length.
    counted(unsafe { libc::recv(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

/// Writes what the socket's buffer takes, without waiting.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length.
    counted(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Takes one connection, without waiting; the socket is non-blocking and not inherited.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: address and length describe writable memory of the size given.
    let accepted = unsafe { libc::accept4(fd.as_raw_fd(), (&raw mut address).cast(), &mut length, flags) };
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(checked(accepted)?) };
    let remote = socket_addr(&address).ok_or_else(|| io::Error::other("a connection that is not TCP/IP"))?;
    Ok((socket, remote))
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, for which it is large and aligned enough.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6, for which it is large and aligned enough.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(
                IpAddr::V6(ip).to_canonical(),
                u16::from_be(v6.sin6_port),
            ))
        }
        _ => None,
    }
}

fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is readable for `length` bytes. A refusal costs speed, not correctness.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
}

/// Small writes leave at once.
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
}

/// Acknowledge now: components leave Nagle on and would wait. The kernel forgets it, so it is set after each read that
/// emptied the socket. Links that are never written to need it too: after two segments of one size the kernel takes
/// that size for a full one, and a full one alone is acknowledged late.
pub(crate) fn set_quickack(fd: BorrowedFd<'_>) {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1);
}

/// Whether the peer's kernel has acknowledged everything that was sent to it.
pub(crate) fn peer_acknowledges(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: all-zero bytes are a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let pointer = (&raw mut info).cast();
    // SAFETY: `info` is writable for `length` bytes.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &mut length) };
    result == 0 && info.tcpi_unacked == 0 && info.tcpi_retransmits == 0
}

/// No more will be written: the peer reads end of stream behind the last byte.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) {
    // SAFETY: no pointers. An error means that the connection is gone already.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// When this socket is closed, the kernel forgets what it has not sent, and resets the connection.
pub(crate) fn discard_unsent_at_close(fd: BorrowedFd<'_>) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: `linger` is readable for its size. An error means that the connection is gone already.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// The CPUs this process may use, lowest first.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all-zero bytes are an empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` is writable for the size given.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return vec![0];
    }
    // SAFETY: every index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}

/// Lets this thread run on any of `cpus`: one that a shard starts inherits that shard's own.
pub(crate) fn run_on(cpus: &[usize]) {
    // SAFETY: all-zero bytes are an empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is readable for the size given. A refusal costs speed, not correctness.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
}

/// Raises the soft limit of a resource to `wanted`, and the hard one where that is allowed; returns the limit in force.
pub(crate) fn raise_limit(resource: libc::__rlimit_resource_t, wanted: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 || limit.rlim_cur >= wanted {
        return limit.rlim_cur;
    }
    let hard = limit.rlim_max.max(wanted);
    for rlim_max in [hard, limit.rlim_max] {
        let raised = libc::rlimit {
            rlim_cur: wanted.min(rlim_max),
            rlim_max,
        };
        // SAFETY: `raised` is readable.
        if unsafe { libc::setrlimit(resource, &raised) } == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

/// From now on this process ends, without a word, when nobody reads what it prints (`| head`). For commands that print and
/// end; never for a node, whose peers may go at any time.
pub fn end_with_reader() {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The signals that this process takes in order, one at a time, on one thread. Made before any other thread, which
/// inherit that they are blocked.
pub(crate) struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 for this thread and those it starts; ignores SIGPIPE.
    pub(crate) fn block() -> Signals {
        // SAFETY: all-zero bytes are a valid sigset_t to be initialised by sigemptyset.
        let mut set: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: `set` is writable; the signal numbers are valid; SIG_IGN is a valid disposition.
        unsafe {
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
                libc::sigaddset(&mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        }
        Signals { set }
    }

    /// Waits for the next of them, at most `seconds`.
    pub(crate) fn wait(&self, seconds: i64) -> Option<i32> {
        let timeout = libc::timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        // SAFETY: set and timeout are readable; no information is asked for.
        let signal = unsafe { libc::sigtimedwait(&self.set, std::ptr::null_mut(), &timeout) };
        (signal > 0).then_some(signal)
    }
}

/// A second descriptor of the same file, for an owner of its own.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    use std::os::fd::IntoRawFd;
    Ok(fd.try_clone_to_owned()?.into_raw_fd())
}

/// A listening socket; `only_v6` keeps an IPv6 wildcard from taking the IPv4 port too.
pub(crate) fn listen(address: &SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    let socket = unsafe {
        OwnedFd::from_raw_fd(checked(libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            0,
        ))?)
    };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    if address.is_ipv6() {
        set_option(
            socket.as_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY,
            i32::from(only_v6),
        );
    }
    let bound = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in.
            let mut raw: libc::sockaddr_in = unsafe { zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: `raw` is readable for `length` bytes.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), length) }
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in6.
            let mut raw: libc::sockaddr_in6 = unsafe { zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: `raw` is readable for `length` bytes.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), length) }
        }
    };
    checked(bound)?;
    // SAFETY: no pointers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), LISTEN_BACKLOG) })?;
    Ok(std::net::TcpListener::from(socket))
}

/// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
const LISTEN_BACKLOG: libc::c_int = 1024;

/// The kernel's version, major and minor.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Asks the kernel for a small ring and gives it back.
pub(crate) fn try_ring() -> io::Result<()> {
    // The kernel's struct io_uring_params: 120 bytes, all zero for the defaults.
    let mut params = [0u64; 15];
    // SAFETY: `params` is writable and has the size of the kernel's structure.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4u32, params.as_mut_ptr()) };
    let fd = checked(libc::c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the descriptor is new and owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
