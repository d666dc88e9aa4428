//! What people send: kinds and sizes of stanzas.

use super::book::{Book, Piece};
use super::rng::Rng;

/// How many contacts hear of one presence.
pub(super) const FAN_OUT: usize = 8;

/// A kind of stanza, ready to be addressed.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) element: &'static str,
    pub(super) kind: Option<&'static str>,
    pub(super) tail: Piece,
    /// Goes to a bare JID always, sometimes, or never.
    pub(super) to_bare: Bare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bare {
    Always,
    Sometimes,
    Never,
}

/// What people send, by its share of all frames: 60 % chat, 30 % presence, 10 % iq.
#[derive(Debug)]
pub(super) struct Mix {
    chats: Vec<Shape>,
    pub(super) presence: Shape,
    iq: Shape,
}

/// Lengths of what people write, each as often as the others: mostly short, sometimes a paragraph.
const CHAT_BYTES: [usize; 10] = [8, 15, 25, 35, 50, 70, 110, 180, 330, 840];

impl Mix {
    pub(super) fn new(book: &mut Book) -> Mix {
        let mut rng = Rng::new(559);
        let chats = CHAT_BYTES
            .iter()
            .map(|bytes| {
                let inner = format!(
                    "<body>{}</body><active xmlns='http://jabber.org/protocol/chatstates'/>\
                     <request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/>",
                    words(*bytes, &mut rng)
                );
                shape(book, "message", Some("chat"), &inner, Bare::Sometimes)
            })
            .collect();
        let status = format!(
            "<show>away</show><status>{}</status><priority>5</priority>\
             <c xmlns='http://jabber.org/protocol/caps' ver='{}'/>\
             <x xmlns='vcard-temp:x:update'><photo>{}</photo></x>",
            words(20, &mut rng),
            "qVs6SJ1bXWpHPIDSP9YXc2hTHkU=",
            "7".repeat(40)
        );
        let features: String = (0..12)
            .map(|i| format!("<feature var='urn:xmpp:example:{i}'/>"))
            .collect();
        let disco = format!("<query xmlns='http://jabber.org/protocol/disco#info'>{features}</query>");
        Mix {
            chats,
            presence: shape(book, "presence", None, &status, Bare::Always),
            iq: shape(book, "iq", Some("result"), &disco, Bare::Never),
        }
    }

    /// What is sent next: a presence stands for [`FAN_OUT`] frames, so it is drawn so much less often.
    pub(super) fn draw(&self, rng: &mut Rng) -> &Shape {
        // Of 1000 frames: 600 chats, 300 presences in 37.5 fan-outs, 100 iqs.
        let drawn = rng.unit() * (600.0 + 300.0 / FAN_OUT as f64 + 100.0);
        if drawn < 600.0 {
            &self.chats[rng.below(self.chats.len())]
        } else if drawn < 700.0 {
            &self.iq
        } else {
            &self.presence
        }
    }
}

fn shape(book: &mut Book, element: &'static str, kind: Option<&'static str>, inner: &str, to_bare: Bare) -> Shape {
    Shape {
        element,
        kind,
        tail: book.tail(element, inner, true),
        to_bare,
    }
}

/// Text of so many bytes.
pub(super) fn words(bytes: usize, rng: &mut Rng) -> String {
    const WORDS: [&str; 12] = [
        "the ", "night ", "of ", "a ", "rose ", "by ", "any ", "other ", "name ", "would ", "smell ", "as ",
    ];
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(WORDS[rng.below(WORDS.len())]);
    }
    text.truncate(bytes);
    text
}
