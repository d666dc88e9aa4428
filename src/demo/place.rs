//! Where the demo lives: a folder of its own, and ports that nobody uses.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Ports are looked for here: below those that the kernel gives to outgoing connections, so that one stays free while
/// its machine is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Unix sockets have short paths (108 bytes); one whose folder is longer than this gets `/tmp`.
const PATH_BYTES_MAX: usize = 70;

/// A folder for this run, which goes away with this.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Folder, String> {
        use std::os::unix::fs::DirBuilderExt;
        let usual = std::env::temp_dir();
        let parent = match usual.as_os_str().len() {
            0..PATH_BYTES_MAX => usual,
            _ => PathBuf::from("/tmp"),
        };
        let path = parent.join(format!("jidmesh-demo-{}", std::process::id()));
        // Fails when it is there already: nobody can have prepared it.
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| format!("a folder is needed: {}: {e}", path.display()))?;
        Ok(Folder(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Different ports of 127.0.0.1 on which nobody listens now.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N], String> {
    let mut start = [0; 2];
    getrandom::fill(&mut start).map_err(|e| format!("no randomness: {e}"))?;
    // Demos that start at the same time begin at different places.
    let (all, start) = (PORTS.len(), usize::from(u16::from_le_bytes(start)));
    let mut free = PORTS
        .cycle()
        .skip(start % all)
        .take(all)
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free
            .next()
            .ok_or("no port of 127.0.0.1 is free between 20000 and 32000")?;
    }
    Ok(ports)
}

/// A password that nobody knows: 32 characters.
pub(super) fn password() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
