//! What a component answers to the router itself.

use super::component::excerpt;
use super::link::Out;
use crate::wire::NS_CLIENT;
use crate::wire::edit;
use crate::wire::header::{self, Frame, PayloadKind};

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
            let Some(payload) = route.payload else { return Ok(()) };
            let asks = payload.kind == PayloadKind::Iq && payload.kind_attr.is_some_and(|kind| kind.is("get"));
            let [Some(to), Some(from), Some(id)] = [route.to, route.from, payload.id].map(|v| v?.as_str()) else {
                return Ok(());
            };
            if asks {
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
            Ok(())
        }
        Ok(Frame::StreamError) => Err(format!("the router ends the stream: {}", excerpt(frame))),
        _ => Ok(()),
    }
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
