//! What a start after a crash needs, written down behind the traffic: names, seats and sessions. No frame is in it.
//!
//! # The file
//!
//! A line that says what it is and whose ([`head`]), then records, each behind its length (4 bytes, the lowest first): the
//! length of its key (2 bytes), the key, what is known of it as MessagePack. The key is a user's bare JID, or nothing: then
//! it is of names and seats. The last record of a key counts; one without content says that he is gone. A record that is
//! cut off at the end was being written when the process died.
//!
//! # Who writes it
//!
//! Each shard notes which users changed, and is asked for their records ([`Shard::take_notes`]) a few at a time, not before
//! what it gave last is written. So the file is late by some milliseconds, and a slow disk delays nobody. What a session
//! lacks in it, since it began so late, is found by what its client or its sm says next, and ended.
//!
//! # How a start reads it
//!
//! As an [image](super::image) whose links are all lost: the components come back within their grace, and are asked
//! whether they are the processes that they were and what they still hold ([`question`](super::question)).
//!
//! Must never be added: frames that wait. Whether they arrived nobody knows, and none may come twice.

use super::Shard;
use super::api::Level;
use super::counters::Counter;
use super::image::House;
use crate::table::SeatId;
use crate::table::image;
use crate::table::users::User;
use serde::{Deserialize, Serialize};

/// Of the file's form, and of the meaning of its fields.
const FORM: u32 = 1;

/// Records that a shard gives at a time.
const RECORDS_MAX: usize = 1_024;

/// What a shard has to be written down.
#[derive(Debug, Default)]
pub struct Notes {
    /// Whole records.
    pub records: Vec<u8>,
    /// There is more.
    pub more: bool,
    /// It does not know any more what it has not told: all is to be told anew.
    pub lost: bool,
}

/// What is written of a user.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) user: User,
}

/// The first line of a file of this node. `boot`: names the time since the machine started.
pub fn head(own: &str, boot: &str) -> String {
    format!("jidmesh recovery {FORM} {own} {boot}\n")
}

/// The records of a file behind its first line: (whole record, key, content). Ends where one is cut off.
pub fn records(file: &[u8]) -> impl Iterator<Item = (&[u8], &str, &[u8])> {
    let mut rest = file;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (body, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let whole = &rest[..4 + body.len()];
        rest = tail;
        let (length, body) = body.split_first_chunk::<2>()?;
        let (key, content) = body.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((whole, std::str::from_utf8(key).ok()?, content))
    })
}

fn record(into: &mut Vec<u8>, key: &str, content: &[u8]) {
    let (Ok(key_len), Ok(len)) = (u16::try_from(key.len()), u32::try_from(2 + key.len() + content.len())) else {
        return;
    };
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(&key_len.to_le_bytes());
    into.extend_from_slice(key.as_bytes());
    into.extend_from_slice(content);
}

impl Shard {
    /// Whether [`Shard::take_notes`] has something to give.
    pub fn has_notes(&self) -> bool {
        self.users.has_changed() || self.house_changed
    }

    /// What changed since the last call. `anew`: everything there is, and from now on what changes.
    pub fn take_notes(&mut self, anew: bool) -> Notes {
        if anew {
            self.users.note_changes();
            self.house_changed = self.registrar.is_some();
        }
        let mut notes = Notes::default();
        if std::mem::take(&mut self.house_changed)
            && let Some(registrar) = &self.registrar
            && let Ok(house) = image::write(&House::new(&self.names, registrar))
        {
            record(&mut notes.records, "", &house);
        }
        let Some(changed) = self.users.take_changed(RECORDS_MAX) else {
            notes.lost = true;
            return notes;
        };
        for bare in changed {
            let user = self.users.get(&bare).filter(|user| user.is_worth_recovering());
            let kept = user.map(|user| Kept {
                user: user.to_recover(),
            });
            match kept.map(|kept| image::write(&kept)) {
                Some(Ok(kept)) => record(&mut notes.records, &bare, &kept),
                Some(Err(_)) | None => record(&mut notes.records, &bare, &[]),
            }
        }
        notes.more = self.users.has_changed();
        notes
    }

    /// A c2s that a former process knew has said what it still holds, or was given up.
    pub(super) fn recovery_is_over(&mut self, seat: SeatId) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let Some(before) = state.recovered.take().filter(|before| *before > 0) else {
            return;
        };
        let kept = state.clients.forget_recovered();
        let name = state.id.clone();
        let cut = before.saturating_sub(kept);
        self.counters.add(Counter::RecoveredKept, kept as u64);
        self.counters.add(Counter::RecoveredCut, cut as u64);
        let text = format!("[{name}] of {before} sessions from before the crash {kept} go on, {cut} are over");
        self.log(Level::Notice, None, text);
    }
}
