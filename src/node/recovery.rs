//! What a start after a crash needs, written down behind the traffic: names, seats and sessions. No frame is in it.
//!
//! # The file
//!
//! A line that says what it is and whose ([`head`]), then [records](image::records) of what is known, as MessagePack. The
//! key is a user's bare JID, or nothing: then it is of names and seats. The last record of a key counts; one without
//! content says that he is gone. A record that is cut off at the end was being written when the process died.
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
        {
            let house = House::new(&self.names, registrar);
            let _ = image::record(&mut notes.records, "", |into| image::write_to(into, &house));
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
            let _ = image::record(&mut notes.records, &bare, |into| match &kept {
                Some(kept) => image::write_to(into, kept),
                None => Ok(()),
            });
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
