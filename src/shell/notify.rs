//! Tells the service manager how far the process is (sd_notify(3)): one datagram to the socket that it names.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Ready: components and other nodes can rely on this process. It says which one it is, as it may have taken over from
/// the one that the manager started.
pub(super) fn ready() {
    tell(&format!("MAINPID={}\nREADY=1\nSTATUS=serving", std::process::id()));
}

/// The end was asked for.
pub(super) fn stopping() {
    tell("STOPPING=1\nSTATUS=ending");
}

/// Nobody has to listen: without a manager there is no socket.
fn tell(text: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::path::Path::new(std::ffi::OsStr::from_bytes(path))),
    };
    if let Ok(address) = address
        && let Ok(sender) = UnixDatagram::unbound()
        && sender.set_nonblocking(true).is_ok()
    {
        // A manager that takes nothing is not waited for.
        let _ = sender.send_to_addr(text.as_bytes(), &address);
    }
}
