//! The clients of one c2s, by the number and the sm-side id that its frames carry (session control names no JID).

use super::{SeatId, Token};
use crate::jid::TableMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// One session of a client of this c2s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// The sm-side id.
    pub token: Token,
    /// The sm that serves it.
    pub sm: SeatId,
    /// The bare JID's key.
    pub bare: Box<str>,
    /// The client sent something in this session: it is no ghost.
    pub active: bool,
    /// Its c2s came back, and has not shown since that it still holds the client.
    pub doubted: bool,
    /// A former process knew of it, and its c2s has yet to show that it still does.
    #[serde(default)]
    pub recovered: bool,
    /// Its `end` passed: its c2s does not know it any more, and soon its sm will not.
    pub ending: bool,
}

/// All clients of one c2s.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Clients {
    by_number: TableMap<u32, SmallVec<[Client; 1]>>,
    count: usize,
}

impl Clients {
    /// How many sessions.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A session came to be. What it takes the place of, if one of this number had its sm-side id.
    pub fn insert(&mut self, number: u32, client: Client) -> Option<Client> {
        let former = self.remove(number, &client.token);
        self.by_number.entry(number).or_default().push(client);
        self.count += 1;
        former
    }

    /// Finds a session.
    pub fn get_mut(&mut self, number: u32, token: &Token) -> Option<&mut Client> {
        self.by_number
            .get_mut(&number)?
            .iter_mut()
            .find(|client| client.token == *token)
    }

    /// Finds a session.
    pub fn get(&self, number: u32, token: &Token) -> Option<&Client> {
        self.by_number
            .get(&number)?
            .iter()
            .find(|client| client.token == *token)
    }

    /// Another session under the same number than the one with `token`.
    pub fn has_other(&self, number: u32, token: &Token) -> bool {
        self.by_number
            .get(&number)
            .is_some_and(|clients| clients.iter().any(|client| client.token != *token && client.active))
    }

    /// Forgets a session.
    pub fn remove(&mut self, number: u32, token: &Token) -> Option<Client> {
        let clients = self.by_number.get_mut(&number)?;
        let at = clients.iter().position(|client| client.token == *token)?;
        let client = clients.remove(at);
        if clients.is_empty() {
            self.by_number.remove(&number);
        }
        self.count -= 1;
        Some(client)
    }

    /// How many sessions are under one number.
    pub fn under(&self, number: u32) -> usize {
        self.by_number.get(&number).map_or(0, SmallVec::len)
    }

    /// All sessions, changeable: (number, session).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Client)> {
        self.by_number
            .iter_mut()
            .flat_map(|(number, clients)| clients.iter_mut().map(|client| (*number, client)))
    }

    /// Forgets which ones a former process knew of; how many these were.
    pub fn forget_recovered(&mut self) -> usize {
        let recovered = self.iter_mut().filter(|(_, client)| client.recovered && !client.ending);
        let count = recovered.map(|(_, client)| client.recovered = false).count();
        self.iter_mut().for_each(|(_, client)| client.recovered = false);
        count
    }

    /// Sessions that its c2s still holds, as far as is known: one of a number, so many at most.
    pub fn some(&self, most: usize) -> Vec<(u32, Token)> {
        let held = self.by_number.iter().filter_map(|(number, clients)| {
            let client = clients.iter().find(|client| !client.ending)?;
            Some((*number, client.token))
        });
        held.take(most).collect()
    }

    /// All sessions, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Client)> {
        self.by_number
            .iter()
            .flat_map(|(number, clients)| clients.iter().map(move |client| (*number, client)))
    }

    /// Takes all sessions out.
    pub fn drain(&mut self) -> Vec<(u32, Client)> {
        self.count = 0;
        std::mem::take(&mut self.by_number)
            .into_iter()
            .flat_map(|(number, clients)| clients.into_iter().map(move |client| (number, client)))
            .collect()
    }
}
