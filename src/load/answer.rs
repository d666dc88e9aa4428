//! What a component answers to the router itself.

use super::component::excerpt;
use super::link::Out;
use crate::wire::NS_CLIENT;
use crate::wire::edit::{self, SessionExtra};
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::value::Value;

/// A frame that is not the workload's: questions are answered as an sm answers them, adverts are nothing to us.
///
/// # Errors
/// An error of the router.
pub(super) fn to_router(frame: &[u8], out: &mut Out) -> Result<(), String> {
    match header::read(frame) {
        Ok(Frame::Route(route)) => {
            if route.error.is_some() {
                return Err(format!("this came back as an error: {}", excerpt(frame)));
            }
            let Some(payload) = &route.payload else { return Ok(()) };
            match payload.kind {
                PayloadKind::Iq if is(payload.kind_attr, "get") => iq(&route, payload, out),
                PayloadKind::Session if is(payload.action, "start") => {
                    session(&route, payload, "started", payload.id, out)
                }
                PayloadKind::Session if is(payload.action, "end") => session(&route, payload, "ended", payload.sm, out),
                _ => {}
            }
            Ok(())
        }
        Ok(Frame::StreamError) => Err(format!("the router ends the stream: {}", excerpt(frame))),
        _ => Ok(()),
    }
}

fn is(value: Option<Value<'_>>, text: &str) -> bool {
    value.is_some_and(|value| value.is(text))
}

fn iq(route: &Route<'_>, payload: &Payload<'_>, out: &mut Out) {
    let [Some(to), Some(from), Some(id)] = [route.to, route.from, payload.id].map(|v| v?.as_str()) else {
        return;
    };
    let [stanza_to, stanza_from] = [payload.to, payload.from].map(|v| v?.as_str());
    let mut answer = format!("<iq xmlns='{NS_CLIENT}' type='result'");
    for (name, value) in [("to", stanza_from), ("from", stanza_to), ("id", Some(id))] {
        if let Some(value) = value {
            answer += &format!(" {name}='{value}'");
        }
    }
    answer += "></iq>";
    edit::route(&mut out.bytes, from, to, answer.as_bytes());
    out.framed();
}

/// A session that the router itself begins or ends, to tell a user's contacts that he is gone.
fn session(route: &Route<'_>, payload: &Payload<'_>, action: &str, session: Option<Value<'_>>, out: &mut Out) {
    let [Some(to), Some(from), Some(c2s), Some(session)] =
        [route.to, route.from, payload.c2s, session].map(|v| v?.as_str())
    else {
        return;
    };
    let [id, target] = [payload.id, payload.target].map(|v| v?.as_str());
    let extra = SessionExtra {
        id,
        target,
        failed: false,
    };
    edit::session(&mut out.bytes, from, to, action, c2s, session, extra);
    out.framed();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ping_of_the_router_is_answered_and_an_error_is_one() {
        let (mut ping, mut out) = (Vec::new(), Out::default());
        edit::iq_ping(&mut ping, "sm1", "jidmesh.r", "example.net", "jidmesh.r", "7");
        to_router(&ping, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out.bytes).unwrap(),
            "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' to='jidmesh.r' from='sm1'>\
             <iq xmlns='jabber:client' type='result' to='jidmesh.r' from='example.net' id='7'></iq></route>"
        );
        let bounce = String::from_utf8(ping)
            .unwrap()
            .replacen("<route", "<route error='404'", 1);
        assert!(to_router(bounce.as_bytes(), &mut Out::default()).is_err());
        assert!(
            to_router(
                b"<presence xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='x'/>",
                &mut Out::default()
            )
            .is_ok()
        );
    }
}
