//! Redirects (`docs/redirects.md`): whoever sends to users asks for them, and addresses its frames as it was told.

use super::book::Known;
use super::link::{Link, Out, Sink};
use super::people::{DOMAIN, People, WAIT_MS};
use super::poll::Poll;
use crate::wire::header::{self, Frame};
use crate::wire::{NS_CLIENT, edit};
use ahash::AHashMap;
use std::time::{Duration, Instant};

/// Questions on their way at most, so that nobody's queue fills up.
const ASKED_MAX: usize = 512;
/// No redirect has come for so long: the router gives none.
const STALL: Duration = Duration::from_secs(5);

/// What each link was told: (link, full JID), and the sm.
pub(super) type Told = AHashMap<(usize, String), String>;

/// Lets each of these links write once to each of these users' full JIDs, and waits until it has a redirect for it.
///
/// # Errors
/// The router gives none, or not enough.
pub(super) fn learn(links: &mut [Link], senders: &[usize], users: &[usize]) -> Result<Told, String> {
    let mut poll = Poll::new()?;
    for link in links.iter() {
        poll.add(link.fd(), true)?;
    }
    let pairs = senders
        .iter()
        .flat_map(|link| users.iter().map(|user| (*link, People::full(*user))));
    let (mut told, mut asked, mut moved) = (Told::default(), 0, Instant::now());
    let mut pairs = pairs.peekable();
    while pairs.peek().is_some() || told.len() < asked {
        while let Some((link, jid)) = pairs.next_if(|_| asked - told.len() < ASKED_MAX) {
            ask(&mut links[link], &jid);
            asked += 1;
        }
        for (key, link) in links.iter_mut().enumerate() {
            link.flush()?;
            poll.want(link.fd(), key, true, link.out.len() > 0)?;
        }
        let before = told.len();
        for at in 0..poll.wait(WAIT_MS)? {
            let link = poll.ready(at);
            let mut pupil = Pupil { told: &mut told, link };
            links[link].read(usize::MAX, None, &mut pupil)?;
        }
        if told.len() > before {
            moved = Instant::now();
        } else if moved.elapsed() > STALL {
            let (has, seconds) = (told.len(), STALL.as_secs());
            return Err(format!("{has} of {asked} redirects came, and none for {seconds} s"));
        }
    }
    Ok(told)
}

/// A headline: who gets it stores nothing.
fn ask(link: &mut Link, jid: &str) {
    let stanza = format!(
        "<message xmlns='{NS_CLIENT}' type='headline' from='{}' to='{jid}'/>",
        link.id
    );
    edit::route(&mut link.out.bytes, DOMAIN, &link.id, stanza.as_bytes());
    link.out.framed();
}

/// One link, as far as redirects go.
struct Pupil<'a> {
    told: &'a mut Told,
    link: usize,
}

impl Sink for Pupil<'_> {
    fn known(&mut self, _: Known, _: usize, _: &mut Out) -> Result<(), String> {
        Err("a frame of another measurement".into())
    }

    fn other(&mut self, frame: &[u8], out: &mut Out) -> Result<(), String> {
        let Ok(Frame::Redirect { jid, to }) = header::read(frame) else {
            return super::answer::to_router(frame, out);
        };
        let text =
            |value: Option<crate::wire::value::Value<'_>>| value.and_then(|v| v.unescape()).map(|v| v.into_owned());
        match (text(jid), text(to)) {
            (Some(jid), Some(to)) => self.told.insert((self.link, jid), to),
            _ => {
                return Err(
                    "a redirect was withdrawn though nobody left: there are too many users for one component".into(),
                );
            }
        };
        Ok(())
    }
}
