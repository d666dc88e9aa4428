//! The entry of one message in the message log, in the stock router's form: sender, receiver and body on one line.

use crate::wire::header::{PayloadKind, Route};
use quick_xml::Reader;
use quick_xml::events::Event;

/// The line for this frame, without the time before it; `None` for anything but a message between two users. What sm
/// hands on to a client is not logged again, and conference rooms keep logs of their own.
pub(super) fn entry(frame: &[u8], route: &Route<'_>) -> Option<Vec<u8>> {
    let payload = route.payload.as_ref()?;
    let kind = payload.kind_attr.map(|kind| kind.0);
    if payload.kind != PayloadKind::Message || payload.c2s.is_some() || matches!(kind, Some(b"groupchat" | b"error")) {
        return None;
    }
    let (from, to) = (payload.from?.unescape()?, payload.to?.unescape()?);
    let body = body(frame.get(payload.span.clone())?);
    let line: String = format!("{from} {to} {body}")
        .chars()
        .map(|c| if c.is_control() { '\u{1}' } else { c })
        .collect();
    Some((line + "\n").into_bytes())
}

/// The text of the message's first `<body/>`; empty without one.
fn body(stanza: &[u8]) -> String {
    let mut reader = Reader::from_reader(stanza);
    let (mut depth, mut inside, mut text) = (0u32, false, String::new());
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) => {
                depth += 1;
                inside |= depth == 2 && tag.local_name().as_ref() == b"body";
            }
            Ok(Event::Text(part)) if inside && depth == 2 => text += &part.xml_content().unwrap_or_default(),
            Ok(Event::CData(part)) if inside && depth == 2 => text += &String::from_utf8_lossy(&part),
            Ok(Event::GeneralRef(name)) if inside && depth == 2 => text.push(character(&name)),
            Ok(Event::End(_)) if inside && depth == 2 => return text,
            Ok(Event::End(_)) => depth = depth.saturating_sub(1),
            Ok(Event::Eof) | Err(_) => return text,
            _ => {}
        }
    }
}

fn character(name: &quick_xml::events::BytesRef<'_>) -> char {
    match &**name {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"quot" => '"',
        b"apos" => '\'',
        _ => name.resolve_char_ref().ok().flatten().unwrap_or('\u{fffd}'),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::header::{Frame, read};

    fn entry_of(payload: &str) -> Option<String> {
        let frame = format!(
            "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='a.test' to='b.test'>{payload}</route>"
        );
        let Frame::Route(route) = read(frame.as_bytes()).unwrap() else {
            panic!("no route")
        };
        entry(frame.as_bytes(), &route).map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn messages_between_users_are_logged_on_one_line() {
        let message = "<message xmlns='jabber:client' from='u@a.test/r' to='v@b.test'><x/><body>a\nb &lt;c&gt; &#233;<![CDATA[&]]></body></message>";
        assert_eq!(entry_of(message).unwrap(), "u@a.test/r v@b.test a\u{1}b <c> é&\n");
        assert_eq!(
            entry_of("<message xmlns='jabber:client' from='u@a.test' to='v@b.test'/>").unwrap(),
            "u@a.test v@b.test \n"
        );
    }

    #[test]
    fn nothing_else_is() {
        for payload in [
            "<message xmlns='jabber:client' to='v@b.test'><body>no sender</body></message>",
            "<message xmlns='jabber:client' type='groupchat' from='u@a.test' to='v@b.test'><body>x</body></message>",
            "<presence xmlns='jabber:client' from='u@a.test' to='v@b.test'/>",
            "<message xmlns='jabber:client' xmlns:sm='http://jabberd.jabberstudio.org/ns/session/1.0' sm:c2s='9' sm:sm='x' from='u@a.test' to='v@b.test/r'><body>x</body></message>",
        ] {
            assert_eq!(entry_of(payload), None, "{payload}");
        }
    }
}
