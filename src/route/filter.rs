//! Which rule of `router-filter.xml` a packet meets: as jabberd2's router decides it.
//!
//! Only unicast routes are filtered, after the check of the sender's name and before the lookup of
//! the addressee. Slow by nature (the payload is parsed for a rule with `what`), so ask
//! [`Filter::is_empty`] first.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

pub use crate::config::filter::{Filter, Rule, Test, What};

use crate::wire::NS_COMPONENT;

impl Filter {
    /// The first rule that a packet meets; `None`: it goes on untouched. `payload` is what the route holds, whole;
    /// `from` and `to` are those of the route's first child, as they stand there, unescaped (a resource is cut off
    /// here; letter case counts).
    pub fn matches(&self, payload: &[u8], from: Option<&str>, to: Option<&str>) -> Option<&Rule> {
        if self.is_empty() {
            return None;
        }
        let (from, to) = (bare(from), bare(to));
        let meets = |pattern: &Option<crate::config::Glob>, jid: Option<&str>| match (pattern, jid) {
            (Some(pattern), Some(jid)) => pattern.matches(jid),
            (None, None) => true,
            _ => false,
        };
        let mut rules = self
            .rules
            .iter()
            .filter(|rule| meets(&rule.from, from) && meets(&rule.to, to));
        rules.find(|rule| rule.what.as_ref().is_none_or(|what| holds(payload, what)))
    }
}

/// Without the resource; an empty attribute counts as absent.
fn bare(jid: Option<&str>) -> Option<&str> {
    let jid = jid.filter(|jid| !jid.is_empty())?;
    Some(jid.split_once('/').map_or(jid, |(bare, _)| bare))
}

/// Whether the elements in `payload` meet the query. What is not well-formed meets none.
fn holds(payload: &[u8], what: &What) -> bool {
    let mut reader = Reader::from_reader(payload);
    reader.config_mut().expand_empty_elements = true;
    let last = what.path.len() - 1;
    // `depth` elements are open, the outer `entered` of them along the path.
    let (mut depth, mut entered) = (0, 0);
    let mut scope = Scope::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) => {
                scope.open(&tag, depth);
                let on_path = entered == depth && tag.local_name().as_ref() == what.path[depth.min(last)].as_bytes();
                if on_path && depth == last && passes(&what.test, &tag, &scope) {
                    return true;
                }
                if on_path && depth < last {
                    entered += 1;
                }
                depth += 1;
            }
            Ok(Event::End(_)) => {
                depth = depth.saturating_sub(1);
                scope.close(depth);
                if entered > depth {
                    return false; // the way leads through the first element of a name only
                }
            }
            Ok(Event::Eof) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

fn passes(test: &Test, tag: &BytesStart<'_>, scope: &Scope) -> bool {
    match test {
        Test::Exists => true,
        Test::Namespace { uri, is } => scope.has(uri) == *is,
        Test::Attribute { name, value, is } => {
            let found = tag.attributes().with_checks(false).flatten().any(|attribute| {
                attribute.key.as_namespace_binding().is_none()
                    && attribute.key.local_name().as_ref() == name.as_bytes()
                    && value
                        .as_ref()
                        .is_none_or(|value| attribute.unescape_value().is_ok_and(|own| own == *value))
            });
            found == *is
        }
    }
}

/// The namespaces declared around the current element, with the depth of their elements. A declaration is in
/// scope for jabberd2 also where its prefix is declared anew.
#[derive(Default)]
struct Scope {
    declared: Vec<(usize, String)>,
}

impl Scope {
    fn open(&mut self, tag: &BytesStart<'_>, depth: usize) {
        for attribute in tag.attributes().with_checks(false).flatten() {
            if attribute.key.as_namespace_binding().is_some()
                && let Ok(uri) = attribute.unescape_value()
            {
                self.declared.push((depth, uri.into_owned()));
            }
        }
    }

    fn close(&mut self, depth: usize) {
        while self.declared.last().is_some_and(|(at, _)| *at >= depth) {
            self.declared.pop();
        }
    }

    fn has(&self, uri: &str) -> bool {
        // The route around the payload declares the component namespace.
        uri == NS_COMPONENT || self.declared.iter().any(|(_, own)| own == uri)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SESS: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";

    fn meets(what: &str, payload: &str) -> bool {
        What::parse(what).is_none_or(|what| holds(payload.as_bytes(), &what))
    }

    /// Each line was seen from jabberd2-router 2.7.0 with that rule and that packet.
    #[test]
    fn queries_as_measured() {
        let scm = format!("<message xmlns='jabber:client' xmlns:sc='{SESS}' sc:c2s='9'><body/></message>");
        let two = "<q:iq xmlns:q='jabber:client'><query xmlns='jabber:iq:other'/><query xmlns='jabber:iq:register' k='2'/></q:iq>";
        let lists = "<message><a xmlns='u:1'><b k='1'/></a><a xmlns='u:2'><b k='2'/></a></message>";
        let chat = "<message xmlns='jabber:client' type='chat' xml:lang='en'><body xmlns='u:b'/></message>";
        let plain = "<message xmlns='jabber:client'><foo><body k='3'/></foo></message>";
        let second = "<message xmlns='jabber:client'/><iq xmlns='jabber:client' second='1'/>";
        let table: &[(&str, &str, bool)] = &[
            ("", chat, true),
            ("*", chat, true),
            ("message", chat, true),
            ("message/", chat, true),
            ("/message", chat, false),
            ("mess", chat, false),
            ("body", chat, false),
            ("*/body", chat, false),
            ("message/*", chat, false),
            ("message/body", chat, true),
            ("message/body", plain, false),
            ("message/foo/body", plain, true),
            ("message/foo/body?k=3", plain, true),
            ("message?type", chat, true),
            ("message?type=", chat, true),
            ("message?type=chat", chat, true),
            ("message?type=cha", chat, false),
            ("message?type=chat", plain, false),
            ("message?type=chat/body", chat, false),
            ("message!type=chat", chat, false),
            ("message!type=normal", chat, true),
            ("message!type", plain, true),
            ("message!type", chat, false),
            ("message?", chat, false),
            ("message!", chat, true),
            ("message!body", chat, true),
            ("message?lang=en", chat, true),
            ("message?xml:lang=en", chat, false),
            ("message?xmlns", chat, false),
            ("message!xmlns", chat, true),
            ("message?xmlns=jabber:client", chat, true),
            ("message!xmlns=jabber:client", chat, false),
            ("message?xmlns=jabber:client", "<message/>", false),
            (
                "message?xmlns=http://jabberd.jabberstudio.org/ns/component/1.0",
                "<message/>",
                true,
            ),
            ("message/body?xmlns=jabber:client", chat, true),
            ("message?xmlns=u:b", chat, false),
            ("message?c2s=9", &scm, true),
            ("message?sc:c2s=9", &scm, false),
            (
                "message?xmlns=http://jabberd.jabberstudio.org/ns/session/1.0",
                &scm,
                true,
            ),
            (
                "message!xmlns=http://jabberd.jabberstudio.org/ns/session/1.0",
                &scm,
                false,
            ),
            (
                "message!xmlns=http://jabberd.jabberstudio.org/ns/session/1.0",
                chat,
                true,
            ),
            ("iq/query?xmlns=jabber:iq:register", two, true),
            ("iq/query?xmlns=jabber:iq:register?k=2", two, false),
            ("message/a!xmlns=u:1", lists, true),
            ("message/a/b?k=2", lists, false),
            ("message/a/b!k=2", lists, true),
            ("message/a/b!k", lists, false),
            ("iq?second", second, true),
            ("message", "", false),
        ];
        for (what, payload, expected) in table {
            assert_eq!(meets(what, payload), *expected, "{what} on {payload}");
        }
    }

    #[test]
    fn absence_matches_only_absence() {
        let any = "<message/>".as_bytes();
        let rule = |from: Option<&str>, to: Option<&str>, line| Rule {
            from: from.map(crate::config::Glob::new),
            to: to.map(crate::config::Glob::new),
            what: None,
            redirect: None,
            error: None,
            error_code: None,
            log: false,
            dump: None,
            line,
        };
        let filter = Filter {
            rules: vec![
                rule(None, None, 1),
                rule(Some("*"), None, 2),
                rule(None, Some("*"), 3),
                rule(Some("u@a.test"), Some("*@c.test"), 4),
                rule(Some("*"), Some("*"), 5),
            ],
        };
        let line = |from, to| filter.matches(any, from, to).map(|rule| rule.line);
        assert_eq!(line(None, None), Some(1));
        assert_eq!(line(Some(""), Some("")), Some(1));
        assert_eq!(line(Some("x"), None), Some(2));
        assert_eq!(line(None, Some("x")), Some(3));
        assert_eq!(line(Some("u@a.test/r"), Some("v@c.test/a@b")), Some(4));
        assert_eq!(line(Some("u@a.test"), Some("v@C.test")), Some(5));
        assert_eq!(line(Some("u@a.test"), Some("c.test/v@c.test")), Some(5));
        assert!(Filter::default().matches(any, None, None).is_none());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_payloads_are_survived(payload: Vec<u8>, markup in "[<>/ab='x! ?\\[\\]-]{0,60}", what in "[abx/?!=]{0,8}") {
            if let Some(what) = What::parse(&what) {
                holds(&payload, &what);
                holds(markup.as_bytes(), &what);
            }
        }
    }
}
