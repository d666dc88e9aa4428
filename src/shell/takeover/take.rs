//! The new process's side.

use super::channel::{read_body, read_line, receive_descriptors};
use super::shard::{GivenLink, Step};
use super::{ANSWER_MS, BUILD_MS, Baggage, Former, MINE};
use crate::config::{Config, Mesh, Uplink};
use crate::node::image::{Image, VERSION};
use crate::operate::admin::{Request, TakeOver};
use crate::shell::control::Control;
use crate::shell::driver::Entrance;
use crate::shell::notify;
use crate::table::{ShardId, image};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the old process is waited for when it is no longer the node.
const END_MS: u64 = 3_000;

/// What another process of this node had, and has as long as this one does not say [`Taken::confirm`].
pub(crate) struct Taken {
    stream: UnixStream,
    image: Arc<Image>,
    links: HashMap<Former, GivenLink>,
    listeners: Vec<(TcpListener, Entrance)>,
    /// Origin of the shards' clock.
    pub(crate) started: Instant,
}

/// Asks the process behind the admin socket for all it has, for so many shards.
pub(crate) fn take(admin: &Path, config: &Config, shards: ShardId) -> Result<Taken, String> {
    let at = admin.display();
    let cannot = |what: &str| format!("cannot take over at {at}: {what}");
    let stream =
        UnixStream::connect(admin).map_err(|error| cannot(&format!("{error}; is a jidmesh running there?")))?;
    let ask = Request::Takeover(TakeOver {
        version: VERSION,
        own: config.id.clone(),
        mesh: config.mesh.as_ref().map(who),
        uplink: config.uplink.as_ref().map(attached_to),
        pid: std::process::id(),
    });
    let mut line = serde_json::to_string(&ask).map_err(|error| error.to_string())?;
    line.push('\n');
    let io = |error: std::io::Error| cannot(&error.to_string());
    stream
        .set_read_timeout(Some(Duration::from_millis(ANSWER_MS)))
        .map_err(io)?;
    (&stream).write_all(line.as_bytes()).map_err(io)?;
    let answer = read_line(&stream).map_err(io)?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| cannot(&error.to_string()))?;
    if answer["ok"] != Value::Bool(true) {
        return Err(cannot(
            answer["error"].as_str().unwrap_or("it refuses, and does not say why"),
        ));
    }
    stream
        .set_read_timeout(Some(Duration::from_millis(BUILD_MS)))
        .map_err(io)?;
    let body = read_body(&stream).map_err(io)?;
    let baggage: Baggage = image::read(&body).map_err(|error| cannot(&error))?;
    let mut fds = receive_descriptors(&stream, baggage.listeners.len() + baggage.links.len())
        .map_err(io)?
        .into_iter();
    let entrances = baggage.listeners.into_iter();
    let listeners = entrances
        .zip(fds.by_ref())
        .map(|(entrance, fd)| (TcpListener::from(fd), entrance))
        .collect();
    let links = baggage.links.into_iter().zip(fds).map(|(link, fd)| {
        let given = GivenLink {
            fd,
            remote: link.remote,
            chunk: link.chunk,
            written: link.written,
            unread: link.unread,
        };
        (link.former, given)
    });
    let elapsed = Duration::from_micros(baggage.elapsed_us);
    Ok(Taken {
        links: links.collect(),
        image: Arc::new(Image::new(baggage.shares, shards).map_err(cannot)?),
        listeners,
        started: Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now),
        stream,
    })
}

/// Which node of which cluster; another one can't go on with its lanes.
pub(crate) fn who(mesh: &Mesh) -> String {
    format!("{} of the cluster {}", mesh.node, mesh.cluster)
}

/// Which stock router it is attached to, and as whom.
pub(crate) fn attached_to(uplink: &Uplink) -> String {
    format!("{} as {}", uplink.addr, uplink.user)
}

impl Taken {
    /// The life of the node, with `<mesh>`.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.image.incarnation()
    }

    /// The sockets that listen at these addresses already; those that are missing are yet to be made.
    pub(crate) fn listeners(&mut self, addresses: &[SocketAddr], at: Entrance) -> (Vec<TcpListener>, Vec<SocketAddr>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for address in addresses {
            let listens = |(listener, entrance): &(TcpListener, Entrance)| {
                *entrance == at && listener.local_addr().is_ok_and(|local| local == *address)
            };
            match self.listeners.iter().position(listens) {
                Some(index) => found.push(self.listeners.swap_remove(index).0),
                None => missing.push(*address),
            }
        }
        (found, missing)
    }

    /// Gives the shards, which stand still, what was taken; then this process is the node, or it must end and has touched
    /// nothing. Gives the number of links, and of sessions.
    pub(crate) fn confirm(self, control: &Control) -> Result<(usize, usize), String> {
        let links = Arc::new(Mutex::new(self.links));
        let restored = restore(&self.image, &links, control)?;
        let sessions = self.image.sessions();
        (&self.stream)
            .write_all(&[MINE])
            .map_err(|error| format!("the old process has gone on by itself: {error}"))?;
        control.order(|| Step::GoOn);
        // The service manager learns which process it is before the former one ends.
        notify::ready();
        let _ = (&self.stream).write_all(&[MINE]);
        await_end(&self.stream);
        Ok((restored, sessions))
    }
}

/// Gives the shards, which stand still, what a process left behind that died: its links are lost.
pub(crate) fn revive(image: Arc<Image>, control: &Control) -> Result<(), String> {
    restore(&image, &Arc::default(), control)?;
    control.order(|| Step::GoOn);
    Ok(())
}

/// Every shard becomes its part of the image. The number of links.
fn restore(
    image: &Arc<Image>,
    links: &Arc<Mutex<HashMap<Former, GivenLink>>>,
    control: &Control,
) -> Result<usize, String> {
    let restored: Vec<Result<usize, String>> = control.step(Duration::from_millis(BUILD_MS), |to| {
        Step::Restore(Arc::clone(image), Arc::clone(links), to)
    });
    if restored.len() < control.shards() {
        return Err("the shards did not take what the former process had".into());
    }
    restored.into_iter().sum()
}

/// Waits until the old process has ended, and its addresses are free.
fn await_end(mut stream: &UnixStream) {
    let until = Instant::now() + Duration::from_millis(END_MS);
    let mut rest = [0; 16];
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut rest) {
            Ok(1..) => {}
            _ => return,
        }
    }
}
