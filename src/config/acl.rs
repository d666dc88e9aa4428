//! `<aci>`: which users may do more than bind their own name.

use crate::jid;

/// Users by right (`<acl type=''>`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Acl {
    /// `all`: every right below.
    pub all: Vec<String>,
    /// `bind`: names other than the user's own.
    pub bind: Vec<String>,
    /// `default-route`: `<default/>` in a bind.
    pub default_route: Vec<String>,
    /// `log`: `<log/>` in a bind.
    pub log: Vec<String>,
}

impl Acl {
    /// Whether `user` may bind `name`: its own name always.
    pub fn may_bind(&self, user: &str, name: &str) -> bool {
        let own = || user == name || jid::domain_key(name).is_some_and(|name| jid::domain_key(user) == Some(name));
        self.in_all(user) || has(&self.bind, user) || own()
    }

    /// Whether `user` may become the default route.
    pub fn may_default(&self, user: &str) -> bool {
        self.in_all(user) || has(&self.default_route, user)
    }

    /// Whether `user` may receive a copy of every packet.
    pub fn may_log(&self, user: &str) -> bool {
        self.in_all(user) || has(&self.log, user)
    }

    fn in_all(&self, user: &str) -> bool {
        has(&self.all, user)
    }
}

fn has(users: &[String], user: &str) -> bool {
    users.iter().any(|other| other == user)
}
